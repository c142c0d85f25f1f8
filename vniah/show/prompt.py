"""What a model reads, as text: special tokens visible, frames as ``<198 frames x 144 tokens>``."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from vniah.engines.base import require_text
from vniah.errors import counted
from vniah.haystacks.library import VideoLibrary
from vniah.haystacks.text import CountsTokens
from vniah.protocol import (
    HAYSTACK,
    AnyModel,
    FrameSegment,
    TextSegment,
    TextSpan,
    TokenSequence,
    tokens_per_frame,
)
from vniah.tasks.base import Sample

_ENDS = 160  # characters of each end of a part of a text haystack

Spell = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Place:
    """Where something that was inserted stands in the tokens of a prompt.

    Attributes:
        source: where it is from.
        start: number of its first token, from 0.
        stop: the number after its last token.
    """

    source: str
    start: int
    stop: int


@dataclass(frozen=True)
class Prompt:
    """What a model reads before its answer.

    Attributes:
        text: the prompt, in lines.
        note: how it was made, or what it lacks; empty where there is nothing to say.
        candidate_ids: the token ids of each candidate answer; empty for chat models.
        num_tokens: of the whole prompt; None for chat models, whose tokens are not known.
        num_text_tokens: those that are not of frames; likewise.
        tokens_per_frame: without the text around it; likewise.
        places: where what was inserted stands.
    """

    text: str
    note: str = ""
    candidate_ids: tuple[tuple[int, ...], ...] = ()
    num_tokens: int | None = None
    num_text_tokens: int = 0
    tokens_per_frame: int = 0
    places: tuple[Place, ...] = ()


def chat_prompt(sample: Sample) -> Prompt:
    """The prompt of a model that gets pictures and a question."""
    frames = f"<{counted(sample.num_shown, 'frame')}>\n" if sample.shown else ""
    return Prompt(
        frames + sample.question,
        note="the frames and the question as they are sent; what the model makes of them, and its "
        "number of tokens, is not known here",
    )


def composed_prompt(
    model: AnyModel, sequences: Sequence[TokenSequence], library: VideoLibrary | None = None
) -> Prompt:
    """The prompt of a model that reads token sequences.

    Args:
        model: its method ``spell(token_ids)`` gives text with special tokens; else ``decode`` is
            used, and else the token ids are shown.
        sequences: what it composed, one for each candidate answer.
        library: the videos whose pictures the frames are, if they are of several.
    """
    first = sequences[0]
    per_frame = tokens_per_frame(model) or 1
    spell, note = _find_spelling(model)
    pieces = list(_pieces(first))
    num_frames = len(first.frames)
    num_text = sum(len(piece.token_ids) for piece in pieces if isinstance(piece, TextSegment))
    return Prompt(
        text="\n".join(_lines(pieces, spell, per_frame, library)),
        note=note,
        candidate_ids=tuple(sequence.answer_ids for sequence in sequences),
        num_tokens=num_text + num_frames * per_frame,
        num_text_tokens=num_text,
        tokens_per_frame=per_frame,
        places=tuple(_places(pieces, per_frame)),
    )


def text_prompt(
    sample: Sample, counter: CountsTokens, sequences: Sequence[TokenSequence] | None
) -> Prompt:
    """The prompt of a sample of text, with the ends of each part of its haystack.

    Args:
        sample: shows text.
        counter: says where the tokens of the prompt end.
        sequences: what the model composed, one for each candidate answer; None for a chat model.
    """
    ends = counter.token_ends(sample.prompt)
    parts: list[str] = []
    places: list[Place] = []
    start = 0
    for piece in (*(sample.text or ()), sample.question):
        stop = start + len(str(piece))
        source = piece.source if isinstance(piece, TextSpan) else None
        parts.append(_ends_of(str(piece)) if source == HAYSTACK else str(piece))
        if source is not None and source != HAYSTACK:
            first, last = bisect_right(ends, start), bisect_left(ends, stop)
            places.append(Place(source, first, last + 1))
        start = stop
    return Prompt(
        "".join(parts),
        candidate_ids=tuple(sequence.answer_ids for sequence in sequences or ()),
        num_tokens=len(ends),
        num_text_tokens=len(ends),
        places=tuple(places),
    )


def _ends_of(text: str) -> str:
    """A part of a haystack, of which the middle is left out where it is long."""
    left_out = len(text) - 2 * _ENDS
    if left_out <= _ENDS:
        return text
    return f"{text[:_ENDS]} <... {left_out:,} characters of haystack ...> {text[-_ENDS:]}"


def _find_spelling(model: AnyModel) -> tuple[Spell, str]:
    """A function from token ids to text, and what is to be said of it."""
    for name, note in (
        ("spell", ""),
        ("decode", f"text by decode() of {model.name}, which may leave special tokens out"),
    ):
        method = getattr(model, name, None)
        if callable(method):
            return lambda ids, method=method, name=name: require_text(
                method(ids), f"{name} of {model.name}"
            ), note
    return (
        lambda ids: f"<{counted(len(ids), 'token')}: {' '.join(map(str, ids))}>",
        f"{model.name} has neither spell() nor decode(), so token ids are shown",
    )


def _pieces(sequence: TokenSequence) -> Iterator[TextSegment | FrameSegment]:
    """Texts and single frames in reading order; texts that follow one another are one."""
    for is_text, parts in groupby(sequence.segments, lambda part: isinstance(part, TextSegment)):
        if is_text:
            texts = (part.token_ids for part in parts if isinstance(part, TextSegment))
            yield TextSegment(tuple(token for ids in texts for token in ids))
        else:
            yield from parts


def _lines(
    pieces: Sequence[TextSegment | FrameSegment],
    spell: Spell,
    per_frame: int,
    library: VideoLibrary | None,
) -> Iterator[str]:
    """Lines of text; of frames that follow one another in a source, the first and the last ones."""
    at = 0
    while at < len(pieces):
        piece = pieces[at]
        if isinstance(piece, TextSegment):
            yield spell(piece.token_ids)
            at += 1
            continue
        frames, texts, stop = _run(pieces, at)
        if not any(texts):
            yield _frames_in_words(frames, per_frame, library)
        else:  # a text before each frame: that of the first is written already
            yield _frames_in_words(frames[:1], per_frame, library)
            if len(frames) > 2:
                left_out = counted(len(frames) - 2, "frame")
                source = frames[0].source
                if source == HAYSTACK and library is not None:
                    source = library.videos[library.locate(frames[0].index)[0]].name
                yield f"... {left_out} of {source}, each with a text before it ..."
            if len(frames) > 1:
                yield spell(texts[-1])
                yield _frames_in_words(frames[-1:], per_frame, library)
        at = stop


def _run(
    pieces: Sequence[TextSegment | FrameSegment], start: int
) -> tuple[list[FrameSegment], list[tuple[int, ...]], int]:
    """The frames from ``start`` on that follow one another in one source.

    Returns:
        The frames; the text before each of them but the first; and the number of the piece after
        the last one.
    """
    first = pieces[start]
    assert isinstance(first, FrameSegment)
    frames, texts, at = [first], [], start + 1
    while at < len(pieces):
        text = pieces[at]
        has_text = isinstance(text, TextSegment)
        following = pieces[at + has_text] if at + has_text < len(pieces) else None
        if (
            not isinstance(following, FrameSegment)
            or following.source != first.source
            or following.index != frames[-1].index + 1
        ):
            break
        texts.append(text.token_ids if isinstance(text, TextSegment) else ())
        frames.append(following)
        at += 1 + has_text
    return frames, texts, at


def _frames_in_words(
    frames: Sequence[FrameSegment], per_frame: int, library: VideoLibrary | None
) -> str:
    source, start, stop = frames[0].source, frames[0].index, frames[-1].index
    if source == HAYSTACK and library is not None:
        what = _pictures_in_words(start, stop, library)
    else:
        numbers = f" {start:,}" if start == stop else f" {start:,}-{stop:,}"
        what = f"{source}{numbers if source == HAYSTACK or len(frames) > 1 else ''}"
    return f"<{counted(len(frames), 'frame')} x {counted(per_frame, 'token')}: {what}>"


def _pictures_in_words(start: int, stop: int, library: VideoLibrary) -> str:
    """The pictures of videos from one frame to another, numbered from 1 in their video."""
    (number, first), (other, last) = library.locate(start), library.locate(stop)
    begin, end = library.videos[number], library.videos[other]
    if number != other:
        return f"{begin.name} picture {first + 1:,} to {end.name} picture {last + 1:,}"
    ordinals = f"{first + 1:,}" if first == last else f"{first + 1:,}-{last + 1:,}"
    return f"{begin.name} picture {ordinals} of {begin.num_pictures:,}"


def _places(pieces: Sequence[TextSegment | FrameSegment], per_frame: int) -> Iterator[Place]:
    """Where frames that are not of the haystack stand; neighbours of one source are one place."""
    waiting: Place | None = None
    token = 0
    for piece in pieces:
        size = piece.num_tokens(per_frame)
        if isinstance(piece, FrameSegment):
            if waiting is not None and waiting.source == piece.source:
                waiting = Place(piece.source, waiting.start, token + size)
            else:
                if waiting is not None:
                    yield waiting
                waiting = (
                    None if piece.source == HAYSTACK else Place(piece.source, token, token + size)
                )
        token += size
    if waiting is not None:
        yield waiting
