"""Is somebody else's model what vniah takes it for? One line for everything that it is not.

What a person who plugs in a model gets wrong is seldom a missing method, which Python names by
itself. It is a row of logits one too late, an embedding that depends on the other frames of its
batch, a prompt that states how many frames will follow, dropout that is still on: nothing fails,
and the heatmap is wrong or everything is computed anew for every cell. So each of these is tried
out on a few frames and short sequences, with pictures and words of a needle set.

A finding is fatal where there would be no numbers, or wrong ones; else it is a note. Speed and
memory are not examined, nor is whether the model is any good.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vniah.checks.answers import ChatTrial, LogitsTrial, examine_chat, examine_logits
from vniah.checks.findings import Examination, Finding
from vniah.checks.frames import FrameTrial, examine_frames, make_pictures
from vniah.checks.interface import Interface, examine_interface
from vniah.checks.sequences import SequenceTrial, examine_positions, examine_sequences
from vniah.needles import NeedleSet

__all__ = ["Conformance", "Finding", "examine"]


@dataclass(frozen=True)
class Conformance:
    """What was found of a model.

    Attributes:
        findings: what is wrong, and notes, in the order in which they were found.
        num_examined: things that were looked at.
    """

    findings: tuple[Finding, ...]
    num_examined: int

    @property
    def holds(self) -> bool:
        """Whether nothing fatal was found."""
        return not any(finding.is_fatal for finding in self.findings)

    @property
    def lines(self) -> tuple[str, ...]:
        """For a person: the findings, and a sentence over all."""
        num_wrong = sum(finding.is_fatal for finding in self.findings)
        num_notes = len(self.findings) - num_wrong
        return (
            *(finding.sentence() for finding in self.findings),
            f"conformance: {self.num_examined} things examined, {num_wrong or 'none'} wrong"
            + (f", {num_notes} to note" if num_notes else "")
            + ("; what builds on these was not examined" if num_wrong else ""),
        )


def examine(model: Any, needles: NeedleSet) -> Conformance:
    """Tries a model out, as what it is to be run as.

    Args:
        model: any object; best one that was made for one of the levels of
            `vniah.protocol`.
        needles: the pictures, questions and answers it is tried with.

    Returns:
        All that was found. What builds on something that is wrong is not examined, so that each
        fault is named once.
    """
    examination = Examination()
    found = examine_interface(examination, model)
    pictures = make_pictures(needles)
    if found.level == "answer":
        if found.has("answer"):
            examine_chat(examination, ChatTrial(model, pictures, next(iter(needles)).question))
    elif found.level is not None:
        _examine_reader(examination, model, needles, pictures, found)
    return Conformance(tuple(examination.findings), examination.num_examined)


def _examine_reader(
    examination: Examination,
    model: Any,
    needles: NeedleSet,
    pictures: Sequence[np.ndarray],
    found: Interface,
) -> None:
    """Tries a model that reads encoded frames; each part that what it builds on is right for."""
    frames = FrameTrial(model, pictures)
    sequences = SequenceTrial(model, needles, decodes=found.has("decode"))
    has_shape = found.has("name", "frame_shape")
    has_frames = has_shape and found.has("encode_frames") and examine_frames(examination, frames)
    has_sequences = found.has("compose") and examine_sequences(examination, sequences)
    if found.level == "decoder":
        if has_shape and has_sequences and found.has("position_ids"):
            examine_positions(examination, sequences)
    elif has_frames and has_sequences and found.has("answer_logits"):
        examine_logits(examination, LogitsTrial(model, sequences, frames.alone))
