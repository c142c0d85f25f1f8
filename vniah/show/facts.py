"""What is said about a sample, in words: the same for the picture and for the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from vniah.errors import counted, shortened
from vniah.grid import format_depth
from vniah.haystacks.library import VideoLibrary
from vniah.protocol import HAYSTACK, Frames, FrameSpan, TextSpan, needle_of
from vniah.results import SampleResult
from vniah.show.prompt import Prompt
from vniah.tasks.base import Sample

_MOST_SPANS = 12
_MOST_PLACES = 8
_MOST_CANDIDATES = 12
_MOST_VALUE = 200  # characters of a field


@dataclass(frozen=True)
class Facts:
    """What is known of a sample.

    Attributes:
        sample: the sample.
        task: the name of its task.
        caption: what the pictures of its frames are.
        model: the model's name; None without one.
        prompt: what the model reads; None without a model.
        result: its line in a run; None where it was not run, or no run is given.
        run: the run's folder; None where none is given.
        notes: what else is to be known.
        unit: what a picture of the haystack is called: frame or page.
        library: the videos, where pictures of several are shown by their numbers among all.
    """

    sample: Sample
    task: str
    caption: str = ""
    model: str | None = None
    prompt: Prompt | None = None
    result: SampleResult | None = None
    run: str | None = None
    notes: tuple[str, ...] = ()
    unit: str = "frame"
    library: VideoLibrary | None = None

    @property
    def place(self) -> str:
        """The task, the cell and the control."""
        sample = self.sample
        parts = [f"task {self.task}"]
        if sample.cell is not None:
            parts.append(
                counted(sample.cell.num_frames, self._unit)
                + (f", depth {format_depth(sample.cell.depth)}" if self.library is None else "")
            )
        elif sample.num_frames:
            parts.append(counted(sample.num_frames, self._unit))
        if sample.control is not None:
            parts.append(f"control {sample.control}, not part of the score")
        return ", ".join(parts)

    @property
    def _unit(self) -> str:
        if self.library is not None:
            return "frame"
        return f"haystack {self.unit}" if self.sample.text is None else "token"

    def numbered(self, position: int, ending: str = "") -> str:
        """A picture by its number: the second of a film (``"119 s"``), or a page (``"page 7"``).

        Args:
            position: from 0.
            ending: what stands behind the number.
        """
        number = f"{position:,}{ending}"
        return f"{number} s" if self.unit == "frame" else f"{self.unit} {number}"

    @property
    def shows_no_frames(self) -> str:
        """What is shown instead, in a sentence; empty where frames are."""
        if self.sample.shown:
            return ""
        what = "text" if self.sample.text else "the question alone"
        return f"No picture is shown: the model reads {what}."

    @property
    def shown(self) -> str:
        """All frames, as spans of their sources; or the parts of a text, in characters."""
        if self.sample.text:
            spans = [
                f"{piece.source} {piece.start:,}-{piece.stop - 1:,}"
                if piece.source == HAYSTACK
                else piece.source
                for piece in self.sample.text
                if isinstance(piece, TextSpan)
            ]
            return f"text, by its characters: {', '.join(spans)}"
        if not self.sample.shown:
            return "nothing but the question"
        if self.library is None:
            parts = list(_spans_in_words(self.sample.shown))
        else:
            parts = list(_pictures_in_words(self.sample.shown, self.library))
        if len(parts) > _MOST_SPANS:
            half = _MOST_SPANS // 2
            left_out = f"... {len(parts) - 2 * half:,} more ..."
            parts = [*parts[:half], left_out, *parts[-half:]]
        return f"{counted(self.sample.num_shown, self.unit)}: {', '.join(parts)}"

    @property
    def asked_ids(self) -> tuple[str, ...]:
        """The needles that the question is about, as far as the sample's fields tell."""
        fields = self.sample.fields
        named = fields.get("asked_needle_id", fields.get("needle_id"))
        found = fields.get("needle_ids", ()) if named is None else (named,)
        return tuple(map(str, found)) if isinstance(found, list | tuple) else ()

    @property
    def inserted(self) -> str:
        """Which needles are asked about, and which are others; empty where it is not known."""
        if not self.asked_ids:
            return ""
        spans = (*self.sample.shown, *(self.sample.text or ()))
        ids = dict.fromkeys(needle_of(span.source) for span in spans if not isinstance(span, str))
        there = [name for name in ids if name is not None]
        asked = [
            name if name in there else f"{name} (not shown)"
            for name in dict.fromkeys(self.asked_ids)
        ]
        others = [name for name in there if name not in self.asked_ids]
        text = f"asked about: {', '.join(asked)}"
        return f"{text}; others: {', '.join(others)}" if others else text

    @property
    def fields(self) -> str:
        """The values of the task's own, by name."""
        return ", ".join(
            f"{name} {shortened(_value(value), _MOST_VALUE)}"
            for name, value in self.sample.fields.items()
        )

    @property
    def choices(self) -> str:
        """The options of a multiple-choice question, quoted: they may hold commas."""
        return ", ".join(map(repr, self.sample.choices or ()))

    @property
    def candidates(self) -> tuple[tuple[str, str, bool], ...]:
        """Each candidate answer, its tokens in words, and whether it is the right answer."""
        ids: Sequence[Sequence[int] | None] = [None] * len(self.sample.candidates)
        if self.prompt is not None and self.prompt.candidate_ids:
            ids = self.prompt.candidate_ids
        listed = [
            (text, _tokens(numbers), text == self.sample.answer)
            for text, numbers in zip(self.sample.candidates, ids, strict=True)
        ]
        if len(listed) > _MOST_CANDIDATES:
            kept = [one for k, one in enumerate(listed) if k < _MOST_CANDIDATES - 1 or one[2]]
            more = counted(len(listed) - len(kept), "more candidate")
            return (*kept, (f"... {more} ...", "", False))
        return tuple(listed)

    @property
    def tokens(self) -> str:
        """How many tokens the model reads, and where what was inserted stands among them."""
        prompt = self.prompt
        if prompt is None or prompt.num_tokens is None:
            return ""
        of_frames = prompt.num_tokens - prompt.num_text_tokens
        parts = [f"{counted(prompt.num_tokens, 'token')} before the answer"]
        if of_frames:
            parts.append(
                f"{of_frames:,} of {counted(self.sample.num_shown, self.unit)} "
                f"({prompt.tokens_per_frame:,} each), {prompt.num_text_tokens:,} of text"
            )
        places = [
            f"{place.source} at {place.start:,}-{place.stop - 1:,}"
            for place in prompt.places[:_MOST_PLACES]
        ]
        if left_out := len(prompt.places) - len(places):
            places.append(f"{left_out:,} more")
        return ": ".join(parts) + (f"; {', '.join(places)}" if places else "")

    @property
    def outcome(self) -> str:
        """What the model answered in the run, and how it was scored."""
        if self.run is None:
            return ""
        if self.result is None:
            return f"not run yet in {self.run}"
        result = self.result
        if result.error is not None:
            return f"could not be run: {shortened(result.error, 500)}"
        said = repr(result.prediction) if result.prediction is not None else "tokens"
        if result.prediction is None:
            said = f"tokens {' '.join(map(str, result.predicted_ids))}"
        if result.has_conditioned_prediction:
            said = f"argmax {said}, each token given the right ones before it"
        parts = [f"{said}, {'right' if result.correct else 'wrong'}"]
        if result.approximate:
            parts.insert(0, "approximate (haystack states were shared among needles)")
        if result.rank is not None:
            parts.append(f"rank {result.rank:,} of the answer")
        if result.logprob is not None:
            parts.append(f"log-probability {result.logprob:.3f}")
        if result.margin is not None:
            parts.append(f"margin {result.margin:.3f}")
        if result.needle_seen is not None:
            is_unused = result.needle_seen == "seen" and not result.correct
            seen = "seen and not used" if is_unused else result.needle_seen
            parts.append(f"needle {seen}, attention up to {result.needle_attention:.2f}")
        if result.prompt_tokens is not None:
            parts.append(f"{counted(result.prompt_tokens, 'prompt token')} by the server's count")
        return ", ".join(parts)

    @property
    def text(self) -> str:
        """Everything as lines for a terminal."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        sample = self.sample
        yield f"sample: {sample.sample_id}"
        yield f"place: {self.place}"
        if self.fields:
            yield f"fields: {self.fields}"
        yield f"shown: {self.shown}"
        if self.inserted:
            yield self.inserted
        yield from _labelled("question", sample.question)
        if sample.choices is not None:
            yield f"choices: {self.choices}"
        yield f"answer: {sample.answer}"
        yield "candidate answers:"
        for text, tokens, is_right in self.candidates:
            right = "the right answer" if is_right else ""
            about = ", ".join(filter(None, (tokens, right)))
            yield f"  {text}{about and f'  ({about})'}"
        if self.prompt is not None:
            yield f"prompt of {self.model}{self.prompt.note and f' ({self.prompt.note})'}:"
            yield from (f"  {line}" for line in self.prompt.text.split("\n"))
        if self.tokens:
            yield f"tokens: {self.tokens}"
        if self.outcome:
            yield f"result: {self.outcome}"
        if sample.text is None:
            yield (
                f"{self.unit}s: {self.caption}" if sample.shown else f"{self.unit}s: none are shown"
            )
        for note in self.notes:
            yield f"note: {note}"


def _labelled(name: str, text: str) -> Iterator[str]:
    first, *others = text.split("\n")
    yield f"{name}: {first}"
    yield from (f"  {line}" for line in others)


def _spans_in_words(spans: Sequence[FrameSpan]) -> Iterator[str]:
    """What is shown, span by span; a picture that is shown several times is named once."""
    for span, same in groupby(Frames.of(spans).spans):
        times = len(list(same))
        words = span.source
        if span.source == HAYSTACK or span != FrameSpan(span.source, 0, 1):
            last = f"-{span.stop - 1:,}" if span.num_frames > 1 else ""
            words += f" {span.start:,}{last}"
        yield f"{words} ({times} times)" if times > 1 else words


def _pictures_in_words(spans: Sequence[FrameSpan], library: VideoLibrary) -> Iterator[str]:
    """What is shown of videos, picture by picture, from 1; the video is named where it begins."""
    places = (library.locate(frame.index) for frame in Frames.of(spans))
    for number, same in groupby(places, key=lambda place: place[0]):
        video = library.videos[number]
        *others, last = [f"{ordinal + 1:,}" for _, ordinal in same]
        ordinals = [*others, f"{last} of {video.num_pictures:,}"]
        yield f"{video.name} picture {ordinals[0]}"
        yield from ordinals[1:]


def _tokens(ids: Sequence[int] | None) -> str:
    return (
        "" if ids is None else f"{'token' if len(ids) == 1 else 'tokens'} {' '.join(map(str, ids))}"
    )


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value)
