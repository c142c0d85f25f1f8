"""Stage 5: V-NIAH of the exported checkpoint, and its model card: `python -m training.evaluate`.

One needle in consecutive seconds of a film that training never saw, through H.264; correct if the
argmax is right at every position of the answer. Needles: the default ten, then newly drawn ones.
"""

import argparse
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPImageProcessor, CLIPVisionModel, Qwen2ForCausalLM

from training.draw import decode_seconds
from training.draw_cards import CARDS
from training.export import write_atomically
from training.model_card import model_card
from training.network import make_language_model, make_projector, make_tower, project, read
from training.recipe import CARDS_DIR, MODEL_DIR, RECIPE, WORK_DIR
from training.tokens import OPENING, ask, encode, vocabulary
from training.world import KINDS, Card, draw_card, random_card
from vniah.video.synthetic import write_video

DEPTHS = tuple(Fraction(k, 4) for k in range(5))
FRAME_COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Reference:
    """The exported checkpoint, its float16 weights computed in float32."""

    tower: CLIPVisionModel
    projector: nn.Module
    model: Qwen2ForCausalLM
    processor: CLIPImageProcessor

    @classmethod
    def load(cls) -> "Reference":
        """Reads the checkpoint folder."""
        weights = load_file(MODEL_DIR / "model.safetensors")
        parts = {
            "tower": make_tower(),
            "projector": make_projector(),
            "model": make_language_model(),
        }
        prefix = "model.vision_tower.vision_tower.vision_model."
        own_prefix = (
            "vision_model." if "vision_model." in next(iter(parts["tower"].state_dict())) else ""
        )
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        groups: dict[str, dict[str, Tensor]] = {name: {} for name in parts}
        for name, weight in weights.items():
            if name.startswith(prefix):
                groups["tower"][own_prefix + name.removeprefix(prefix)] = weight
            elif name.startswith("model.mm_projector."):
                groups["projector"][name.removeprefix("model.mm_projector.")] = weight
            else:
                groups["model"][name] = weight
        for name, part in parts.items():
            part.load_state_dict(groups[name])
            part.eval()
        return cls(
            **parts, processor=CLIPImageProcessor.from_pretrained(MODEL_DIR / "vision_tower")
        )

    @torch.no_grad()
    def encode(self, images: list[Image.Image]) -> Tensor:
        """Projected frames, [num_images, 4, width]."""
        encoded = []
        for start in range(0, len(images), 256):
            chunk = images[start : start + 256]
            pixels = self.processor(images=chunk, return_tensors="pt")["pixel_values"]
            states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states
            encoded.append(project(self.projector, states[-1][:, 1:]))
        return torch.cat(encoded)

    @torch.no_grad()
    def answers_right(self, frames: Tensor, card: Card) -> bool:
        """Whether the argmax is right at every answer position; frames [num_frames, 4, width]."""
        conversation = ask([card])
        ids = torch.tensor(conversation.token_ids)
        hidden = read(self.model, torch.tensor(encode(OPENING)), frames[None], ids[None])[0]
        answered = torch.tensor(conversation.labels)[1:] != -100
        return bool(
            (self.model.lm_head(hidden[:-1][answered]).argmax(-1) == ids[1:][answered]).all()
        )


def heldout_film(seconds: int) -> list[Image.Image]:
    """Seconds of a film that training never saw, encoded and decoded."""
    path = WORK_DIR / "heldout.mp4"
    write_video(path, seed=RECIPE.heldout_seed + 500, seconds=seconds)
    return [Image.fromarray(pixels) for pixels in decode_seconds(path)]


def needles(num_new: int) -> list[tuple[Card, Image.Image]]:
    """The default set as it lies in the repository, then ``num_new`` newly drawn ones."""
    chosen = [(card, Image.open(CARDS_DIR / f"{card.needle_id}.png")) for card in CARDS]
    seed = RECIPE.default_cards_seed + 1_000
    rng = np.random.default_rng(seed)
    for _ in range(num_new):
        card = random_card(rng)
        chosen.append((card, draw_card(card, rng, film_seed=seed)))
    return chosen


@dataclass(frozen=True)
class Trial:
    """An encoded film and encoded needles."""

    reference: Reference
    haystack: Tensor  # [seconds, 4, width]
    needles: Tensor  # [num_needles, 4, width]
    cards: list[Card]

    @classmethod
    def prepare(cls, *, seconds: int, num_new: int) -> "Trial":
        """Draws, encodes and decodes what `alone` and `among` look at."""
        reference = Reference.load()
        chosen = needles(num_new)
        return cls(
            reference,
            reference.encode(heldout_film(seconds)),
            reference.encode([image for _, image in chosen]),
            [card for card, _ in chosen],
        )

    def alone(self, num_frames: int) -> list[list[bool]]:
        """Right or wrong with one needle: a list over the needles for every depth."""
        rows = []
        for depth in tqdm(DEPTHS, desc=f"{num_frames} frames"):
            index = math.floor(depth * num_frames)
            before, after = self.haystack[:index], self.haystack[index:num_frames]
            rows.append(
                [
                    self.reference.answers_right(torch.cat([before, needle[None], after]), card)
                    for needle, card in zip(self.needles, self.cards, strict=True)
                ]
            )
        return rows

    def among(self, num_frames: int, *, num_others: int = 3, kind: str = "") -> list[bool]:
        """Right or wrong with other cards, of other keys, in the video; three times a needle.

        With ``kind`` only needles of this kind are asked for and shown.
        """
        rng = np.random.default_rng(3)
        usable = [i for i, card in enumerate(self.cards) if kind in ("", card.kind)]
        right = []
        for asked in usable * 3:
            card = self.cards[asked]
            keys = {card.key_index}
            shown = [asked]
            for other in rng.permutation(usable).tolist():
                if len(shown) <= num_others and self.cards[other].key_index not in keys:
                    keys.add(self.cards[other].key_index)
                    shown.append(other)
            frames = self.haystack[:num_frames].clone()
            frames[rng.permutation(num_frames)[: len(shown)]] = self.needles[shown]
            right.append(self.reference.answers_right(frames, card))
        return right


def _share(right: list[bool]) -> float:
    return sum(right) / len(right)


def table(scores: dict[int, list[list[bool]]]) -> str:
    """Scores as a Markdown table, one line for each frame count."""
    lines = [
        "| frames (visual tokens) | depth 0 | 0.25 | 0.5 | 0.75 | 1 | mean (n) | default ten (n) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    default = len(CARDS)
    for num_frames, rows in scores.items():
        every = [right for row in rows for right in row]
        ten = [right for row in rows for right in row[:default]]
        cells = " | ".join(f"{_share(row):.2f}" for row in rows)
        mean, mean_ten = f"{_share(every):.3f} ({len(every)})", f"{_share(ten):.2f} ({len(ten)})"
        lines.append(f"| {num_frames} ({4 * num_frames}) | {cells} | {mean} | {mean_ten} |")
    return "\n".join(lines)


def write_model_card(scores: str, among: str) -> None:
    """Writes the README of the checkpoint folder."""
    with safe_open(MODEL_DIR / "model.safetensors", "pt") as weights:
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    text = model_card(scores, among, parameters=parameters, words=len(vocabulary()))
    write_atomically(MODEL_DIR / "README.md", text.encode())


def describe_among(trial: Trial, frame_counts: list[int]) -> str:
    """Two paragraphs: scores with any other cards, and with other cards of the same kind."""
    shares = [f"{_share(trial.among(count)):.2f} at {count} frames" for count in frame_counts]
    lines = [
        f"With three other needles in the video (n = {3 * len(trial.cards)} each): "
        f"{', '.join(shares)}.",
        "",
        "With two others of its kind in 32 frames, where only the key tells which one is meant:",
    ]
    for kind in KINDS:
        right = trial.among(32, num_others=2, kind=kind)
        lines.append(f"{kind} {_share(right):.2f} (n = {len(right)}),")
    return "\n".join(lines).rstrip(",") + ".\n"


def main() -> None:
    """Measures, prints the table, and writes the model card with it."""
    parser = argparse.ArgumentParser(description="V-NIAH of the exported checkpoint.")
    parser.add_argument("--new-needles", type=int, default=20, help="besides the default ten")
    parser.add_argument("--frames", type=int, nargs="+", default=FRAME_COUNTS)
    arguments = parser.parse_args()
    torch.set_num_threads(RECIPE.num_threads)
    trial = Trial.prepare(seconds=max(arguments.frames), num_new=arguments.new_needles)
    scores = table({num_frames: trial.alone(num_frames) for num_frames in arguments.frames})
    among = describe_among(trial, [count for count in arguments.frames if count <= 256])
    print(f"{scores}\n\n{among}")
    write_model_card(scores, among)


if __name__ == "__main__":
    main()
