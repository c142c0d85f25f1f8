"""Stage 2: trains the vision tower to name what is on a card: `python -m training.tower`.

It stands in for the pre-training of a real CLIP tower: three linear heads on the mean patch read
the key (or "no card") and the values. The heads are thrown away; the features are cached.
"""

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPVisionModel

from training.draw import VALUES, Pictures
from training.network import make_tower, patch_features
from training.optimization import Checkpoint, learning_rate, load_modules, make_optimizer, take_step
from training.recipe import RECIPE, WORK_DIR
from training.world import KEYS

CHECKPOINT = WORK_DIR / "tower.pt"
_NO_KEY = len(KEYS)
_IGNORED = -1


def make_heads() -> nn.ModuleList:
    """One head each for the key, the first value and the second value."""
    sizes = (len(KEYS) + 1, len(VALUES), 10)
    return nn.ModuleList([nn.Linear(RECIPE.width, size) for size in sizes])


def sample_batch(
    pictures: Pictures, rng: np.random.Generator, *, count: int
) -> tuple[Tensor, Tensor]:
    """Cards, then haystack pictures: uint8 [count, side, side, 3] and labels [count, 3]."""
    chosen = rng.integers(0, len(pictures.cards), int(count * RECIPE.tower_card_share))
    films, seconds = pictures.haystack.shape[:2]
    plain = rng.integers(0, films * seconds, count - len(chosen))
    images = [pictures.cards[chosen], pictures.haystack[plain // seconds, plain % seconds]]
    none = np.array([[_NO_KEY, _IGNORED, _IGNORED]]).repeat(len(plain), 0)
    labels = np.concatenate([pictures.labels[chosen], none])
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(labels)


def _scores(tower: CLIPVisionModel, heads: nn.ModuleList, images: Tensor) -> list[Tensor]:
    mean = patch_features(tower, images).mean(1)
    return [head(mean) for head in heads]


@torch.no_grad()
def evaluate(tower: CLIPVisionModel, heads: nn.ModuleList, pictures: Pictures) -> list[float]:
    """Shares of 2,048 pictures with the right key, first value, second value, and all of them."""
    rng = np.random.default_rng(5)
    right = []
    for _ in range(16):
        images, labels = sample_batch(pictures, rng, count=128)
        guesses = [scores.argmax(1) for scores in _scores(tower, heads, images)]
        parts = torch.stack(guesses, 1).eq(labels) | labels.eq(_IGNORED)
        right.append(torch.cat([parts, parts.all(1, keepdim=True)], 1).float())
    return [round(share, 4) for share in torch.cat(right).mean(0).tolist()]


def train() -> None:
    """Trains to the end, from the last checkpoint on."""
    torch.manual_seed(RECIPE.tower_seed)
    pictures, heldout = Pictures.load("train"), Pictures.load("heldout")
    tower, heads = make_tower(), make_heads()
    optimizer = make_optimizer([tower, heads], learning_rate=RECIPE.tower_learning_rate)
    checkpoint = Checkpoint(CHECKPOINT, {"tower": tower, "heads": heads}, optimizer)
    start, steps = checkpoint.restore(), RECIPE.tower_steps
    rng = np.random.default_rng([RECIPE.tower_seed, start])
    progress = tqdm(range(start, steps), initial=start, total=steps, desc="tower")
    for step in progress:
        images, labels = sample_batch(pictures, rng, count=RECIPE.tower_batch)
        shift = rng.integers(-RECIPE.tower_shift, RECIPE.tower_shift + 1, 2)
        images = torch.roll(images, tuple(shift.tolist()), (1, 2))
        scores = _scores(tower, heads, images)
        losses = [
            functional.cross_entropy(score, labels[:, part], ignore_index=_IGNORED)
            for part, score in enumerate(scores)
        ]
        loss = torch.stack(losses).sum()
        rate = learning_rate(step, steps=steps, peak=RECIPE.tower_learning_rate)
        take_step(optimizer, loss, rate=rate)
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        checkpoint.save_when_due(step + 1)
        if (step + 1) % 500 == 0:
            tqdm.write(
                f"step {step + 1}: key, value 1, value 2, all: {evaluate(tower, heads, heldout)}"
            )
    checkpoint.save(steps)


@torch.no_grad()
def cache_features() -> None:
    """Writes the features of all pictures, float16, to ``features-<split>.pt``."""
    tower = make_tower().eval()
    load_modules(CHECKPOINT, {"tower": tower})
    for split in ("heldout", "train"):
        pictures = Pictures.load(split)
        films, seconds = pictures.haystack.shape[:2]
        stacks = {"haystack": pictures.haystack.reshape(-1, *pictures.cards.shape[1:])}
        stacks["cards"] = pictures.cards
        features = {}
        for name, stack in stacks.items():
            chunks = torch.from_numpy(stack).split(512)
            read = [patch_features(tower, chunk).half() for chunk in tqdm(chunks, desc=split)]
            features[name] = torch.cat(read)
        features["haystack"] = features["haystack"].unflatten(0, (films, seconds))
        features["labels"] = torch.from_numpy(pictures.labels)
        torch.save(features, WORK_DIR / f"features-{split}.pt")


def main() -> None:
    """Trains the tower and caches its features."""
    torch.set_num_threads(RECIPE.num_threads)
    train()
    cache_features()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
