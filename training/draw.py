"""Stage 1: draws the training and held-out pictures: `python -m training.draw`.

Haystack pictures are seconds of really encoded and decoded films; needles are drawn over other
films.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from training.recipe import RECIPE, WORK_DIR
from training.tokens import encode_captions
from training.world import (
    COLORS,
    DIGITS,
    KEYS,
    Card,
    draw_card,
    random_card,
    scenery_captions,
)
from vniah.files import atomic_path
from vniah.haystacks.synthetic import write_video

VALUES = (*DIGITS, *COLORS)


@dataclass(frozen=True)
class Pictures:
    """Pictures as the vision tower gets them, with the labels of the cards."""

    haystack: np.ndarray  # uint8 [num_films, seconds, side, side, 3]
    cards: np.ndarray  # uint8 [num_cards, side, side, 3]
    labels: np.ndarray  # int64 [num_cards, 3]: key, first value, second value or -1

    @classmethod
    def load(cls, split: str) -> "Pictures":
        """Reads what this stage has drawn."""
        with np.load(WORK_DIR / f"{split}.npz") as arrays:
            return cls(arrays["haystack"], arrays["cards"], arrays["labels"])

    @cached_property
    def card_captions(self) -> np.ndarray:
        """What the cards show, int64 [num_cards, 4]."""
        return encode_captions([card_of(row).caption for row in self.labels.tolist()])

    def pick(self, chosen: np.ndarray) -> np.ndarray:
        """Cards by index, and scenery ``i`` of all films as ``-1 - i``, in the shape of chosen."""
        scenery = self.haystack.reshape(-1, *self.cards.shape[1:])
        picked = self.cards[np.maximum(chosen, 0)]
        plain = chosen < 0
        picked[plain] = scenery[-1 - chosen[plain]]
        return picked


def caption_scenery(pictures: np.ndarray) -> np.ndarray:
    """What pictures without a card show, uint8 [n, side, side, 3] to int64 [n, 4]."""
    return encode_captions(scenery_captions(pictures))


def shrink(image: Image.Image) -> np.ndarray:
    """The picture at the size of the vision tower, uint8 [side, side, 3]."""
    side = RECIPE.image_side
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def label(card: Card) -> tuple[int, int, int]:
    """(key, first value, second value or -1) as class numbers."""
    if card.kind == "place":
        return card.key_index, VALUES.index(card.value[0]), VALUES.index(card.value[1])
    return card.key_index, VALUES.index(card.value), -1


def card_of(row: Sequence[int]) -> Card:
    """The card with these class numbers; the opposite of `label`."""
    key, first, second = row
    return Card(*KEYS[key], VALUES[first] + (VALUES[second] if second >= 0 else ""))


def decode_seconds(path: Path, *, fps: int = 8) -> list[np.ndarray]:
    """The picture on screen at every full second, uint8 [height, width, 3]."""
    with av.open(str(path)) as container:
        decoded = enumerate(container.decode(video=0))
        return [frame.to_ndarray(format="rgb24") for index, frame in decoded if index % fps == 0]


def _film(task: tuple[int, int]) -> np.ndarray:
    """[seconds, side, side, 3] of one film, through H.264."""
    seed, seconds = task
    path = WORK_DIR / f"film-{seed}-{os.getpid()}.mp4"
    write_video(path, seed=seed, seconds=seconds)
    pictures = np.stack([shrink(Image.fromarray(pixels)) for pixels in decode_seconds(path)])
    path.unlink()
    return pictures


def _cards(task: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    seed, count = task
    rng = np.random.default_rng(seed)
    cards = [random_card(rng) for _ in range(count)]
    pictures = [shrink(draw_card(card, rng, film_seed=seed)) for card in cards]
    return np.stack(pictures), np.array([label(card) for card in cards])


def card_tasks(cards: int, *, seed: int) -> list[tuple[int, int]]:
    """(seed, number of cards) of every task; the last one draws what is left.

    >>> card_tasks(1_200, seed=1_000)
    [(5000, 500), (5001, 500), (5002, 200)]
    """
    if cards < 1:
        raise ValueError(f"a split needs at least one card, got {cards}: change recipe.py")
    size, first = RECIPE.cards_per_task, seed + RECIPE.first_card_seed
    starts = range(0, cards, size)
    return [(first + i, min(size, cards - start)) for i, start in enumerate(starts)]


def _run(work: Callable, tasks: list[tuple[int, int]], what: str) -> list:
    with ProcessPoolExecutor(RECIPE.num_threads) as pool:
        return list(tqdm(pool.map(work, tasks), total=len(tasks), desc=what))


def draw_split(split: str, *, seed: int, films: int, seconds: int, cards: int) -> None:
    """Draws one split into ``training/work``, unless it is there."""
    path = WORK_DIR / f"{split}.npz"
    if path.exists():
        print(f"{path} exists")
        return
    tasks = card_tasks(cards, seed=seed)
    WORK_DIR.mkdir(parents=True, exist_ok=True)
    haystack = np.stack(_run(_film, [(seed + i, seconds) for i in range(films)], f"{split} films"))
    drawn = _run(_cards, tasks, f"{split} cards")
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        pictures, labels = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        np.savez(file, haystack=haystack, cards=pictures, labels=labels)


def main() -> None:
    """Draws both splits."""
    draw_split(
        "heldout",
        seed=RECIPE.heldout_seed,
        films=RECIPE.heldout_films,
        seconds=RECIPE.heldout_film_seconds,
        cards=RECIPE.heldout_cards,
    )
    draw_split(
        "train",
        seed=RECIPE.train_seed,
        films=RECIPE.train_films,
        seconds=RECIPE.train_film_seconds,
        cards=RECIPE.train_cards,
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
