"""Does a model that a user plugs in behave as vniah expects? One line for everything that is wrong.

A missing method is the smallest problem: Python names it. Worse are mistakes with which nothing
fails: logits that are one row too late, an embedding that depends on the other frames of its batch,
a prompt that states how many frames follow, dropout that is still on. Then the heatmap is wrong, or
nothing can be shared among cells. So each of these is tried on a few frames and short sequences,
with the pictures and words of a needle set.

A finding is fatal if there would be no numbers, or wrong ones; else it is a note. Speed, memory and
the quality of the model are not examined.
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
from vniah.checks.texts import TextTrial, examine_texts
from vniah.engines.base import shows_text
from vniah.engines.inputs import reads_only_text
from vniah.needles import NeedleSet
from vniah.protocol import LanguageModel

__all__ = ["Conformance", "Finding", "examine"]


@dataclass(frozen=True)
class Conformance:
    """All findings about a model.

    Attributes:
        findings: what is wrong, and notes, in the order in which they were found.
        num_examined: the number of rules that were applied.
    """

    findings: tuple[Finding, ...]
    num_examined: int

    @property
    def passed(self) -> bool:
        """True if nothing fatal was found."""
        return not any(finding.is_fatal for finding in self.findings)

    @property
    def lines(self) -> tuple[str, ...]:
        """The report: one line for each finding, and a summary."""
        num_wrong = sum(finding.is_fatal for finding in self.findings)
        num_notes = len(self.findings) - num_wrong
        return (
            *(finding.sentence() for finding in self.findings),
            f"conformance: {self.num_examined} things examined, {num_wrong or 'none'} wrong"
            + (f", {num_notes} to note" if num_notes else "")
            + ("; what builds on these was not examined" if num_wrong else ""),
        )


def examine(model: Any, needles: NeedleSet) -> Conformance:
    """Examines a model at the level at which vniah would run it.

    Args:
        model: any object; usually one that was written for a level of `vniah.protocol`.
        needles: the pictures, questions and answers with which it is tried.

    Returns:
        All findings. What depends on something that is wrong is not examined, so that each fault is
        reported once.
    """
    examination = Examination()
    reads_text = isinstance(model, LanguageModel)
    if reads_only_text(model) or (reads_text and shows_text(needles)):
        examine_texts(examination, TextTrial.of(model, needles))
        return Conformance(tuple(examination.findings), examination.num_examined)
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
    """Examines a model that reads encoded frames; each part only if what it needs is right."""
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
