"""What goes into a decoder: composed sequences, their sizes, positions and input embeddings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from vniah.embeddings.cache import EmbeddingCache, FrameStore
from vniah.errors import ModelError
from vniah.forward.decoders import (
    DEEP_MODEL_TYPES,
    refuse_positions,
    refuse_unknown,
    refuse_unsupported,
)
from vniah.forward.prefill import answer_logits
from vniah.haystacks.haystack import Haystack
from vniah.needles import Needle, NeedleSet
from vniah.protocol import (
    AnyModel,
    DecoderModel,
    EncodingModel,
    FrameSegment,
    TextSegment,
    TokenSequence,
    require_protocol,
)
from vniah.tasks.vniah import Question

Segment = TextSegment | FrameSegment


def followed_by(sequence: TokenSequence, num_tokens: int) -> TokenSequence:
    """The same prompt with so many tokens to be read behind it, whichever they are."""
    return replace(sequence, answer_ids=sequence.answer_ids[:1] * (num_tokens + 1))


def require_model(model: AnyModel) -> None:
    """Raises `ModelError` unless the object is a model whose decoder, if it has one, can be run."""
    require_protocol(model)
    if not isinstance(model, EncodingModel):
        return
    shape = tuple(model.frame_shape)
    if not shape or not all(isinstance(size, int) and size >= 1 for size in shape):
        raise ModelError(f"frame_shape of {model.name} must be whole numbers from 1, got {shape}")
    if not isinstance(model, DecoderModel):
        return
    refuse_unknown(model.decoder)
    width = model.decoder.model.embed_tokens.weight.shape[1]
    if size_of_frame(model) and shape[-1] != width:
        raise ModelError(
            f"frame_shape of {model.name} is {shape}, but its decoder reads rows of {width} numbers"
        )


def refuse_sequence(model: DecoderModel, sequence: TokenSequence) -> None:
    """Raises `ModelError` for a sequence that the forward pass cannot run exactly."""
    num_tokens = sequence.num_tokens(size_of_frame(model))
    _refuse_unknown_tokens(model, sequence)
    if num_tokens < len(sequence.answer_ids):
        raise ModelError(f"compose of {model.name} gave no token before the answer")
    refuse_unsupported(model.decoder, num_tokens)


def _refuse_unknown_tokens(model: DecoderModel, sequence: TokenSequence) -> None:
    """Raises `ModelError` for token ids that the decoder has no embedding for."""
    num_known = model.decoder.model.embed_tokens.weight.shape[0]
    texts = [segment.token_ids for segment in sequence.inputs if isinstance(segment, TextSegment)]
    for token in chain.from_iterable(texts):
        if not 0 <= token < num_known:
            raise ModelError(
                f"compose of {model.name} gave the token id {token}; its decoder has embeddings "
                f"for 0 to {num_known - 1}"
            )


def size_of_frame(model: DecoderModel) -> int:
    """Tokens of a frame.

    Raises:
        ModelError: its frames are no rows of the decoder's input.
    """
    shape = tuple(model.frame_shape)
    is_deep = model.decoder.model.config.model_type in DEEP_MODEL_TYPES
    if len(shape) != 2 and not (len(shape) == 3 and is_deep):
        raise ModelError(
            "the forward pass reads frames of shape (tokens, hidden size), "
            + ("or (1 + layers that add to them, tokens, hidden size), " if is_deep else "")
            + f"{model.name} has frame_shape {shape}"
        )
    return int(shape[-2])


def num_deep_layers(model: DecoderModel) -> int:
    """How many of the decoder's first layers have something of the frames added behind them."""
    return int(model.frame_shape[0]) - 1 if len(model.frame_shape) == 3 else 0


def segment_size(model: DecoderModel) -> Callable[[Any], int]:
    """A function that gives the tokens of a segment."""
    per_frame = size_of_frame(model)
    return lambda s: per_frame if isinstance(s, FrameSegment) else len(s.token_ids)


def positions_of(model: DecoderModel, sequence: TokenSequence) -> Tensor:
    """The model's position ids of a sequence, ``[T]`` or ``[3, T]``.

    Raises:
        ModelError: they have another shape.
    """
    positions: Tensor = model.position_ids(sequence)
    refuse_positions(model.decoder, positions, sequence.num_tokens(size_of_frame(model)))
    device = model.decoder.lm_head.weight.device
    moved: Tensor = positions.to(device)
    return moved


class Embedder:
    """Looks up the input embeddings of segments.

    Args:
        model: whose decoder reads them, in its dtype and on its device.
        store: where its frames lie.
    """

    def __init__(self, model: DecoderModel, store: FrameStore) -> None:
        self._store = store
        self._per_frame = size_of_frame(model)
        self._size = segment_size(model)
        self._table: Any = model.decoder.model.embed_tokens
        self.num_deep = num_deep_layers(model)
        self._part = 0 if self.num_deep else None

    @torch.inference_mode()
    def __call__(self, segments: Sequence[Segment], start: int, stop: int) -> Tensor:
        """The tokens ``start`` to ``stop - 1`` of the segments, ``[stop - start, H]``."""
        weight: Tensor = self._table.weight
        hidden = weight.new_empty(stop - start, weight.shape[1])
        for first, rows in self._pieces(segments, start, stop):
            from_, to = max(first, start), min(first + len(rows), stop)
            part = rows[from_ - first : to - first]
            hidden[from_ - start : to - start] = part.to(hidden.device, hidden.dtype)
        return hidden

    def deep(self, segments: Sequence[Segment]) -> Tensor | None:
        """All that is added to the rows of some segments, ``[layers, T, H]``; None for nothing."""
        if not self.num_deep:
            return None
        weight: Tensor = self._table.weight
        num_tokens = sum(map(self._size, segments))
        rows = weight.new_zeros(self.num_deep, num_tokens, weight.shape[1])
        for layer in range(self.num_deep):
            self.add_deep(layer, rows[layer], segments, 0, num_tokens)
        return rows

    def is_frame(self, segments: Sequence[Segment]) -> Tensor:
        """Which rows of some segments are of frames, bool ``[T]``."""
        parts = [torch.full((self._size(s),), isinstance(s, FrameSegment)) for s in segments]
        return torch.cat(parts).to(self._table.weight.device)

    @torch.inference_mode()
    def add_deep(
        self, layer: int, hidden: Tensor, segments: Sequence[Segment], start: int, stop: int
    ) -> None:
        """Adds to rows what comes to their frames behind a layer, in place.

        Args:
            layer: from 0, below ``num_deep``.
            hidden: those rows, ``[stop - start, H]``.
            segments: what they are rows of.
            start: the first of their tokens.
            stop: behind the last.
        """
        for first, rows in self._frame_pieces(segments, start, stop, 1 + layer):
            from_, to = max(first, start), min(first + len(rows), stop)
            part = rows[from_ - first : to - first]
            hidden[from_ - start : to - start] += part.to(hidden.device, hidden.dtype)

    def _pieces(
        self, segments: Sequence[Segment], start: int, stop: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Rows of all segments that reach into ``[start, stop)``, each with its first token."""
        yield from self._frame_pieces(segments, start, stop, self._part)
        token = 0
        for segment in segments:
            size = self._size(segment)
            if isinstance(segment, TextSegment) and token < stop and token + size > start:
                ids = torch.tensor(segment.token_ids, device=self._table.weight.device)
                yield token, self._table(ids.long())
            token += size

    def _frame_pieces(
        self, segments: Sequence[Segment], start: int, stop: int, part: int | None
    ) -> Iterator[tuple[int, Tensor]]:
        """The same of frames only: of each the ``part``, or all where it has none."""
        token = 0
        frames: list[FrameSegment] = []
        tokens: list[int] = []
        for segment in segments:
            if token >= stop:
                break
            if isinstance(segment, FrameSegment) and token + self._per_frame > start:
                frames.append(segment)
                tokens.append(token)
            token += self._size(segment)
        # Text between frames does not keep them from being read together.
        runs = self._store.read_runs(frames, part=part)
        yield from zip(tokens, chain.from_iterable(runs), strict=True)


def compose_answers(
    model: EncodingModel, shown: Sequence[FrameSegment], needle: Needle
) -> tuple[TokenSequence, ...]:
    """What the model reads for a needle's question, with each of its accepted answers.

    Raises:
        ModelError: what the model composed is no sequence, or its prompt depends on the answer.
    """
    sequences: list[TokenSequence] = []
    for answer in needle.answers:
        sequence: object = model.compose(shown, needle.question, answer)
        if not isinstance(sequence, TokenSequence):
            raise ModelError(
                f"compose of {model.name} gave {type(sequence).__name__}, not a TokenSequence"
            )
        if sequences and sequence.segments != sequences[0].segments:
            raise ModelError(
                f"compose of {model.name} gave another prompt for the answer {answer!r} than for "
                f"{needle.answer!r}; a prompt must not depend on the answer"
            )
        sequences.append(sequence)
    return tuple(sequences)


# Frames of a haystack that is made of a needle set's own pictures, at least.
_SHORTEST = 16


@dataclass(frozen=True)
class Material:
    """What the questions of a sweep are made of: cached frames, by name.

    Attributes:
        store: where all frames lie.
        frames: the haystack's.
        needles: one frame for each needle, by its id.
    """

    store: FrameStore
    frames: Sequence[FrameSegment]
    needles: Mapping[str, FrameSegment]

    @classmethod
    def of(
        cls,
        haystack: Haystack,
        needles: NeedleSet,
        num_frames: int,
        haystack_cache: EmbeddingCache,
        needle_cache: EmbeddingCache,
    ) -> "Material":
        """The first ``num_frames`` frames of a haystack, and a needle set, from their caches."""
        source = f"haystack/{haystack.sha256[:12]}"
        of_needles = {
            n.needle_id: FrameSegment(f"needles/{needles.name}/{n.needle_id}", 0) for n in needles
        }
        places = {source: (haystack_cache, 0)} | {
            segment.source: (needle_cache, index)
            for index, segment in enumerate(of_needles.values())
        }
        frames = [FrameSegment(source, index) for index in range(num_frames)]
        return cls(FrameStore(places), frames, of_needles)

    @classmethod
    def of_needles(cls, needles: NeedleSet, cache: EmbeddingCache) -> "Material":
        """A needle set's own pictures, again and again, as a haystack."""
        source = f"needles/{needles.name}"
        frames = [FrameSegment(source, index) for index in range(len(needles))]
        of_needles = {n.needle_id: frame for n, frame in zip(needles, frames, strict=True)}
        repeats = -(-_SHORTEST // len(needles))
        return cls(FrameStore({source: (cache, 0)}), frames * repeats, of_needles)

    def compose(self, model: EncodingModel, question: Question) -> TokenSequence:
        """What the model reads for a question, with its first answer."""
        return self.compose_all(model, question)[0]

    def compose_all(self, model: EncodingModel, question: Question) -> tuple[TokenSequence, ...]:
        """The same with each of its accepted answers."""
        needle = question.needle
        shown = question.insert(self.frames, self.needles[needle.needle_id])
        return compose_answers(model, shown, needle)


def decoder_logits(model: DecoderModel, sequence: TokenSequence, store: FrameStore) -> Tensor:
    """Answer logits of one sequence by the walk, ``[len(answer_ids), vocabulary]``."""
    positions = positions_of(model, sequence)
    embedder = Embedder(model, store)
    hidden = embedder(sequence.inputs, 0, positions.shape[-1])
    num_rows, deep = len(sequence.answer_ids), embedder.deep(sequence.inputs)
    return answer_logits(model.decoder, hidden, positions, num_rows=num_rows, deep=deep)
