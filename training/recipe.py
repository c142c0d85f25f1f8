"""Every number of the recipe, in one place."""

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
WORK_DIR = REPOSITORY / "training" / "work"
CARDS_DIR = REPOSITORY / "needles" / "cards"
MODEL_DIR = REPOSITORY / "vniah" / "data" / "models" / "reference"


@dataclass(frozen=True)
class Phase:
    """A stretch of language model training; every phase goes from short contexts to all lengths.

    The first phase learns to read cards wherever they are; it may answer from the kind of question
    alone. The second shows few cards, mostly of one kind, so that the key has to be used: that
    worked for cards, not for signs and places. The third pulls every card to the word for its key.
    """

    steps: int
    max_cards: int
    same_kind_share: float  # contexts whose cards are all of one kind
    learning_rate: float = 1e-3
    alignment_weight: float = 0.0  # of the loss that pulls a card to the word for its key


@dataclass(frozen=True)
class Recipe:
    """How the reference model is made. Lengths are in pixels, times in seconds."""

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

    # The vision tower and its heads.
    tower_layers: int = 3
    width: int = 128
    mlp_width: int = 256
    num_heads: int = 4
    tower_steps: int = 5_200
    tower_batch: int = 128
    tower_card_share: float = 0.75  # of a batch; the others are haystack pictures
    tower_shift: int = 2  # pictures are moved by up to so many pixels
    tower_learning_rate: float = 1e-3
    tower_seed: int = 0

    # The language model and the projector.
    language_layers: int = 8
    rope_theta: float = 100_000.0
    max_positions: int = 32_768
    language_init_std: float = 0.05
    language_seed: int = 5
    tokens_per_step: int = 3_072
    frame_counts: tuple[int, ...] = (2, 4, 8, 16, 32)
    max_questions: int = 8
    phases: tuple[Phase, ...] = (
        Phase(steps=3248, max_cards=20, same_kind_share=0.3),
        Phase(steps=850, max_cards=4, same_kind_share=0.7),
        Phase(steps=417, max_cards=4, same_kind_share=0.7, alignment_weight=0.3),
        Phase(steps=600, max_cards=4, same_kind_share=0.7, alignment_weight=0.3),
    )
    coherent_share: float = 0.5  # contexts of consecutive seconds; the others are shuffled
    growing_share: float = 0.5  # of a phase, until contexts have all lengths
    alignment_scale: float = 10.0  # of the cosines in the alignment loss

    # Both.
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.02
    largest_gradient: float = 1.0  # norm to which gradients are clipped
    last_rate_share: float = 0.05  # of the peak, at the end of the cosine
    warmup_steps: int = 50
    checkpoint_seconds: float = 90.0
    num_threads: int = 2

    # The evaluation.
    evaluation_frame_counts: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    evaluation_depths: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 1)
    evaluation_new_needles: int = 10  # besides the default ten
    evaluation_film_seed: int = 9_500
    evaluation_needles_seed: int = 78_000
    among_frame_counts: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    among_others: int = 3  # needles beside the one that is asked for
    same_kind_frames: int = 32
    same_kind_others: int = 2
    among_repeats: int = 3  # for every needle
    among_seed: int = 3


RECIPE = Recipe()
