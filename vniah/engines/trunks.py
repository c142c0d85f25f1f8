"""The trunk of a map from one pass: what all samples show where nothing is hidden in it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vniah.engines.alignment import Keys, TokenKeys
from vniah.engines.inputs import compose_candidates, size_of_frame
from vniah.engines.splicing import Trunk
from vniah.protocol import HAYSTACK, DecoderModel, FrameSpan, LanguageModel, TextSpan
from vniah.tasks.base import Sample

_OTHER_QUESTIONS = ("A", "Is it 7?")  # what prompts with both have in common is no question


def find_trunk(model: DecoderModel | LanguageModel, samples: Sequence[Sample]) -> Trunk:
    """Opening and haystack, as far as any of some samples shows them.

    Args:
        model: composes them.
        samples: all show frames, or all show text.
    """
    plain = _plain(samples)
    keys = TokenKeys(size_of_frame(model))
    one, other = (
        compose_candidates(model, replace(plain, question=question))[0]
        for question in _OTHER_QUESTIONS
    )
    common = common_beginning(keys.of(one.input_pieces), keys.of(other.input_pieces))
    if plain.text is None:  # what follows the last frame is the beginning of every question
        common = common[: int(np.flatnonzero(common < 0).max(initial=-1)) + 1]
    return Trunk(one, len(common))


def common_beginning(own: Keys, its: Keys) -> Keys:
    """The beginning that two sequences of keys have in common."""
    num = min(len(own), len(its))
    differs = own[:num] != its[:num]
    return own[: int(differs.argmax()) if differs.any() else num]


def _plain(samples: Sequence[Sample]) -> Sample:
    """A sample that shows all of the haystack that any of them shows, and nothing else."""
    first = samples[0]
    if first.text is None:
        last = max(
            (span.stop for one in samples for span in one.shown if span.source == HAYSTACK),
            default=0,
        )
        return replace(first, shown=(FrameSpan(HAYSTACK, 0, last),) if last else ())
    opening = [piece for piece in first.text[:1] if isinstance(piece, str)]
    parts = [
        piece
        for one in samples
        for piece in one.text or ()
        if isinstance(piece, TextSpan) and piece.source == HAYSTACK
    ]
    longest = max(parts, key=lambda part: part.stop, default=None)
    whole = () if longest is None else (replace(longest, start=0),)
    return replace(first, text=(*opening, *whole))


def tokens_of_frame(model: DecoderModel | LanguageModel, trunk: Trunk) -> int:
    """Tokens from the beginning of a frame to that of the next, with any text between them."""
    per_frame = size_of_frame(model)
    keys = TokenKeys(per_frame).of(trunk.sequence.input_pieces)[: trunk.num_tokens]
    rows = np.flatnonzero(keys < 0)[:: max(1, per_frame)]
    return int(rows[1] - rows[0]) if len(rows) > 1 else per_frame
