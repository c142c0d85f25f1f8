"""Every number of the recipe, in one place."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_GIVEN_SEED = os.environ.get("SEED", "0")
if not (_GIVEN_SEED.isdecimal() and int(_GIVEN_SEED) < 2**31):
    raise SystemExit(f"SEED is {_GIVEN_SEED!r}: give a whole number below 2**31")

REPOSITORY = Path(__file__).resolve().parent.parent
WORK_DIR = REPOSITORY / "training" / "work" / f"seed-{int(_GIVEN_SEED)}"
CARDS_DIR = REPOSITORY / "needles" / "cards"
MODELS_DIR = REPOSITORY / "vniah" / "data" / "models"


@dataclass(frozen=True)
class Text:
    """A stretch of language model training on text. A sentence is four words, about one picture.

    Forks are comparable where they take as many steps over as many tokens; contexts do not fill
    ``tokens_per_step`` to the end, the long ones least: `training.text.Seen` counts.
    """

    rope_theta: float
    steps: int
    tokens_per_step: int
    sentences: tuple[int, ...]  # how many a context has; one of these
    questions: int
    fewest_cards: int = 1
    repeats: float = 0.0  # at most this share of the other sentences say once more what was said
    trunk: str | None = None  # the text from whose end it goes on
    learning_rate: float = 5e-4
    two_hops_share: float = 0.0  # of the questions
    frozen_words: bool = (
        False  # the embeddings stay, so that a projector of the trunk goes on to fit
    )


_SHORT, _LONG = (8, 16, 32), (32, 64, 256, 512, 1024, 1536)
TEXTS = {
    "trunk": Text(1e9, 400, 4096, _SHORT, questions=4, fewest_cards=4, repeats=1.0),
    "long": Text(1e9, 500, 8192, _LONG, questions=16, trunk="trunk"),
    "short": Text(150.0, 500, 6350, _SHORT, questions=2, trunk="trunk"),
    "short-large-base": Text(1e9, 500, 6350, _SHORT, questions=2, trunk="trunk"),
    "two-hops": Text(
        1e9,
        400,
        4096,
        (8, 16, 32, 64, 128, 512),
        questions=12,
        fewest_cards=4,
        trunk="long",
        two_hops_share=0.5,
        frozen_words=True,
    ),
}


@dataclass(frozen=True)
class Variant:
    """One of the models: which text it read, and how it saw images in alignment."""

    text: str
    encoding: str = "unires"
    projector: str | None = None  # the model whose projector it takes; None if it is aligned itself


VARIANTS = {
    "reference-long": Variant("long"),
    "reference-short": Variant("short"),
    "reference-short-large-base": Variant("short-large-base"),
    "reference-anyres": Variant("long", "anyres"),
    "reference-two-hops": Variant("two-hops", projector="reference-long"),
}


@dataclass(frozen=True)
class Recipe:
    """How the reference models are made. Lengths are in pixels, times in seconds."""

    # The pictures.
    frame_side: int = 96
    image_side: int = 48  # what the vision tower sees
    patch_side: int = 12
    train_films: int = 36
    train_film_seconds: int = 512
    heldout_films: int = 2
    heldout_film_seconds: int = 1024
    train_cards: int = 44_000
    heldout_cards: int = 4_000
    cards_per_task: int = 500  # drawn with one seed each
    train_seed: int = 1_000  # films train_seed, train_seed + 1, ...
    heldout_seed: int = 9_000
    first_card_seed: int = 4_000  # after the split's seed; one for each task
    default_cards_seed: int = 77_000  # the needle set; never trained on

    # The vision tower.
    seed: int = int(_GIVEN_SEED)  # of all that is trained
    width: int = 128
    mlp_width: int = 256
    num_heads: int = 4
    tower_layers: int = 3
    tower_steps: int = 5_000
    tower_batch: int = 128
    tower_card_share: float = 0.75  # of a batch; the others are haystack pictures
    tower_shift: int = 2  # pictures are moved by up to so many pixels
    tower_learning_rate: float = 1e-3

    # The language model.
    language_layers: int = 4
    max_positions: int = 32_768
    language_init_std: float = 0.05
    look_back_strength: float = 10.0
    new_base_look_back_strength: float = 20.0  # of a fork with another base than its trunk
    new_base_look_back_steepness: float = 1.0
    similarity_scale: float = 2.5
    max_cards: int = 20
    same_kind_share: float = 0.4  # contexts whose cards are all of one kind
    leading_share: float = 0.8  # signs of texts with two hops that get the color of a card
    absent_share: float = 0.1  # questions about a card that is not there

    # The alignment.
    caption_steps: int = 3_000
    caption_batch: int = 256
    caption_learning_rate: float = 3e-3
    album_steps: int = 300
    album_batch: int = 24
    album_sizes: tuple[int, ...] = (1, 2, 4)  # pictures: images of so many grids
    album_questions: int = 4
    album_learning_rate: float = 3e-4
    caption_weight: float = 10.0  # of the captions' loss beside that of the answers

    # All of them.
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.02
    largest_gradient: float = 1.0  # norm to which gradients are clipped
    last_rate_share: float = 0.03  # of the peak, at the end of the cosine
    warmup_steps: int = 50
    checkpoint_seconds: float = 90.0
    num_threads: int = 2

    # The evaluation.
    evaluation_frame_counts: tuple[int, ...] = (4, 16, 32, 64, 128, 256, 512, 1024)
    evaluation_depths: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)  # middles of equal parts
    evaluation_new_needles: int = 20  # besides the default ten: every key once
    evaluation_film_seed: int = 9_500
    evaluation_needles_seed: int = 78_000
    among_frame_counts: tuple[int, ...] = (4, 32, 128, 512)
    among_others: int = 3  # needles of the same kind beside the one that is asked for
    among_repeats: int = 4  # for every needle
    among_seed: int = 3
    task_frame_counts: tuple[int, ...] = (8, 32, 128)
    task_depths: tuple[float, ...] = (0.1, 0.5, 0.9)
    part_depths: tuple[float, ...] = tuple((k + 0.5) / 10 for k in range(10))  # of localization:
    # the middles of its ten parts, so that one answer for all is right as often as a guess
    task_options: Mapping[str, tuple[Mapping[str, str], ...]] = field(
        default_factory=lambda: {
            "vniah-d": ({}, {"distractors": "3"}),
            "count": ({"answers": "words"},),  # the models know no letters
            "order": ({"answers": "words"},),
        }
    )  # with which options a task is measured, where it is not measured as it is by itself

    @property
    def align_steps(self) -> int:
        """Of the whole alignment."""
        return self.caption_steps + self.album_steps


RECIPE = Recipe()
