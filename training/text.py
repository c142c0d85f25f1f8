"""Stage 3: the language models, on text alone: `python -m training.text [TEXT ...]`.

A context is a list of sentences of four words, such as the captions of pictures would be: some are
about cards, most are scenery. Questions follow. The trunk learns to find the card that is asked
for; from there the model forks into one that goes on with long texts and a large RoPE base, one
with short texts and a small base, and one with short texts and a large base. From the one with long
texts another forks, which learns questions of two hops as well.
"""

import argparse
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import Qwen2ForCausalLM

from training.arguments import add_names
from training.contexts import Answers, Tokens, ask, choose_keys, read_answers
from training.network import look_back, make_language_model
from training.optimization import Checkpoint, learning_rate, load_modules, make_optimizer, take_step
from training.recipe import RECIPE, TEXTS, WORK_DIR, Text
from training.tokens import IGNORED, OPENING, encode, encode_captions
from training.world import (
    BRIGHTNESS,
    CAPTION_WORDS,
    KEYS,
    SCENERY,
    TONES,
    Card,
    random_value,
)

_TURN_TOKENS = 14
_SCORED_ON_THE_WAY, _SCORED_AT_THE_END = (32, 128), (32, 128, 1024)  # held-out sentences
_SCENERY = encode_captions(
    [(SCENERY, brightness, tone, ".") for brightness in BRIGHTNESS for tone in TONES]
)


def checkpoint_path(name: str) -> Path:
    """Where a language model lies."""
    return WORK_DIR / f"text-{name}.pt"


def sample_text(
    rng: np.random.Generator,
    *,
    sentences: int,
    num_cards: int,
    questions: int,
    same_kind_share: float = 0.0,
    kind: str = "",
    absent_share: float = 0.0,
    repeats: float = 0.0,
    two_hops_share: float = 0.0,
) -> tuple[list[int], list[int]]:
    """One context: ids and labels.

    Args:
        rng: the source of chance.
        sentences: how many there are.
        num_cards: how many of them are about cards, each with another key, where there are enough.
        questions: how many follow.
        same_kind_share: the share of contexts whose cards are all of one kind.
        kind: if given, all cards are of this kind.
        absent_share: the share of questions about cards that are not there.
        repeats: the share of other sentences that say again what some sentence says of a card;
            where one does so for the second time, its value is to be learned as well.
        two_hops_share: the share of questions that are of two hops, where some sign has the color
            of a card. Signs then have the color of a card more often than by chance.
    """
    keys = choose_keys(rng, num_cards, same_kind_share=same_kind_share, kind=kind)
    cards = [Card(*KEYS[key], random_value(KEYS[key][0], rng)) for key in keys]
    if two_hops_share:
        cards = _lead_to_cards(cards, rng)
    about = np.full(sentences, -1)
    about[rng.permutation(sentences)[: len(cards)]] = np.arange(len(cards))
    again = (about < 0) & (rng.random(sentences) < repeats)
    about[again] = rng.integers(0, len(cards), int(again.sum()))
    ids = _SCENERY[rng.integers(0, len(_SCENERY), sentences)]
    ids[about >= 0] = encode_captions([card.caption for card in cards])[about[about >= 0]]
    labels = np.full((sentences, CAPTION_WORDS), IGNORED)
    first = np.unique(about, return_index=True)[1]
    known = np.setdiff1d(np.flatnonzero(about >= 0), first)
    values = np.array([len(card.answer) if card.kind == "place" else 1 for card in cards])
    for word in (2, 3):
        rows = known[values[about[known]] > word - 2]
        labels[rows, word] = ids[rows, word]
    opening = list(encode(OPENING))
    asked, wanted = ask(
        cards,
        rng,
        questions=questions,
        absent_share=absent_share,
        two_hops_share=two_hops_share,
    )
    return (
        opening + ids.ravel().tolist() + asked,
        [IGNORED] * len(opening) + labels.ravel().tolist() + wanted,
    )


def _lead_to_cards(cards: list[Card], rng: np.random.Generator) -> list[Card]:
    """The same cards, but most signs have the color of one of them."""
    colors = [card.key for card in cards if card.kind == "card"]
    return [
        replace(card, value=colors[rng.integers(len(colors))])
        if card.kind == "sign" and colors and rng.random() < RECIPE.leading_share
        else card
        for card in cards
    ]


def read_text(model: Qwen2ForCausalLM, tokens: Tokens) -> Answers:
    """The answers of a batch of texts."""
    return read_answers(model, model.model.embed_tokens(tokens.ids), tokens.labels)


def contexts_in_step(text: Text, *, sentences: int) -> int:
    """How many contexts of so many sentences a step of ``text`` learns from."""
    length = CAPTION_WORDS * sentences + _TURN_TOKENS * text.questions
    return max(1, text.tokens_per_step // length)


def sample_step(text: Text, step: int) -> list[tuple[list[int], list[int]]]:
    """The contexts of one step, equally many sentences long: ids and labels of each."""
    rng = np.random.default_rng([RECIPE.seed, step])
    sentences = text.sentences[rng.integers(len(text.sentences))]
    most = min(sentences, RECIPE.max_cards)
    num_cards = int(rng.integers(min(text.fewest_cards, most), most + 1))
    repeats = text.repeats * rng.random()
    return [
        sample_text(
            rng,
            sentences=sentences,
            num_cards=num_cards,
            questions=text.questions,
            same_kind_share=RECIPE.same_kind_share,
            absent_share=RECIPE.absent_share,
            repeats=repeats,
            two_hops_share=text.two_hops_share,
        )
        for _ in range(contexts_in_step(text, sentences=sentences))
    ]


@dataclass(frozen=True)
class Seen:
    """What a language model learned from in all steps of a text, its trunk left out."""

    tokens: int  # padding left out
    questions: int
    longest: int  # tokens of the longest context

    @classmethod
    def count(cls, text: Text) -> "Seen":
        """Draws all steps once more, without a model."""
        steps = [sample_step(text, step) for step in tqdm(range(text.steps), "counting tokens")]
        lengths = [len(ids) for step in steps for ids, _ in step]
        return cls(sum(lengths), text.questions * len(lengths), max(lengths))


@torch.no_grad()
def score(
    model: Qwen2ForCausalLM,
    *,
    sentences: int,
    num_cards: int = 1,
    kind: str = "",
    two_hops: bool = False,
    trials: int = 60,
) -> float:
    """Share of new contexts whose one question is answered right at every token.

    With ``two_hops`` the question is of two hops in every context that has a sign and its card.
    """
    rng = np.random.default_rng([RECIPE.heldout_seed, sentences])
    size = max(1, min(20, 8192 // (CAPTION_WORDS * sentences)))
    right = 0
    for _ in range(trials // size):
        rows = [
            sample_text(
                rng,
                sentences=sentences,
                num_cards=num_cards,
                kind=kind,
                questions=1,
                two_hops_share=float(two_hops),
            )
            for _ in range(size)
        ]
        right += read_text(model, Tokens.stack(rows)).contexts_right(size)
    return right / (trials // size * size)


def _line(model: Qwen2ForCausalLM, lengths: tuple[int, ...]) -> str:
    parts = []
    for sentences in lengths:
        alone = score(model, sentences=sentences)
        among = score(model, sentences=sentences, num_cards=4, kind="place")
        hops = score(model, sentences=sentences, num_cards=len(KEYS), two_hops=True)
        parts.append(
            f"{sentences} sentences {alone:.2f}, among 4 of a kind {among:.2f}, two hops {hops:.2f}"
        )
    return "; ".join(parts)


def train(name: str) -> None:
    """Trains one language model to the end, from the last checkpoint on."""
    torch.manual_seed(RECIPE.seed)
    text = TEXTS[name]
    model = make_language_model(text.rope_theta)
    if text.trunk is not None:
        trunk = TEXTS[text.trunk]
        load_modules(checkpoint_path(text.trunk), {"model": model}, steps=trunk.steps)
        if text.rope_theta != trunk.rope_theta:
            look_back(
                model,
                strength=RECIPE.new_base_look_back_strength,
                steepness=RECIPE.new_base_look_back_steepness,
            )
    model.model.embed_tokens.requires_grad_(not text.frozen_words)
    optimizer = make_optimizer([model], learning_rate=text.learning_rate)
    checkpoint = Checkpoint(checkpoint_path(name), {"model": model}, optimizer)
    start = checkpoint.restore()
    recent: deque[float] = deque(maxlen=50)
    progress = tqdm(range(start, text.steps), f"text, {name}", initial=start, total=text.steps)
    for step in progress:
        answers = read_text(model, Tokens.stack(sample_step(text, step)))
        loss = functional.cross_entropy(answers.logits, answers.wanted)
        rate = learning_rate(step, steps=text.steps, peak=text.learning_rate)
        take_step(optimizer, loss, rate=rate)
        recent.append(answers.share())
        progress.set_postfix(right=f"{sum(recent) / len(recent):.3f}", refresh=False)
        checkpoint.save_when_due(step + 1)
        if (step + 1) % 100 == 0 and step + 1 < text.steps:
            tqdm.write(f"{name}, step {step + 1}: held-out {_line(model, _SCORED_ON_THE_WAY)}")
    if start < text.steps:
        checkpoint.save(text.steps)
        tqdm.write(f"{name}: held-out {_line(model, _SCORED_AT_THE_END)}")


def main(names: list[str] | None = None) -> None:
    """Trains all language models, or some of them."""
    torch.set_num_threads(RECIPE.num_threads)
    for name in names or TEXTS:
        train(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_names(parser, TEXTS, metavar="TEXT")
    main(parser.parse_args().names)
