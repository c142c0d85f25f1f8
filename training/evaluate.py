"""Stage 6: V-NIAH of the checkpoints, and their model cards: `python -m training.evaluate [MODEL]`.

Measured by the harness itself: `vniah.run_sweep` with one needle, on a film that training never
saw, through H.264. With several needles in the video, or none, vniah's caches, `compose` and
`score_sequence`. Needles: the default ten, then newly drawn ones.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from tqdm import tqdm

import vniah
from training.arguments import add_names
from training.draw_cards import CARDS
from training.model_card import model_card
from training.recipe import CARDS_DIR, MODELS_DIR, RECIPE, TEXTS, VARIANTS, WORK_DIR
from training.tables import Tables, share, table, with_interval
from training.tasks import control_table, measure_tasks, task_table, verdict_table
from training.text import Seen
from training.tokens import vocabulary
from training.world import KEYS, KINDS, NOTHING, Card, draw_card, random_value
from vniah.embeddings.cache import FrameStore
from vniah.embeddings.encode import encode_haystack, encode_needles
from vniah.engines.inputs import decoder_logits
from vniah.files import atomic_path
from vniah.haystacks.haystack import Haystack
from vniah.needles import Needle, NeedleSet
from vniah.protocol import DecoderModel, FrameSegment
from vniah.results import Results
from vniah.scoring import score_logits


def unseen_film(seconds: int) -> Haystack:
    """A film that training never saw, drawn once for all models."""
    return vniah.generated_haystack(seconds, seed=RECIPE.evaluation_film_seed)


def draw_needles(num_new: int) -> tuple[NeedleSet, list[Card]]:
    """The default set as it lies in the repository, then ``num_new`` newly drawn ones.

    The new ones take all keys in turn, so that as many as there are keys have every key once.
    """
    default = vniah.load_needles(CARDS_DIR)
    needles, cards = list(default), list(CARDS)
    seed = RECIPE.evaluation_needles_seed
    rng = np.random.default_rng(seed)
    for number in range(num_new):
        kind, key = KEYS[number % len(KEYS)]
        card = Card(kind, key, random_value(kind, rng))
        image = draw_card(card, rng, film_seed=seed)
        needle_id = f"new-{number}-{card.needle_id}"
        needles.append(Needle(needle_id, card.question, card.answer, None, image))
        cards.append(card)
    return replace(default, name="evaluation", needles=tuple(needles)), cards


@dataclass(frozen=True)
class Trial:
    """An exported model, an unseen film, and what is hidden in it."""

    name: str
    model: DecoderModel
    haystack: Haystack
    needles: NeedleSet
    cards: list[Card]  # of the needles, in their order
    cache: Path  # folder for embeddings

    @classmethod
    def prepare(cls, name: str, *, seconds: int, num_new: int, cache: Path) -> "Trial":
        """Loads the checkpoint folder and draws what it looks at."""
        model = vniah.load_model(MODELS_DIR / name, dtype="float32", device="cpu")
        assert isinstance(model, DecoderModel)
        return cls(name, model, unseen_film(seconds), *draw_needles(num_new), cache)

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
                output=WORK_DIR / "evaluation" / self.name,
                cache=self.cache / "haystack",
                controls="none",
                overwrite=True,
                on_progress=show,
            )
        if errors := [sample.error for sample in results.samples if sample.error is not None]:
            raise RuntimeError(f"{len(errors)} samples could not be run, the first: {errors[0]}")
        return results

    def among(self, num_frames: int, *, kind: str) -> "Among":
        """Asks for needles of a kind, several times each, with others of that kind in the video.

        They replace haystack frames.
        """
        store, rng = self._store(num_frames), np.random.default_rng(RECIPE.among_seed)
        usable = [i for i, card in enumerate(self.cards) if card.kind == kind]
        right, by_kind = [], []
        for asked in usable * RECIPE.among_repeats:
            shown = self._choose(asked, rng.permutation(usable).tolist())
            card = self.cards[asked]
            frames = self._frames(num_frames, shown, rng)
            right.append(self._is_right(store, frames, card.question, card.answer))
            same = [self.cards[other].answer == card.answer for other in shown]
            by_kind.append(sum(same) / len(same))
        return Among(right, sum(by_kind) / len(by_kind))

    def without(self, num_frames: int) -> list[bool]:
        """Whether "nothing" is answered where another needle than the one asked for is shown."""
        store, rng = self._store(num_frames), np.random.default_rng(RECIPE.among_seed)
        right = []
        for asked, card in enumerate(self.cards):
            others = [i for i, other in enumerate(self.cards) if other.key_index != card.key_index]
            shown = [int(rng.choice(others))] if asked % 2 else []
            frames = self._frames(num_frames, shown, rng)
            right.append(self._is_right(store, frames, card.question, NOTHING))
        return right

    def _store(self, num_frames: int) -> FrameStore:
        """The embeddings of so many haystack frames, and of all needles."""
        haystack = encode_haystack(
            self.model, self.haystack, num_frames, directory=self.cache / "haystack"
        )
        needles = encode_needles(self.model, self.needles, directory=self.cache / "needles")
        return FrameStore({"haystack": (haystack, 0), "needles": (needles, 0)})

    def _frames(
        self, num_frames: int, shown: list[int], rng: np.random.Generator
    ) -> list[FrameSegment]:
        """A video in which needles stand in place of some haystack frames."""
        frames = [FrameSegment("haystack", index) for index in range(num_frames)]
        places = rng.permutation(num_frames)[: len(shown)].tolist()
        for place, needle in zip(places, shown, strict=True):
            frames[place] = FrameSegment("needles", needle)
        return frames

    def _is_right(
        self, store: FrameStore, frames: list[FrameSegment], question: str, answer: str
    ) -> bool:
        sequence = self.model.compose(frames, question, answer)
        logits = decoder_logits(self.model, sequence, store)
        return score_logits(logits, sequence.answer_ids).correct

    def _choose(self, asked: int, others: list[int]) -> list[int]:
        """``asked`` and the first of the others that have keys of their own."""
        keys, shown = {self.cards[asked].key_index}, [asked]
        for other in others:
            if len(shown) <= RECIPE.among_others and self.cards[other].key_index not in keys:
                keys.add(self.cards[other].key_index)
                shown.append(other)
        return shown


@dataclass(frozen=True)
class Among:
    """Answers with other needles of the same kind in the video."""

    right: list[bool]
    by_kind: float  # the score of answering with any needle of that kind


def describe_others(trial: Trial, frame_counts: Sequence[int]) -> str:
    """A table of scores among needles of the same kind, and without the needle asked for."""
    kinds = " | ".join(KINDS)
    head = f'| frames | {kinds} | all (95 %, n) | by kind alone | "nothing" (95 %, n) |'
    lines = [head, "|---" * (len(KINDS) + 4) + "|"]
    for count in tqdm(frame_counts, desc=f"{trial.name}: among others"):
        found = [trial.among(count, kind=kind) for kind in KINDS]
        every = [right for among in found for right in among.right]
        by_kind = sum(among.by_kind * len(among.right) for among in found) / len(every)
        nothing = trial.without(count)
        cells = [str(count), *(f"{share(among.right):.2f}" for among in found)]
        cells += [with_interval(every), f"{by_kind:.2f}", with_interval(nothing)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(name: str, frame_counts: Sequence[int], *, num_new: int) -> tuple[str, str]:
    """The table of a sweep, and the one of `describe_others`."""
    torch.set_num_threads(RECIPE.num_threads)
    with tempfile.TemporaryDirectory() as cache:
        trial = Trial.prepare(name, seconds=max(frame_counts), num_new=num_new, cache=Path(cache))
        scores = table(
            trial.alone(frame_counts),
            {n.needle_id: card for n, card in zip(trial.needles, trial.cards, strict=True)},
            tokens_per_frame=trial.model.frame_shape[0],
        )
        counts = [count for count in RECIPE.among_frame_counts if count <= max(frame_counts)]
        others = describe_others(trial, counts)
    print(f"{name}\n\n{scores}\n\n{others}\n")
    return scores, others


def measure_others(name: str) -> tuple[str, str, str]:
    """The tables of all other tasks, of what the controls found, and of their verdicts."""
    torch.set_num_threads(RECIPE.num_threads)
    model = vniah.load_model(MODELS_DIR / name, dtype="float32", device="cpu")
    assert isinstance(model, DecoderModel)
    haystack = unseen_film(max(RECIPE.task_frame_counts))
    measured = measure_tasks(model, haystack, folder=WORK_DIR / "tasks" / name)
    tables = task_table(measured), control_table(measured), verdict_table(measured)
    print("\n\n".join((name, *tables)) + "\n")
    return tables


def write_card(name: str, tables: Tables) -> None:
    """Writes the README of a checkpoint folder."""
    with safe_open(MODELS_DIR / name / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118
    text = model_card(
        name,
        tables,
        seen=Seen.count(TEXTS[VARIANTS[name].text]),
        parameters=sum(math.prod(shape) for shape in shapes),
        words=len(vocabulary()),
    )
    with atomic_path(MODELS_DIR / name / "README.md") as unfinished:
        unfinished.write_bytes(text.encode())


def run(names: Sequence[str] = ()) -> None:
    """Measures what the recipe says, and writes the READMEs of the checkpoint folders."""
    counts, num_new = RECIPE.evaluation_frame_counts, RECIPE.evaluation_new_needles
    for name in names or VARIANTS:
        write_card(name, Tables(*measure(name, counts, num_new=num_new), *measure_others(name)))


def main() -> None:
    """As `run`; with other numbers than the recipe's it prints the scores only."""
    parser = argparse.ArgumentParser(
        description="V-NIAH of the exported checkpoints; writes their model cards, unless an "
        "option is given."
    )
    add_names(parser, VARIANTS, metavar="MODEL")
    parser.add_argument("--frames", type=int, nargs="+", metavar="N")
    parser.add_argument("--new-needles", type=int, metavar="N", help="besides the default ten")
    given = parser.parse_args()
    if (given.new_needles or 0) < 0 or min(given.frames or [1]) < 1:
        parser.error("--frames takes numbers from 1 on, --new-needles numbers from 0 on")
    if given.frames is None and given.new_needles is None:
        run(given.names)
        return
    num_new = RECIPE.evaluation_new_needles if given.new_needles is None else given.new_needles
    for name in given.names or VARIANTS:
        measure(name, given.frames or RECIPE.evaluation_frame_counts, num_new=num_new)


if __name__ == "__main__":
    main()
