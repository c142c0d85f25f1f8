"""Stage 5: V-NIAH of the exported checkpoint, and its model card: `python -m training.evaluate`.

Measured by the harness itself: `vniah.run_sweep` with one needle, on a film that training never
saw, through H.264. With several needles in the video, vniah's caches, `compose` and
`score_sequence`. Needles: the default ten, then newly drawn ones.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from tqdm import tqdm

import vniah
from training.draw_cards import CARDS
from training.export import write_atomically
from training.model_card import model_card
from training.recipe import CARDS_DIR, MODEL_DIR, RECIPE, WORK_DIR
from training.tokens import vocabulary
from training.world import KINDS, Card, draw_card, random_card
from vniah.embeddings import FrameStore, encode_haystack, encode_needles
from vniah.grid import format_depth
from vniah.haystacks import Haystack, make_haystack
from vniah.models.protocol import DecoderModel, FrameSegment
from vniah.needles import Needle, NeedleSet
from vniah.results import Results
from vniah.scoring import score_sequence


def unseen_film(seconds: int) -> Haystack:
    """A film that training never saw, in ``training/work``."""
    WORK_DIR.mkdir(parents=True, exist_ok=True)
    path = WORK_DIR / "heldout.mp4"
    make_haystack(path, seconds=seconds, seed=RECIPE.evaluation_film_seed, overwrite=True)
    return vniah.open_haystack(path)


def draw_needles(num_new: int) -> tuple[NeedleSet, list[Card]]:
    """The default set as it lies in the repository, then ``num_new`` newly drawn ones."""
    needles, cards = list(vniah.load_needles(CARDS_DIR)), list(CARDS)
    seed = RECIPE.evaluation_needles_seed
    rng = np.random.default_rng(seed)
    for number in range(num_new):
        card = random_card(rng)
        image = draw_card(card, rng, film_seed=seed)
        needle_id = f"new-{number}-{card.needle_id}"
        needles.append(Needle(needle_id, card.question, card.answer, None, image))
        cards.append(card)
    return NeedleSet("evaluation", str(CARDS_DIR), tuple(needles)), cards


@dataclass(frozen=True)
class Trial:
    """The exported model, an unseen film, and what is hidden in it."""

    model: DecoderModel
    haystack: Haystack
    needles: NeedleSet
    cards: list[Card]  # of the needles, in their order
    cache: Path  # folder for embeddings

    @classmethod
    def prepare(cls, *, seconds: int, num_new: int, cache: Path) -> "Trial":
        """Loads the checkpoint folder and draws what it looks at."""
        model = vniah.load_model(MODEL_DIR, dtype="float32", device="cpu")
        assert isinstance(model, DecoderModel)
        return cls(model, unseen_film(seconds), *draw_needles(num_new), cache)

    def alone(self, frame_counts: Sequence[int]) -> Results:
        """A sweep with one needle in the video; its samples stay in ``training/work``."""
        grid = vniah.Grid.of(frame_counts, RECIPE.evaluation_depths)
        with closing(tqdm()) as progress:

            def show(stage: str, done: int, total: int) -> None:
                progress.desc, progress.total = stage, total
                progress.update(done - progress.n)

            results = vniah.run_sweep(
                self.model,
                self.haystack,
                self.needles,
                grid,
                output=WORK_DIR / "evaluation",
                cache=self.cache / "haystack",
                overwrite=True,
                on_progress=show,
            )
        if errors := [sample.error for sample in results.samples if sample.error is not None]:
            raise RuntimeError(f"{len(errors)} samples could not be run, the first: {errors[0]}")
        return results

    def among(self, num_frames: int, *, num_others: int, kind: str = "") -> list[bool]:
        """Right or wrong with needles of other keys in the video, several times a needle.

        They replace haystack frames. With ``kind`` only needles of this kind are asked for and
        shown.
        """
        haystack = encode_haystack(
            self.model, self.haystack, num_frames, directory=self.cache / "haystack"
        )
        needles = encode_needles(self.model, self.needles, directory=self.cache / "needles")
        store = FrameStore({"haystack": (haystack, 0), "needles": (needles, 0)})
        rng = np.random.default_rng(RECIPE.among_seed)
        usable = [i for i, card in enumerate(self.cards) if kind in ("", card.kind)]
        right = []
        for asked in usable * RECIPE.among_repeats:
            shown = self._choose(asked, rng.permutation(usable).tolist(), num_others=num_others)
            frames = [FrameSegment("haystack", index) for index in range(num_frames)]
            places = rng.permutation(num_frames)[: len(shown)].tolist()
            for place, needle in zip(places, shown, strict=True):
                frames[place] = FrameSegment("needles", needle)
            card = self.cards[asked]
            sequence = self.model.compose(frames, card.question, card.answer)
            right.append(score_sequence(self.model, sequence, store).correct)
        return right

    def _choose(self, asked: int, others: list[int], *, num_others: int) -> list[int]:
        """``asked`` and the first of the others that have keys of their own."""
        keys, shown = {self.cards[asked].key_index}, [asked]
        for other in others:
            if len(shown) <= num_others and self.cards[other].key_index not in keys:
                keys.add(self.cards[other].key_index)
                shown.append(other)
        return shown


def _share(right: Sequence[bool | None]) -> float:
    return sum(map(bool, right)) / len(right)


def table(results: Results, *, tokens_per_frame: int) -> str:
    """A sweep as a Markdown table, one line for each frame count."""
    depths = sorted({sample.depth for sample in results.samples})
    default = {card.needle_id for card in CARDS}
    first, *others = map(format_depth, depths)
    heads = ["frames (visual tokens)", f"depth {first}", *others, "mean (n)", "default ten (n)"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for num_frames in sorted({sample.num_frames for sample in results.samples}):
        samples = [sample for sample in results.samples if sample.num_frames == num_frames]
        every = [sample.correct for sample in samples]
        ten = [sample.correct for sample in samples if sample.needle_id in default]
        cells = [f"{num_frames} ({tokens_per_frame * num_frames})"]
        for depth in depths:
            cells.append(f"{_share([s.correct for s in samples if s.depth == depth]):.2f}")
        cells += [f"{_share(every):.3f} ({len(every)})", f"{_share(ten):.2f} ({len(ten)})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def describe_among(trial: Trial, frame_counts: Sequence[int]) -> str:
    """Two paragraphs: scores with any other needles, and with others of the same kind."""
    num_any, num_same = RECIPE.among_others, RECIPE.same_kind_others
    lines = []
    if frame_counts:
        shares = []
        for count in tqdm(frame_counts, desc="among others"):
            right = trial.among(count, num_others=num_any)
            shares.append(f"{_share(right):.2f} at {count} frames")
        lines += [
            f"With {num_any} other needles in the video (n = {len(right)} each): "
            f"{', '.join(shares)}.",
            "",
        ]
    num_frames = RECIPE.same_kind_frames
    lines.append(
        f"With {num_same} others of its kind in {num_frames} frames, where only the key tells "
        "which one is meant:"
    )
    for kind in KINDS:
        right = trial.among(num_frames, num_others=num_same, kind=kind)
        lines.append(f"{kind} {_share(right):.2f} (n = {len(right)}),")
    return "\n".join(lines).rstrip(",") + ".\n"


def measure(frame_counts: Sequence[int], *, num_new: int) -> tuple[str, str]:
    """The table of a sweep, and what `describe_among` says of lengths up to its longest."""
    torch.set_num_threads(RECIPE.num_threads)
    seconds = max(*frame_counts, RECIPE.same_kind_frames)
    with tempfile.TemporaryDirectory() as cache:
        trial = Trial.prepare(seconds=seconds, num_new=num_new, cache=Path(cache))
        results = trial.alone(frame_counts)
        scores = table(results, tokens_per_frame=trial.model.frame_shape[0])
        longest = max(frame_counts)
        among = describe_among(trial, [n for n in RECIPE.among_frame_counts if n <= longest])
    print(f"{scores}\n\n{among}")
    return scores, among


def run() -> None:
    """Measures what the recipe says, and writes the README of the checkpoint folder."""
    scores, among = measure(RECIPE.evaluation_frame_counts, num_new=RECIPE.evaluation_new_needles)
    with safe_open(MODEL_DIR / "model.safetensors", "pt") as weights:
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    text = model_card(scores, among, parameters=parameters, words=len(vocabulary()))
    write_atomically(MODEL_DIR / "README.md", text.encode())


def main() -> None:
    """As `run`; with other numbers than the recipe's it prints the scores only."""
    parser = argparse.ArgumentParser(
        description="V-NIAH of the exported checkpoint; writes its model card, unless an option "
        "is given."
    )
    parser.add_argument("--frames", type=int, nargs="+", metavar="N")
    parser.add_argument("--new-needles", type=int, metavar="N", help="besides the default ten")
    given = parser.parse_args()
    if given.frames is None and given.new_needles is None:
        run()
        return
    num_new = RECIPE.evaluation_new_needles if given.new_needles is None else given.new_needles
    measure(given.frames or RECIPE.evaluation_frame_counts, num_new=num_new)


if __name__ == "__main__":
    main()
