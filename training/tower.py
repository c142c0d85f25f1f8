"""Stage 2: trains the vision tower to name what is in a picture: `python -m training.tower`.

It stands in for the pre-training of a real CLIP tower. A linear head reads the four words of the
caption from the four tokens of a picture, one each. The head is thrown away; the features are
cached.
"""

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPVisionModel

from training.draw import Pictures, caption_scenery
from training.network import make_tower, patch_features, pool
from training.optimization import Checkpoint, learning_rate, load_modules, make_optimizer, take_step
from training.recipe import RECIPE, WORK_DIR
from training.tokens import vocabulary
from vniah.files import atomic_path

CHECKPOINT = WORK_DIR / "tower.pt"
_HELDOUT_PICTURES = 2048


def sample_batch(
    pictures: Pictures, rng: np.random.Generator, *, count: int
) -> tuple[Tensor, Tensor]:
    """Cards, then haystack pictures: uint8 [count, side, side, 3], and captions [count, 4]."""
    chosen = rng.integers(0, len(pictures.cards), int(count * RECIPE.tower_card_share))
    films, seconds = pictures.haystack.shape[:2]
    plain = rng.integers(0, films * seconds, count - len(chosen))
    scenery = pictures.haystack[plain // seconds, plain % seconds]
    images = np.concatenate([pictures.cards[chosen], scenery])
    captions = np.concatenate([pictures.card_captions[chosen], caption_scenery(scenery)])
    return torch.from_numpy(images), torch.from_numpy(captions)


@torch.no_grad()
def evaluate(tower: CLIPVisionModel, head: nn.Linear, pictures: Pictures) -> str:
    """How often the words of cards, all four of them, and the first word of scenery are right."""
    rng = np.random.default_rng([RECIPE.seed, 5])
    right = []
    for _ in range(_HELDOUT_PICTURES // RECIPE.tower_batch):
        images, captions = sample_batch(pictures, rng, count=RECIPE.tower_batch)
        right.append(head(pool(patch_features(tower, images))).argmax(-1) == captions)
    cards = int(RECIPE.tower_batch * RECIPE.tower_card_share)
    words = torch.cat([batch[:cards] for batch in right]).float()
    scenery = torch.cat([batch[cards:, 0] for batch in right]).float()
    kind, key, first, second = words.mean(0).tolist()
    return (
        f"kind {kind:.4f}, key {key:.4f}, value {first:.4f} and {second:.4f}, "
        f"all {words.all(1).float().mean():.4f}; scenery {scenery.mean():.4f}"
    )


def train() -> None:
    """Trains to the end, from the last checkpoint on."""
    torch.manual_seed(RECIPE.seed)
    pictures, heldout = Pictures.load("train"), Pictures.load("heldout")
    tower, head = make_tower(), nn.Linear(RECIPE.width, len(vocabulary()))
    optimizer = make_optimizer([tower, head], learning_rate=RECIPE.tower_learning_rate)
    checkpoint = Checkpoint(CHECKPOINT, {"tower": tower, "head": head}, optimizer)
    start, steps = checkpoint.restore(), RECIPE.tower_steps
    progress = tqdm(range(start, steps), initial=start, total=steps, desc="tower")
    for step in progress:
        rng = np.random.default_rng([RECIPE.seed, step])
        images, captions = sample_batch(pictures, rng, count=RECIPE.tower_batch)
        shift = rng.integers(-RECIPE.tower_shift, RECIPE.tower_shift + 1, 2)
        images = torch.roll(images, tuple(shift.tolist()), (1, 2))
        words = head(pool(patch_features(tower, images)))
        loss = functional.cross_entropy(words.flatten(0, 1), captions.flatten())
        rate = learning_rate(step, steps=steps, peak=RECIPE.tower_learning_rate)
        take_step(optimizer, loss, rate=rate)
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        checkpoint.save_when_due(step + 1)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            tqdm.write(f"step {step + 1}: held-out {evaluate(tower, head, heldout)}")
    if start < steps:
        checkpoint.save(steps)


@torch.no_grad()
def cache_features() -> None:
    """Writes features and captions of all pictures, float16, to ``features-<split>.pt``."""
    tower = make_tower().eval()
    load_modules(CHECKPOINT, {"tower": tower}, steps=RECIPE.tower_steps)
    for split in ("heldout", "train"):
        pictures = Pictures.load(split)
        scenery = pictures.haystack.reshape(-1, *pictures.cards.shape[1:])
        features = {}
        for name, stack in (("cards", pictures.cards), ("scenery", scenery)):
            chunks = torch.from_numpy(stack).split(512)
            read = [patch_features(tower, chunk).half() for chunk in tqdm(chunks, desc=split)]
            features[name] = torch.cat(read)
        features["labels"] = torch.from_numpy(pictures.labels)
        features["card_captions"] = torch.from_numpy(pictures.card_captions)
        features["scenery_captions"] = torch.from_numpy(caption_scenery(scenery))
        path = WORK_DIR / f"features-{split}.pt"
        with atomic_path(path) as unfinished:
            torch.save(features, unfinished)


def main() -> None:
    """Trains the tower and caches its features."""
    torch.set_num_threads(RECIPE.num_threads)
    train()
    cache_features()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
