"""Stage 4: aligns vision and language on one to four images: `python -m training.align`.

Both stay frozen; only the projector learns. First from single pictures: the four tokens of a
picture are pulled to the embeddings of the four words of its caption. Then from images of one, two
or four pictures side by side, through the language model: it is asked about what they show. UniRes
reads such an image grid by grid, as it reads a video; AnyRes puts a small version of the whole
image before it and reads rows across the grids. No video, and never more than four pictures.
"""

import argparse
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPVisionModel, Qwen2ForCausalLM

from training.arguments import add_names
from training.contexts import Answers, Tokens, ask, choose_keys, read_answers
from training.draw import Pictures, card_of
from training.network import (
    flatten_across,
    make_language_model,
    make_projector,
    make_tower,
    patch_features,
    project,
)
from training.optimization import Checkpoint, learning_rate, load_modules, make_optimizer, take_step
from training.recipe import RECIPE, TEXTS, VARIANTS, WORK_DIR, Variant
from training.text import checkpoint_path as text_path
from training.tokens import OPENING, encode
from training.tower import CHECKPOINT as TOWER
from training.world import KEYS

ALIGNED = tuple(name for name, variant in VARIANTS.items() if variant.projector is None)
_COLUMNS = {1: 1, 2: 2, 4: 2}  # grids side by side, by the number of pictures


@dataclass(frozen=True)
class Features:
    """What the tower made of one split, float16, with captions."""

    cards: Tensor  # [num_cards, patches, width]
    card_captions: Tensor  # int64 [num_cards, 4]
    scenery: Tensor  # [num_pictures, patches, width]
    scenery_captions: Tensor  # int64 [num_pictures, 4]
    labels: np.ndarray  # int64 [num_cards, 3]
    by_key: tuple[np.ndarray, ...]  # for every key the indices of its cards

    @classmethod
    def load(cls, split: str) -> "Features":
        """Reads what stage 2 cached."""
        state = torch.load(WORK_DIR / f"features-{split}.pt", weights_only=True)
        labels = state.pop("labels").numpy()
        by_key = tuple(np.flatnonzero(labels[:, 0] == key) for key in range(len(KEYS)))
        return cls(**state, labels=labels, by_key=by_key)


@dataclass(frozen=True)
class Albums:
    """Pictures in an order, and questions about them."""

    chosen: np.ndarray  # int64 [batch, pictures]: card i is i, scenery picture i is -1 - i
    tokens: Tokens

    def features(self, features: Features) -> Tensor:
        """float32 [batch, pictures, patches, width]."""
        return self._pick(features.cards, features.scenery).float()

    def captions(self, features: Features) -> Tensor:
        """int64 [batch, pictures, 4]."""
        return self._pick(features.card_captions, features.scenery_captions)

    def _pick(self, cards: Tensor, scenery: Tensor) -> Tensor:
        chosen = torch.from_numpy(self.chosen)
        picked = cards[chosen.clamp(min=0)]
        plain = chosen < 0
        picked[plain] = scenery[-1 - chosen[plain]]
        return picked


def sample_albums(
    features: Features,
    rng: np.random.Generator,
    *,
    count: int,
    pictures: int,
    num_cards: int | None = None,
    kind: str = "",
    questions: int = 1,
    absent_share: float = 0.0,
) -> Albums:
    """Albums of equally many pictures.

    Args:
        features: the split to draw from.
        rng: the source of chance.
        count: how many albums.
        pictures: how many in each.
        num_cards: how many of them are cards, each with another key; any number if None.
        kind: if given, all cards are of this kind.
        questions: how many follow.
        absent_share: the share of questions about cards that are not there.
    """
    chosen = -1 - rng.integers(0, len(features.scenery), (count, pictures))
    rows = []
    for album in chosen:
        shown = int(rng.integers(0, pictures + 1)) if num_cards is None else num_cards
        keys = choose_keys(rng, shown, same_kind_share=RECIPE.same_kind_share, kind=kind)
        places = rng.permutation(pictures)[: len(keys)]
        album[places] = [int(rng.choice(features.by_key[key])) for key in keys]
        cards = [card_of(features.labels[index].tolist()) for index in album[places]]
        rows.append(ask(cards, rng, questions=questions, absent_share=absent_share))
    return Albums(chosen, Tokens.stack(rows))


class Aligned:
    """A frozen language model, a frozen tower, and the projector between them."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.model: Qwen2ForCausalLM = make_language_model(TEXTS[variant.text].rope_theta)
        self.tower: CLIPVisionModel = make_tower()
        self.projector: nn.Sequential = make_projector()
        text = TEXTS[variant.text]
        load_modules(text_path(variant.text), {"model": self.model}, steps=text.steps)
        load_modules(TOWER, {"tower": self.tower}, steps=RECIPE.tower_steps)
        self.model.requires_grad_(requires_grad=False)
        self.tower.requires_grad_(requires_grad=False)

    def caption_loss(self, projected: Tensor, captions: Tensor) -> Tensor:
        """Squared distance to the embeddings of the words, as a share of their squared length."""
        words = self.model.model.embed_tokens.weight
        distance = (projected - words[captions]).square().sum(-1).mean()
        return distance / words.square().sum(-1).mean()

    def read_video(self, projected: Tensor, tokens: Tokens) -> Answers:
        """The answers about frames [batch, frames, 4, width], one after the other."""
        return self._read(projected.flatten(1, 2), tokens)

    def read_image(self, projected: Tensor, small: Tensor | None, tokens: Tokens) -> Answers:
        """The answers about images that consist of grids [batch, grids, 4, width].

        ``small`` is the whole image as one grid [batch, 4, width], for AnyRes.
        """
        if small is None:
            return self.read_video(projected, tokens)
        columns = _COLUMNS[projected.shape[1]]
        return self._read(torch.cat([small, flatten_across(projected, columns=columns)], 1), tokens)

    def _read(self, visual: Tensor, tokens: Tokens) -> Answers:
        embed = self.model.model.embed_tokens
        opening = embed(torch.tensor(encode(OPENING))).expand(len(visual), -1, -1)
        embeds = torch.cat([opening, visual, embed(tokens.ids)], 1)
        return read_answers(self.model, embeds, tokens.labels)


def tile(pictures: np.ndarray) -> np.ndarray:
    """Images of 1, 2 or 4 pictures [batch, pictures, side, side, 3], at the size of one of them."""
    batch, count, side = pictures.shape[:3]
    columns = _COLUMNS[count]
    rows = count // columns
    grid = pictures.reshape(batch, rows, columns, side, side, 3).swapaxes(2, 3)
    whole = torch.from_numpy(grid.reshape(batch, rows * side, columns * side, 3)).permute(
        0, 3, 1, 2
    )
    if rows < columns:  # LLaVA pads an image to a square
        whole = functional.pad(whole, (0, 0, side // 2, side // 2))
    small = functional.interpolate(
        whole.float(), (side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def score(
    aligned: Aligned,
    features: Features,
    *,
    frames: int,
    num_cards: int = 1,
    kind: str = "",
    trials: int = 60,
) -> float:
    """Share of videos of held-out pictures whose one question is answered right."""
    rng = np.random.default_rng([RECIPE.heldout_seed, frames])
    size = max(1, min(20, 2048 // frames))
    right = 0
    for _ in range(trials // size):
        albums = sample_albums(
            features, rng, count=size, pictures=frames, num_cards=num_cards, kind=kind
        )
        projected = project(aligned.projector, albums.features(features))
        right += aligned.read_video(projected, albums.tokens).contexts_right(size)
    return right / (trials // size * size)


def _line(aligned: Aligned, heldout: Features) -> str:
    parts = []
    for frames in (4, 32, 256):
        alone = score(aligned, heldout, frames=frames)
        among = score(aligned, heldout, frames=frames, num_cards=4, kind="place")
        parts.append(f"{frames} frames {alone:.2f}, among 4 of a kind {among:.2f}")
    return "; ".join(parts)


def _learn_captions(aligned: Aligned, features: Features, step: int) -> Tensor:
    rng = np.random.default_rng([RECIPE.seed, step])
    num_cards = int(RECIPE.caption_batch * RECIPE.tower_card_share)
    cards = rng.integers(0, len(features.cards), num_cards)
    scenery = rng.integers(0, len(features.scenery), RECIPE.caption_batch - num_cards)
    albums = Albums(np.concatenate([cards, -1 - scenery])[None], Tokens.stack([([0], [0])]))
    projected = project(aligned.projector, albums.features(features))
    return aligned.caption_loss(projected, albums.captions(features))


def _learn_answers(
    aligned: Aligned, features: Features, pictures: Pictures | None, step: int
) -> tuple[Tensor, float]:
    rng = np.random.default_rng([RECIPE.seed, step])
    albums = sample_albums(
        features,
        rng,
        count=RECIPE.album_batch,
        pictures=int(rng.choice(RECIPE.album_sizes)),
        questions=RECIPE.album_questions,
        absent_share=RECIPE.absent_share,
    )
    projected = project(aligned.projector, albums.features(features))
    small = None
    if pictures is not None:
        shown = pictures.pick(albums.chosen)
        small = project(
            aligned.projector, patch_features(aligned.tower, torch.from_numpy(tile(shown)))
        )
    answers = aligned.read_image(projected, small, albums.tokens)
    loss = functional.cross_entropy(answers.logits, answers.wanted)
    captions = aligned.caption_loss(projected, albums.captions(features))
    return loss + RECIPE.caption_weight * captions, answers.share()


def checkpoint_path(name: str) -> Path:
    """Where the projector of a model lies."""
    return WORK_DIR / f"projector-{name}.pt"


def train(name: str) -> None:
    """Trains the projector of one model to the end, from the last checkpoint on."""
    torch.manual_seed(RECIPE.seed)
    variant = VARIANTS[name]
    aligned, features, heldout = Aligned(variant), Features.load("train"), Features.load("heldout")
    pictures = Pictures.load("train") if variant.encoding == "anyres" else None
    optimizer = make_optimizer([aligned.projector], learning_rate=RECIPE.caption_learning_rate)
    modules: dict[str, nn.Module] = {"projector": aligned.projector}
    checkpoint = Checkpoint(checkpoint_path(name), modules, optimizer)
    first, steps = RECIPE.caption_steps, RECIPE.align_steps
    start = checkpoint.restore()
    recent: deque[float] = deque(maxlen=50)
    progress = tqdm(range(start, steps), initial=start, total=steps, desc=name)
    for step in progress:
        if step < first:
            loss = _learn_captions(aligned, features, step)
            peak = RECIPE.caption_learning_rate
            rate = learning_rate(step, steps=first, peak=peak)
        else:
            loss, share = _learn_answers(aligned, features, pictures, step)
            recent.append(share)
            peak = RECIPE.album_learning_rate
            rate = learning_rate(step - first, steps=RECIPE.album_steps, peak=peak)
        take_step(optimizer, loss, rate=rate)
        if recent:
            progress.set_postfix(right=f"{sum(recent) / len(recent):.3f}", refresh=False)
        checkpoint.save_when_due(step + 1)
        if step + 1 in (first, steps):
            tqdm.write(f"{name}, step {step + 1}: held-out {_line(aligned, heldout)}")
    if start < steps:
        checkpoint.save(steps)


def main(names: list[str] | None = None) -> None:
    """Aligns all models that have a projector of their own, or some of them."""
    torch.set_num_threads(RECIPE.num_threads)
    for name in names or ALIGNED:
        train(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_names(parser, ALIGNED, metavar="NAME")
    main(parser.parse_args().names)
