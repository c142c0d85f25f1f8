"""Rules for `answer_logits` and `answer`: what they return, and what that depends on."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vniah.checks.findings import Examination, Finding, call, note, relative_change, rounding
from vniah.checks.sequences import SequenceTrial
from vniah.engines.base import require_logits
from vniah.errors import ModelError
from vniah.protocol import TokenSequence
from vniah.scoring import score_logits

# Answer tokens of the sequence that is tried: enough for a row that is two tokens off to be seen.
_NUM_ROWS = 3


class LogitsTrial:
    """A model with `answer_logits`, and short sequences to try it with.

    Args:
        model: the model that is examined.
        sequences: composes the sequences.
        alone: three encoded frames, each ``[1, *frame_shape]``.
    """

    def __init__(self, model: Any, sequences: SequenceTrial, alone: Sequence[Tensor]) -> None:
        self.model = model
        self.composed = sequences.compose(len(alone))
        self.longer = sequences.compose(2 * len(alone))
        # The question's words are ordinary tokens; those of a prompt may be special.
        words = [*sequences.answers, sequences.question]
        ids = [i for text in words for i in sequences.compose(answer=text).answer_ids]
        self.tokens = list(dict.fromkeys(ids))
        self.embeds = torch.cat(list(alone)).detach().cpu()

    @cached_property
    def sequence(self) -> TokenSequence:
        """The composed sequence with an answer of three tokens, of which neighbours differ."""
        ids = [self.tokens[row % len(self.tokens)] for row in range(_NUM_ROWS)]
        return TokenSequence(self.composed.segments, tuple(ids))

    @cached_property
    def logits(self) -> Tensor:
        """The answer logits of `sequence`, ``[3, vocabulary]``."""
        return self.read(self.sequence)

    def read(self, sequence: TokenSequence, embeds: Tensor | None = None) -> Tensor:
        """The model's answer logits of a sequence; raises `ModelError` if they are no logits."""
        embeds = self.embeds if embeds is None else embeds
        logits = call(self.model, "answer_logits", sequence, embeds.clone())
        require_logits(self.model, sequence, logits)
        score_logits(logits, sequence.answer_ids)
        read: Tensor = logits.detach().cpu()
        return read

    def with_token(self, row: int) -> Tensor:
        """The logits after one answer token is replaced by another."""
        ids = list(self.sequence.answer_ids)
        ids[row] = next(token for token in reversed(self.tokens) if token != ids[row])
        return self.read(TokenSequence(self.sequence.segments, tuple(ids)))

    def with_frame(self, frame: int) -> Tensor:
        """The logits of `composed` when one frame shows the picture of the next one."""
        embeds = self.embeds.clone()
        embeds[frame] = self.embeds[(frame + 1) % len(embeds)]
        return self.read(self.composed, embeds)

    def differ(self, one: Tensor, other: Tensor) -> bool:
        """Whether two logits differ by more than rounding."""
        return relative_change(one, other) > rounding(one, self.embeds)


def examine_logits(examination: Examination, trial: LogitsTrial) -> None:
    """Applies all rules for a model with `answer_logits`."""
    if examination.apply(trial, _gives_rows) and examination.apply(trial, _is_repeatable):
        if len(trial.tokens) > 1:
            examination.apply(trial, _reads_the_right_tokens)
        examination.apply(trial, _depends_on_frames, _keeps_nothing)


def _gives_rows(trial: LogitsTrial) -> Iterator[Finding]:
    for sequence in (trial.composed, *([trial.sequence] if len(trial.tokens) > 1 else [])):
        logits = call(trial.model, "answer_logits", sequence, trial.embeds.clone())
        require_logits(trial.model, sequence, logits)
        if not logits.is_floating_point():
            yield Finding(f"answer_logits gives {logits.dtype}; it must be a floating-point dtype")
            return
        score_logits(logits, sequence.answer_ids)


def _is_repeatable(trial: LogitsTrial) -> Iterator[Finding]:
    first, second = trial.read(trial.composed), trial.read(trial.composed)
    if trial.differ(first, second):
        yield Finding(
            "answer_logits gives other logits for the same sequence in a second call (changed by "
            f"{relative_change(first, second):.0%} of the largest); if it is in training mode, "
            "where dropout is on, call eval()"
        )


def _reads_the_right_tokens(trial: LogitsTrial) -> Iterator[Finding]:
    """Row i predicts answer token i: it must see all answer tokens before that, and no other."""
    rows = trial.logits
    changed = [trial.with_token(token) for token in range(_NUM_ROWS)]
    seen = [
        (row, token)
        for row in range(_NUM_ROWS)
        for token in range(row, _NUM_ROWS)
        if trial.differ(rows[row], changed[token][row])
    ]
    later = [(row, token) for row, token in seen if token > row]
    if later:
        row, token = later[0]
        yield Finding(
            f"answer_logits: row {row} changes when answer token {token} changes, which comes "
            "later: a row must see only what is before the token that it predicts"
        )
        return
    if seen:
        row, token = seen[0]
        yield Finding(
            f"answer_logits: row {row} changes when answer token {token} changes, which it is to "
            "predict: the rows are one too late; give the row before each answer token, whose "
            "logits predict it"
        )
        return
    if not torch.equal(rows[2], changed[1][2]) and not torch.equal(rows[1], changed[0][1]):
        return
    if not torch.equal(rows[2], changed[0][2]):
        yield Finding(
            "answer_logits: row 1 does not change when answer token 0 changes, but row 2 does: the "
            "rows are one too early; the last row is that of the last token of sequence.inputs"
        )
    else:
        yield Finding(
            "answer_logits: row 1 does not change when answer token 0 changes: a row must be "
            "predicted from the right answer tokens before it, which are in sequence.inputs"
        )


def _depends_on_frames(trial: LogitsTrial) -> Iterator[Finding]:
    num_frames = len(trial.embeds)
    tried = [
        frame
        for frame in range(num_frames)
        if not torch.equal(trial.embeds[frame], trial.embeds[(frame + 1) % num_frames])
    ]
    before = trial.read(trial.composed)
    unseen = [frame for frame in tried if torch.equal(before, trial.with_frame(frame))]
    if unseen and unseen == tried:
        yield note("the logits do not depend on the frames")
    elif unseen:
        yield note(f"the logits do not depend on frame {unseen[0]} of {num_frames}")


def _keeps_nothing(trial: LogitsTrial) -> Iterator[Finding]:
    before = trial.read(trial.composed)
    trial.read(trial.longer, trial.embeds.repeat(2, *[1] * (trial.embeds.ndim - 1)))
    if trial.differ(before, trial.read(trial.composed)):
        yield Finding(
            "answer_logits gives other logits for the same sequence after a longer one: the model "
            "keeps something from call to call, such as rope_deltas; set it back first"
        )


# --- models that answer in words -----------------------------------------------------------------


class ChatTrial:
    """A chat model, and pictures and a question to try it with.

    Args:
        model: the model that is examined.
        pictures: RGB uint8 ``[height, width, 3]``, of two sizes.
        question: the question about them.
    """

    def __init__(self, model: Any, pictures: Sequence[np.ndarray], question: str) -> None:
        self.model = model
        self.pictures = pictures
        self.question = question

    def ask(self) -> str:
        """The model's answer; raises `ModelError` if it is not text."""
        words = call(self.model, "answer", [p.copy() for p in self.pictures], self.question)
        if not isinstance(words, str):
            raise ModelError(f"answer gives {type(words).__name__}, not text")
        return words


def examine_chat(examination: Examination, trial: ChatTrial) -> None:
    """Applies all rules for a model that answers in words."""
    examination.apply(trial, _answers_alike)


def _answers_alike(trial: ChatTrial) -> Iterator[Finding]:
    first, second = trial.ask(), trial.ask()
    if first != second:
        yield note(
            f"answer gives {first!r} and then {second!r} for the same frames and question: a run "
            "cannot be made again; set its temperature to 0"
        )
    if not first.strip():
        yield note("answer gives an empty text")
