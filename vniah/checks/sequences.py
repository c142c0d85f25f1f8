"""Rules for `compose` and `position_ids`: all is there, and no part depends on what follows it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vniah.checks.findings import Examination, Finding, call, note
from vniah.engines.inputs import SequenceCheck, positions_of, require_model, segment_size
from vniah.errors import ModelError, quoted
from vniah.needles import NeedleSet
from vniah.protocol import DecoderModel, FrameSegment, Segment, TextSegment, TokenSequence

_FEW, _MANY = 3, 6
# More frames than one frame has rows or columns of tokens.
_A_FILM = 128


class SequenceTrial:
    """A model that composes sequences, and questions and answers to try it with.

    Frames are only named here, never encoded.

    Args:
        model: the model that is examined.
        needles: the source of the questions and answers.
        decodes: whether the model's `decode` can be used.

    Attributes:
        question: that of the first needle.
        other_question: a different one.
        answers: at least two different ones.
    """

    def __init__(self, model: Any, needles: NeedleSet, *, decodes: bool = False) -> None:
        self.model = model
        self.decodes = decodes
        self.question, self.other_question = _two([needle.question for needle in needles])[:2]
        self.answers = _two([needle.answer for needle in needles])

    def compose(
        self,
        num_frames: int = _FEW,
        *,
        source: str = "frames",
        question: str | None = None,
        answer: str | None = None,
    ) -> TokenSequence:
        """The model's sequence for ``num_frames`` frames; by default with the first texts."""
        frames = make_frames(num_frames, source)
        found = call(
            self.model,
            "compose",
            frames,
            self.question if question is None else question,
            self.answers[0] if answer is None else answer,
        )
        if not isinstance(found, TokenSequence):
            raise ModelError(f"compose gives {type(found).__name__}, not a TokenSequence")
        return found


def make_frames(num_frames: int, source: str = "frames") -> list[FrameSegment]:
    """The first ``num_frames`` frames of a source, by name."""
    return [FrameSegment(source, index) for index in range(num_frames)]


def _two(texts: Sequence[str]) -> list[str]:
    """The texts without repeats; if all are equal, that text and the same one twice in a row."""
    different = list(dict.fromkeys(texts))
    return different if len(different) > 1 else [*different, f"{different[0]} {different[0]}"]


def examine_sequences(examination: Examination, trial: SequenceTrial) -> bool:
    """Applies all rules for `compose`; returns True if its sequences can be used."""
    return (
        examination.apply(trial, _holds_segments)
        and examination.apply(trial, _is_repeatable)
        and examination.apply(
            trial,
            _is_silent_about_the_answer,
            _is_silent_about_sources,
            _is_prefix_stable,
            _reads_the_question,
            _tells_answers_apart,
            _adds_nothing_to_answers,
            *([_decodes_answers] if trial.decodes else []),
        )
    )


def examine_positions(examination: Examination, trial: SequenceTrial) -> bool:
    """Applies all rules for a decoder and `position_ids`; returns True if they can be used."""
    return (
        examination.apply(trial.model, _has_a_known_decoder)
        and examination.apply(trial, _is_readable, _has_repeatable_positions)
        and examination.apply(trial, _has_stable_positions, _goes_on_behind_the_frames)
    )


# --- compose -------------------------------------------------------------------------------------


def _holds_segments(trial: SequenceTrial) -> Iterator[Finding]:
    sequence = trial.compose()
    segments: Sequence[object] = sequence.segments
    for number, segment in enumerate(segments):
        if not isinstance(segment, TextSegment | FrameSegment):
            yield Finding(
                f"compose gives {type(segment).__name__} as segment {number}; it must be a "
                "TextSegment or a FrameSegment"
            )
    texts = [s.token_ids for s in sequence.segments if isinstance(s, TextSegment)]
    for where, ids in (*(("prompt", text) for text in texts), ("answer", sequence.answer_ids)):
        wrong = [i for i in ids if not _is_token(i)]
        if wrong:
            yield Finding(
                f"compose gives the token id {wrong[0]!r} in the {where}; token ids are whole "
                "numbers from 0"
            )
    yield from _shows_every_frame(sequence.frames, make_frames(_FEW))


def _is_token(token: object) -> bool:
    is_whole = isinstance(token, int | np.integer) and not isinstance(token, bool)
    return is_whole and int(token) >= 0  # type: ignore[call-overload]


def _shows_every_frame(
    found: Sequence[FrameSegment], given: Sequence[FrameSegment]
) -> Iterator[Finding]:
    numbers = [given.index(frame) if frame in given else None for frame in found]
    if numbers == list(range(len(given))):
        return
    missing = [number for number in range(len(given)) if number not in numbers]
    if None in numbers:
        what = "frames that it was not given"
    elif missing:
        what = f"no frame {' and no frame '.join(map(str, missing))}"
    elif len(numbers) > len(given):
        what = "a frame more than once"
    else:
        what = "the frames in another order"
    yield Finding(
        f"compose shows {what} (given {len(given)}, shown {numbers}); give the frame segments as "
        "they come, each once"
    )


def _is_repeatable(trial: SequenceTrial) -> Iterator[Finding]:
    if trial.compose() != trial.compose():
        yield Finding(
            "compose gives another sequence in a second call with the same frames and words; it "
            "must depend on nothing else, such as the time"
        )


def _is_silent_about_the_answer(trial: SequenceTrial) -> Iterator[Finding]:
    one, other = (trial.compose(answer=answer).segments for answer in trial.answers[:2])
    if one != other:
        yield Finding(
            f"compose gives other segments before the answer when the answer is another (segment "
            f"{_common(one, other)} of {len(one)}): the prompt would give it away; put the answer "
            "into answer_ids only"
        )


def _is_silent_about_sources(trial: SequenceTrial) -> Iterator[Finding]:
    """A needle is a frame of another source, with its own index: that must not change the text."""
    plain = trial.compose().segments
    needle = FrameSegment("a needle", 0)
    frames = [*make_frames(1), needle, *make_frames(_FEW)[2:]]
    shown = call(trial.model, "compose", frames, trial.question, trial.answers[0]).segments
    one, other = (
        [None if isinstance(segment, FrameSegment) else segment for segment in segments]
        for segments in (plain, shown)
    )
    if one != other:
        yield Finding(
            "compose writes other text around a frame of another source (segment "
            f"{_common(one, other)}): the prompt would give the needle away; take a frame's number "
            "from its place in the list, not from its index"
        )


def _is_prefix_stable(trial: SequenceTrial) -> Iterator[Finding]:
    few, many = (trial.compose(number).segments for number in (_FEW, _MANY))
    if (place := _unstable_place(few, many)) is not None:
        segment, frame = place
        why = "it seems to state their number" if frame == 0 else "what follows has a part in it"
        yield note(
            f"the prompt changes before frame {frame} (segment {segment}) when there are more "
            f"frames, {_MANY} instead of {_FEW}: {why}; a decoder's work is shared only among "
            "cells with equal numbers of frames"
        )
    other = trial.compose(question=trial.other_question).segments
    if (place := _unstable_place(few, other)) is not None:
        yield note(
            f"the prompt changes before frame {place[1]} (segment {place[0]}) when the question is "
            "another: it seems to stand before the frames; a decoder's work is shared only among "
            "equal questions"
        )


def _unstable_place(few: Sequence[Segment], many: Sequence[Segment]) -> tuple[int, int] | None:
    """The first difference up to the last frame of ``few``: (segment, frames before it)."""
    last = max(index for index, segment in enumerate(few) if isinstance(segment, FrameSegment))
    common = _common(few, many)
    if common > last:
        return None
    return common, sum(isinstance(segment, FrameSegment) for segment in few[:common])


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The number of segments at the beginning that both have in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _reads_the_question(trial: SequenceTrial) -> Iterator[Finding]:
    if trial.compose().segments == trial.compose(question=trial.other_question).segments:
        yield note(
            f"compose gives the same prompt for the questions {quoted(trial.question, 40)} and "
            f"{quoted(trial.other_question, 40)}; is the question in it?"
        )


def _tells_answers_apart(trial: SequenceTrial) -> Iterator[Finding]:
    found: dict[tuple[int, ...], str] = {}
    for answer in trial.answers:
        ids = trial.compose(answer=answer).answer_ids
        if ids in found:
            yield note(
                f"compose gives the same tokens {ids} for the answers {quoted(found[ids], 40)} and "
                f"{quoted(answer, 40)}; does the tokenizer know these words?"
            )
            return
        found[ids] = answer


def _adds_nothing_to_answers(trial: SequenceTrial) -> Iterator[Finding]:
    """If answers begin (or end) with different letters, so should their tokens."""
    ids = [trial.compose(answer=answer).answer_ids for answer in trial.answers]
    if min(map(len, ids)) < 2:
        return
    for end, index in (("begin", 0), ("end", -1)):
        letters, tokens = ({text[index] for text in texts} for texts in (trial.answers, ids))
        if len(letters) > 1 and len(tokens) == 1:
            yield note(
                f"the tokens of all answers {end} with {tokens.pop()}: if that is a special token, "
                "the model is asked to predict it; encode answers with add_special_tokens=False"
            )


def _decodes_answers(trial: SequenceTrial) -> Iterator[Finding]:
    for answer in trial.answers:
        ids = trial.compose(answer=answer).answer_ids
        words = call(trial.model, "decode", ids)
        if not isinstance(words, str):
            yield Finding(f"decode gives {type(words).__name__}, not text")
            return
        if words.strip() != answer:
            yield note(
                f"decode gives {quoted(words, 40)} for the tokens of the answer "
                f"{quoted(answer, 40)}: "
                "unknown or special tokens are among them, or white space"
            )
            return


# --- position_ids --------------------------------------------------------------------------------


def _has_a_known_decoder(model: DecoderModel) -> Iterator[Finding]:
    require_model(model)
    yield from ()


def _is_readable(trial: SequenceTrial) -> Iterator[Finding]:
    for num_frames in (_FEW, _MANY):
        SequenceCheck(trial.model).require_readable(trial.compose(num_frames))
    yield from ()


def _positions(trial: SequenceTrial, sequence: TokenSequence) -> Tensor:
    call(trial.model, "position_ids", sequence)  # so that its error, if any, names the method
    return positions_of(trial.model, sequence).cpu()


def _has_repeatable_positions(trial: SequenceTrial) -> Iterator[Finding]:
    few = _positions(trial, trial.compose())  # before any longer one
    many = _positions(trial, trial.compose(_MANY))
    if not (torch.isfinite(few).all() and torch.isfinite(many).all()):
        yield Finding("position_ids gives NaN or infinity")
    elif not torch.equal(few, _positions(trial, trial.compose())):
        yield Finding(
            "position_ids gives other positions for the same sequence after a longer one: the "
            "model keeps something from call to call, such as rope_deltas; set it back first"
        )


def _has_stable_positions(trial: SequenceTrial) -> Iterator[Finding]:
    size = segment_size(trial.model)
    sequences = [trial.compose(), trial.compose(_MANY)]
    sequences += [trial.compose(answer=answer) for answer in trial.answers]
    few = _positions(trial, sequences[0])
    for sequence in sequences[1:]:
        common = _common(sequences[0].segments, sequence.segments)
        num_tokens = sum(map(size, sequence.segments[:common]))
        one, other = few[..., :num_tokens], _positions(trial, sequence)[..., :num_tokens]
        if not torch.equal(one, other):
            token = int((one != other).reshape(-1, num_tokens).any(0).nonzero()[0])
            yield note(
                f"position_ids depend on what follows (token {token} of {num_tokens} that two "
                f"sequences begin with: {one[..., token].tolist()} and "
                f"{other[..., token].tolist()}); nothing is shared, every cell runs by itself"
            )
            return


def _goes_on_behind_the_frames(trial: SequenceTrial) -> Iterator[Finding]:
    """The text after the frames must not begin among the positions of the frames.

    In transformers 5 that of Qwen2-VL does.
    """
    sequence = trial.compose(_A_FILM)
    positions = _positions(trial, sequence)
    size = segment_size(trial.model)
    last = max(i for i, s in enumerate(sequence.segments) if isinstance(s, FrameSegment))
    start = sum(map(size, sequence.segments[: last + 1]))
    if start == positions.shape[-1]:
        return
    reached, first = float(positions[..., :start].max()), float(positions[..., start].max())
    if first <= reached:
        yield note(
            f"position_ids of {_A_FILM} frames reach {reached:g}, and the text behind them begins "
            f"at {first:g}: the question stands among the frames; let it begin at the largest "
            "position + 1"
        )
