"""Which tokens of a sequence are those of the needle, and how much attention is paid to them."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from vniah.engines.inputs import require_reader, size_of_frame
from vniah.engines.planning import SampleSequences
from vniah.errors import ModelError
from vniah.forward.kv_cache import Span
from vniah.forward.runner import SuffixLogits
from vniah.forward.suffixes import WATCHES_NOTHING, Watched
from vniah.protocol import (
    DecoderModel,
    FrameSpan,
    LanguageModel,
    TextSpan,
    TokenSequence,
    needle_of,
)
from vniah.scoring import NeedleAttention
from vniah.tasks.base import Sample, needles_asked_for


class NeedleWatch:
    """The tokens of the needles in the sequences of a plan.

    Args:
        model: composed the sequences.
        samples: all samples of the plan.
        sequences: of their candidates.
    """

    def __init__(
        self,
        model: DecoderModel | LanguageModel,
        samples: Sequence[Sample],
        sequences: SampleSequences,
    ) -> None:
        self._model = model
        self._samples = samples
        self._sequences = sequences
        self.watched: Callable[[int], Watched] = cache(self._watched)

    def num_rows(self, index: int) -> int:
        """In how many rows at the end of a sequence its attention is traced."""
        return self.watched(index).num_rows

    def attention(self, index: int, found: SuffixLogits) -> NeedleAttention | None:
        """How much attention a sequence pays to its needle; None where none is shown.

        Args:
            index: of the sequence.
            found: what was read of it.
        """
        if found.watched is None:
            return None
        sequence = self._sequences.sequences[index]
        mass, behind = found.watched.numpy()
        needle, following = self.watched(index).groups
        return NeedleAttention(
            mass,
            behind,
            num_answer_rows=len(sequence.answer_ids),
            num_needle_tokens=sum(span.num_tokens for span in needle),
            num_tokens_behind=sum(span.num_tokens for span in following),
            num_tokens=self._num_prompt_tokens(sequence),
        )

    def _watched(self, index: int) -> Watched:
        """The needle in a sequence, what is behind it, and the rows of question and answer."""
        sample = self._samples[self._sequences.owners[index]]
        sequence = self._sequences.sequences[index]
        num_prompt = self._num_prompt_tokens(sequence)
        if not needles_asked_for(sample):
            return WATCHES_NOTHING
        if sample.text is None:
            spans, last = _needle_in_frames(sequence, sample, size_of_frame(self._model))
        else:
            spans, last = _needle_in_text(require_reader(self._model), sample, num_prompt)
        num_answer_rows = len(sequence.answer_ids)
        num_rows = max(num_prompt - last + num_answer_rows - 1, num_answer_rows)
        # Not the question's first token, which is one of the rows and attends to itself.
        behind = tuple(Span(one.stop, one.stop + 1) for one in spans if one.stop < last)
        return Watched((spans, behind), num_rows)

    def _num_prompt_tokens(self, sequence: TokenSequence) -> int:
        return sequence.with_answer((0,)).num_tokens(size_of_frame(self._model))


def _needle_in_frames(
    sequence: TokenSequence, sample: Sample, tokens_per_frame: int
) -> tuple[tuple[Span, ...], int]:
    """The rows of the pictures of a sample's needles, and how many tokens its frames end at.

    The text around a picture, such as its time, does not belong to it.
    """
    asked = needles_asked_for(sample)
    spans: list[Span] = []
    token = last = 0
    for piece in sequence.pieces:
        if isinstance(piece, FrameSpan):
            stride = len(piece.before) + tokens_per_frame + len(piece.after)
            firsts = [
                token + number * stride + len(piece.before) for number in range(piece.num_frames)
            ]
            if needle_of(piece.source) in asked:
                spans += [Span(first, first + tokens_per_frame) for first in firsts]
            last = firsts[-1] + tokens_per_frame
        token += piece.num_tokens(tokens_per_frame)
    return tuple(_joined(spans)), last


def _needle_in_text(
    reader: LanguageModel, sample: Sample, num_tokens: int
) -> tuple[tuple[Span, ...], int]:
    """The tokens of the sentences of a sample's needles, and how many tokens its text ends at.

    A token belongs to a sentence if at least one character of it does.
    """
    assert sample.text is not None
    ends = reader.token_ends(sample.prompt)
    if len(ends) != num_tokens:
        raise ModelError(
            f"token_ends of {reader.name} gave the ends of {len(ends):,} tokens, and compose_text "
            f"gave {num_tokens:,} for the same prompt, so it is not known which are the needle's"
        )
    asked = needles_asked_for(sample)
    spans: list[Span] = []
    start = 0
    for piece in sample.text:
        stop = start + len(str(piece))
        if isinstance(piece, TextSpan) and needle_of(piece.source) in asked:
            # A character of several tokens has as many equal ends.
            last = max(bisect_left(ends, stop) + 1, bisect_right(ends, stop))
            spans.append(Span(bisect_right(ends, start), min(last, len(ends))))
        start = stop
    return tuple(_joined(spans)), bisect_right(ends, start)


def _joined(spans: Sequence[Span]) -> Iterator[Span]:
    """The same tokens, where spans that follow one another are made one."""
    waiting: Span | None = None
    for span in spans:
        if waiting is not None and waiting.stop >= span.start:
            waiting = Span(waiting.start, max(waiting.stop, span.stop))
            continue
        if waiting is not None:
            yield waiting
        waiting = span
    if waiting is not None:
        yield waiting
