"""Token sequences made of segments: what goes from tasks through models to engines.

Everything that is asked is a `TokenSequence`. Tasks decide which frames are shown and what is
asked; the model decides how it reads them (`compose`). Segments compare by content, so two
sequences share exactly their common leading segments.

A haystack of 10,000 frames must not be 10,000 objects in each of 50,000 sequences. So consecutive
frames are held as one `FrameSpan`, and what is shown is a `Frames`, which looks like a list of
frames. A model may take them one by one all the same: ``(opening, *frames, question)``.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, overload

from vniah.errors import InputError

HAYSTACK = "haystack"
"""The source of the haystack's frames, in what a sample shows."""


def needle_source(needle_id: str) -> str:
    """The source of a needle's picture, in what a sample shows: ``"needles/red-7"``."""
    return f"needles/{needle_id}"


def blended_source(needle_id: str, number: int = 0) -> str:
    """The source of a needle that is drawn into frames of the haystack: ``"blended/red-7"``.

    Frame ``i`` of this source is frame ``i`` of the haystack with the needle in it. Every frame of
    a clip is drawn into all of them: ``number`` is its number in the clip, ``"blended/wave/2"``.
    """
    return f"blended/{needle_id}/{number}" if number else f"blended/{needle_id}"


def needle_of(source: str) -> str | None:
    """The id of the needle that a source shows; None for the haystack and for unknown sources."""
    kind, _, name = source.partition("/")
    return name.partition("/")[0] if kind in ("needles", "blended") else None


@dataclass(frozen=True, slots=True)
class TextSegment:
    """Text that the model reads.

    Attributes:
        token_ids: token ids, in the model's own vocabulary.
    """

    token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _require_tuple("the token_ids of a TextSegment", self.token_ids)

    def num_tokens(self, tokens_per_frame: int) -> int:
        """Rows of the input."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class FrameSegment:
    """One cached picture, named by where it is from.

    Attributes:
        source: what holds it, e.g. ``"haystack/3f2a"`` or ``"needles/cards/red-7"``.
        index: its number in that source, from 0.
    """

    source: str
    index: int

    def num_tokens(self, tokens_per_frame: int) -> int:
        """Rows of the input."""
        return tokens_per_frame


@dataclass(frozen=True, slots=True)
class FrameSpan:
    """Consecutive frames of one source, each between the same texts.

    It stands for the *parts* ``before``, frame, ``after``, once for each frame; empty texts are no
    parts. Where two sequences differ from some part on, their prefix tree cuts the span there.

    Attributes:
        source: what holds the frames.
        start: number of the first frame in that source.
        stop: the number after the last.
        before: token ids of the text before each frame.
        after: token ids of the text after each frame.
    """

    source: str
    start: int
    stop: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.start >= self.stop:
            raise InputError(
                f"a span needs at least one frame, got start {self.start} and stop {self.stop} of "
                f"{self.source}"
            )

    @property
    def num_frames(self) -> int:
        """How many frames it holds."""
        return self.stop - self.start

    @property
    def has_text(self) -> bool:
        """Whether text stands between its frames."""
        return bool(self.before or self.after)

    def num_tokens(self, tokens_per_frame: int) -> int:
        """Rows of the input."""
        return (self.stop - self.start) * (len(self.before) + tokens_per_frame + len(self.after))

    def num_parts(self) -> int:
        """How many texts and frames it stands for."""
        if not self.before and not self.after:
            return self.stop - self.start
        return (self.stop - self.start) * self._parts_per_frame

    def part(self, index: int) -> "TextSegment | FrameSpan":
        """One of its parts; a frame as a span of its own."""
        if not self.before and not self.after:
            return _span(self.source, self.start + index, self.start + index + 1)
        frame, place = divmod(index, self._parts_per_frame)
        if self.before and place == 0:
            return _text(self.before)
        if self.after and place == self._parts_per_frame - 1:
            return _text(self.after)
        return _span(self.source, self.start + frame, self.start + frame + 1)

    def cut(self, start: int, stop: int) -> "tuple[TextSegment | FrameSpan, ...]":
        """Segments that stand for the parts ``start`` to ``stop - 1``."""
        size = self._parts_per_frame
        first, last = -(-start // size), stop // size  # the frames that are whole
        if first >= last:
            return tuple(map(self.part, range(start, stop)))
        whole = _span(self.source, self.start + first, self.start + last, self.before, self.after)
        return (
            *map(self.part, range(start, first * size)),
            whole,
            *map(self.part, range(last * size, stop)),
        )

    def runs_along(self, index: int, other: object, other_index: int) -> bool:
        """Whether all parts from ``index`` on equal those of ``other`` from ``other_index`` on."""
        return (
            isinstance(other, FrameSpan)
            and self.source == other.source
            and self.before == other.before
            and self.after == other.after
            and (other.start - self.start) * self._parts_per_frame == index - other_index
        )

    @property
    def _parts_per_frame(self) -> int:
        return 1 + bool(self.before) + bool(self.after)

    def _is_followed_by(self, other: "FrameSpan") -> bool:
        return (
            self.stop == other.start
            and self.source == other.source
            and self.before == other.before
            and self.after == other.after
        )


_NUM_SPANS = 1 << 15
# Samples of one cell, and cells of one depth, have spans and texts in common: one object each.
_span = lru_cache(maxsize=_NUM_SPANS)(FrameSpan)
_text = lru_cache(maxsize=_NUM_SPANS)(TextSegment)


@dataclass(frozen=True, slots=True)
class TextSpan:
    """Characters of a text: how a sample names a part of a text haystack, or a needle of text.

    Two spans are equal if they name the same characters of the same source.

    Attributes:
        source: what holds the text, `HAYSTACK` or a `needle_source`.
        start: the first character.
        stop: the character after the last.
        body: the whole text of the source.
    """

    source: str
    start: int
    stop: int
    body: str = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= len(self.body):
            raise InputError(
                f"a span of text needs 0 <= start < stop <= {len(self.body)}, got start "
                f"{self.start} and stop {self.stop} of {self.source}"
            )

    def __str__(self) -> str:
        return self.body[self.start : self.stop]


Segment = TextSegment | FrameSegment
"""What a model composes and reads."""

Piece = TextSegment | FrameSpan
"""The same with consecutive frames in one."""


class Frames(Sequence[FrameSegment]):
    """Frames in the order in which they are shown: a tuple of `FrameSegment`, held as spans.

    Slices are `Frames` too, and cost as much as there are spans.

    Args:
        spans: without text around their frames.

    Examples:
        >>> haystack = Frames.of([FrameSpan("haystack/3f2a", 0, 1000)])
        >>> shown = Frames.of([*haystack[:200].spans, FrameSpan("needles/a", 0, 1)])
        >>> len(shown), shown[199], len(shown.spans)
        (201, FrameSegment(source='haystack/3f2a', index=199), 2)
    """

    __slots__ = ("_length", "spans")

    def __init__(self, spans: tuple[FrameSpan, ...]) -> None:
        self.spans = spans
        self._length = sum(span.stop - span.start for span in spans)

    @classmethod
    def of(cls, frames: Iterable[FrameSegment | FrameSpan]) -> "Frames":
        """These frames in their order; the text around the frames of a span is left out."""
        if isinstance(frames, Frames):
            return frames
        bare = (
            _span(item.source, item.start, item.stop)
            if isinstance(item, FrameSpan) and item.has_text
            else item
            for item in frames
        )
        return cls(tuple(item for item in joined(bare) if isinstance(item, FrameSpan)))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[FrameSegment]:
        for span in self.spans:
            for index in range(span.start, span.stop):
                yield FrameSegment(span.source, index)

    @overload
    def __getitem__(self, index: int) -> FrameSegment: ...
    @overload
    def __getitem__(self, index: slice) -> "Frames": ...
    def __getitem__(self, index: int | slice) -> "FrameSegment | Frames":
        if isinstance(index, int):
            number = index + self._length if index < 0 else index
            if not 0 <= number < self._length:
                raise IndexError(f"there is no frame {index} among {self._length}")
            (span,) = self._between(number, number + 1)
            return FrameSegment(span.source, span.start)
        start, stop, step = index.indices(self._length)
        if step != 1:
            return Frames.of([self[number] for number in range(start, stop, step)])
        return Frames(tuple(self._between(start, stop)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Frames):
            return self.spans == other.spans
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(self.spans)

    def __repr__(self) -> str:
        return f"Frames({self.spans!r})"

    def _between(self, start: int, stop: int) -> Iterator[FrameSpan]:
        """The spans of the frames ``start`` to ``stop - 1``."""
        first = 0
        for span in self.spans:
            end_of_span = first + span.stop - span.start
            if first < stop and start < end_of_span:
                begin = span.start + max(0, start - first)
                end = span.stop - max(0, end_of_span - stop)
                if begin < end:
                    yield _span(span.source, begin, end)
            first = end_of_span


class _FrameByFrame:
    """A field that takes single frames or spans, stores spans, and is read frame by frame."""

    def __get__(self, sequence: "TokenSequence | None", owner: type) -> tuple[Segment, ...]:
        if sequence is None:
            raise AttributeError("a token sequence has no segments by default")
        return tuple(chain.from_iterable(map(_segments_of, sequence.pieces)))

    def __set__(self, sequence: "TokenSequence", segments: tuple[Segment | FrameSpan, ...]) -> None:
        _require_tuple("the segments of a TokenSequence", segments)
        object.__setattr__(sequence, "pieces", tuple(joined(segments)))


class _Kept:
    """The stored fields of `TokenSequence`; its field ``segments`` is computed from them."""

    __slots__ = ("answer_ids", "pieces")
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, eq=False)
class TokenSequence(_Kept):
    """All that one forward pass reads, and the answer that is scored.

    Sequences are equal where their segments are, in whatever pieces they were given.

    Attributes:
        segments: opening, frames with what stands around them, question: everything before the
            answer, in reading order. They may be given in spans, and are read frame by frame.
        answer_ids: the tokens of the right answer; the model reads all but the last of them.
        pieces: the segments, with consecutive frames in one.
    """

    __slots__ = ()
    segments: _FrameByFrame = _FrameByFrame()
    answer_ids: tuple[int, ...]  # type: ignore[misc]  # the field before has no default either

    def __post_init__(self) -> None:
        _require_tuple("the answer_ids of a TokenSequence", self.answer_ids)
        if not self.pieces:
            raise InputError("a token sequence needs at least one segment before the answer")
        if not self.answer_ids:
            raise InputError("a token sequence needs at least one answer token, got none")

    @property
    def frames(self) -> Frames:
        """The frames, in the order in which the model reads them."""
        return Frames.of(piece for piece in self.pieces if isinstance(piece, FrameSpan))

    @property
    def inputs(self) -> tuple[Segment, ...]:
        """What goes in, frame by frame: the segments, then all answer tokens but the last."""
        return tuple(chain.from_iterable(map(_segments_of, self.input_pieces)))

    @property
    def input_pieces(self) -> tuple[Piece, ...]:
        """What goes in, with consecutive frames in one piece."""
        if len(self.answer_ids) == 1:
            return self.pieces
        return (*self.pieces, _text(self.answer_ids[:-1]))

    def num_tokens(self, tokens_per_frame: int) -> int:
        """Length of the input, with ``tokens_per_frame`` rows for each frame."""
        in_prompt = sum(piece.num_tokens(tokens_per_frame) for piece in self.pieces)
        return in_prompt + len(self.answer_ids) - 1

    def with_answer(self, answer_ids: tuple[int, ...]) -> "TokenSequence":
        """The same prompt with another answer."""
        return TokenSequence(self.pieces, answer_ids)

    def has_prompt_of(self, other: "TokenSequence") -> bool:
        """Whether everything before the answer is the same."""
        return self.pieces == other.pieces or self.segments == other.segments

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenSequence):
            return NotImplemented
        return self.answer_ids == other.answer_ids and self.has_prompt_of(other)

    def __hash__(self) -> int:
        return hash(self.answer_ids)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return TokenSequence, (self.pieces, self.answer_ids)

    def __repr__(self) -> str:
        return f"TokenSequence({self.pieces!r}, {self.answer_ids!r})"


def _require_tuple(what: str, found: object) -> None:
    if not isinstance(found, tuple):
        raise InputError(f"{what} must be a tuple, got {type(found).__name__}")


def _segments_of(piece: Piece) -> Iterable[Segment]:
    """A piece frame by frame."""
    if not isinstance(piece, FrameSpan):
        return (piece,)
    before, after = ([_text(ids)] if ids else [] for ids in (piece.before, piece.after))
    frames = (FrameSegment(piece.source, index) for index in range(piece.start, piece.stop))
    if not piece.has_text:
        return frames
    return chain.from_iterable([*before, frame, *after] for frame in frames)


def joined(segments: Iterable[Segment | FrameSpan]) -> Iterator[Piece]:
    """The same segments with consecutive frames in one piece, every frame in a span."""
    waiting: FrameSpan | None = None  # what the next frame may follow
    stop = 0  # where it ends by now
    for segment in segments:
        if isinstance(segment, FrameSegment):
            source, index = segment.source, segment.index
            if waiting is not None:
                if index == stop and source == waiting.source and not waiting.has_text:
                    stop += 1
                    continue
                yield _up_to(waiting, stop)
            waiting, stop = _span(source, index, index + 1), index + 1
        elif isinstance(segment, FrameSpan):
            if waiting is not None:
                waiting = _up_to(waiting, stop)
                if waiting._is_followed_by(segment):
                    stop = segment.stop
                    continue
                yield waiting
            waiting, stop = segment, segment.stop
        else:
            if waiting is not None:
                yield _up_to(waiting, stop)
                waiting = None
            yield segment
    if waiting is not None:
        yield _up_to(waiting, stop)


def _up_to(span: FrameSpan, stop: int) -> FrameSpan:
    if span.stop == stop:
        return span
    return _span(span.source, span.start, stop, span.before, span.after)
