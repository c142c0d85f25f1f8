"""The inputs of a decoder: composed sequences, their sizes, positions and input embeddings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor

from vniah.embeddings.cache import FrameStore
from vniah.errors import InputError, ModelError
from vniah.forward.decoders import (
    DEEPSTACK_MODEL_TYPES,
    embedding_of,
    layer_input_size,
    require_positions,
)
from vniah.forward.inputs import deepstack_rows
from vniah.forward.kinds.choosing import require_runnable, sees_images
from vniah.forward.kv_cache import Span
from vniah.forward.prefill import answer_logits
from vniah.haystacks.text import CountsTokens
from vniah.protocol import (
    AnyModel,
    ChatModel,
    DecoderModel,
    EncodingModel,
    Frames,
    FrameSpan,
    HasDecoder,
    LanguageModel,
    Piece,
    Segment,
    TokenModel,
    TokenSequence,
    joined,
    needed_form,
    require_protocol,
)
from vniah.tasks.base import Sample


def followed_by(sequence: TokenSequence, num_tokens: int) -> TokenSequence:
    """The same prompt, followed by ``num_tokens`` tokens; which ones they are does not matter."""
    return sequence.with_answer(sequence.answer_ids[:1] * (num_tokens + 1))


def require_model(model: AnyModel) -> None:
    """Raises `ModelError` unless the object is a model whose decoder, if it has one, can be run."""
    require_protocol(model)
    if isinstance(model, DecoderModel | LanguageModel):
        require_runnable(model.decoder)
    if not isinstance(model, EncodingModel):
        return
    shape = tuple(model.frame_shape)
    if form := needed_form("frame_shape", shape):
        raise ModelError(f"frame_shape of {model.name} must be {form}, got {shape}")
    if not isinstance(model, DecoderModel):
        return
    width = embedding_of(model.decoder).weight.shape[1]
    if size_of_frame(model) and shape[-1] != width:
        raise ModelError(
            f"frame_shape of {model.name} is {shape}, but its decoder reads rows of {width} numbers"
        )


class SequenceCheck:
    """Refuses sequences that the forward pass cannot run exactly; examines each text once.

    Args:
        model: the model whose decoder is to run them.
    """

    def __init__(self, model: HasDecoder) -> None:
        self._model = model
        self._per_frame = size_of_frame(model)
        self._known_texts: set[tuple[int, ...]] = set()
        self._is_known = False

    def require_readable(self, sequence: TokenSequence) -> None:
        """Raises `ModelError` for a sequence that cannot be run."""
        num_tokens = sequence.num_tokens(self._per_frame)
        for piece in sequence.input_pieces:
            for token_ids in _texts_of(piece):
                self._require_known(token_ids)
        if num_tokens < len(sequence.answer_ids):
            raise ModelError(f"compose of {self._model.name} gave no token before the answer")
        if not self._is_known:
            require_runnable(self._model.decoder)
            self._is_known = True

    def _require_known(self, token_ids: tuple[int, ...]) -> None:
        """Raises `ModelError` for token ids that the decoder has no embedding for."""
        if token_ids in self._known_texts:
            return
        body = self._model.decoder.model
        tables = embedding_of(self._model.decoder), getattr(body, "embed_tokens_per_layer", None)
        num_known = min(len(table.weight) for table in tables if table is not None)
        for token in token_ids:
            if not 0 <= token < num_known:
                raise ModelError(
                    f"compose of {self._model.name} gave the token id {token}; its decoder has "
                    f"embeddings for 0 to {num_known - 1}"
                )
        self._known_texts.add(token_ids)


def _texts_of(piece: Piece) -> tuple[tuple[int, ...], ...]:
    """The token ids of its texts."""
    return (piece.before, piece.after) if isinstance(piece, FrameSpan) else (piece.token_ids,)


def size_of_frame(model: HasDecoder) -> int:
    """The number of tokens of a frame; 0 for a model that reads only text.

    Raises:
        ModelError: the model's frames are not rows of the decoder's input.
    """
    shape = _frame_shape(model)
    if shape is None:
        return 0
    has_deepstack = model.decoder.model.config.model_type in DEEPSTACK_MODEL_TYPES
    if len(shape) != 2 and not (len(shape) == 3 and has_deepstack):
        raise ModelError(
            "the forward pass reads frames of shape (tokens, hidden size), "
            + ("or (1 + layers that add to them, tokens, hidden size), " if has_deepstack else "")
            + f"{model.name} has frame_shape {shape}"
        )
    return int(shape[-2])


def num_deepstack_layers(model: HasDecoder) -> int:
    """After how many of the decoder's first layers DeepStack adds features of the frames."""
    shape = _frame_shape(model)
    return shape[0] - 1 if shape is not None and len(shape) == 3 else 0


def _frame_shape(model: HasDecoder) -> tuple[int, ...] | None:
    """The shape of a frame; None for a model that reads only text.

    It is asked for with every sequence, and looking for all attributes of a protocol takes long.
    """
    shape = getattr(model, "frame_shape", None)
    return None if shape is None else tuple(shape)


def segment_size(model: HasDecoder) -> Callable[[Any], int]:
    """A function that returns the number of tokens of a segment."""
    return methodcaller("num_tokens", size_of_frame(model))


def positions_of(model: HasDecoder, sequence: TokenSequence) -> Tensor:
    """The model's position ids of a sequence, ``[T]`` or ``[3, T]``.

    Raises:
        ModelError: the position ids have another shape.
    """
    positions: Tensor = model.position_ids(sequence)
    require_positions(model.decoder, positions, sequence.num_tokens(size_of_frame(model)))
    return positions.to(model.decoder.lm_head.weight.device)


class DecoderInputs:
    """The inputs of a decoder for some sequences; a `vniah.forward.inputs.SequenceInputs`.

    Args:
        model: the model whose decoder reads them, in its dtype and on its device.
        sequences: what it composed. More may be added later.
        store: holds the encoded frames.
    """

    def __init__(
        self, model: HasDecoder, sequences: Sequence[TokenSequence], store: FrameStore
    ) -> None:
        self._model = model
        self._sequences = sequences
        self._store = store
        self._per_frame = size_of_frame(model)
        self.size = segment_size(model)
        self._table: Any = embedding_of(model.decoder)
        self.num_deepstack_layers = num_deepstack_layers(model)
        self._part = 0 if self.num_deepstack_layers else None
        self._sees_images = sees_images(model.decoder.model)
        self._config = model.decoder.model.config

    def positions(self, index: int) -> Tensor:
        """Position ids of a sequence, ``[T]`` or ``[3, T]``."""
        return positions_of(self._model, self._sequences[index])

    def positions_ahead(self, index: int, num_tokens: int) -> Tensor:
        """Position ids of a sequence's prompt and of ``num_tokens`` tokens that follow it."""
        return positions_of(self._model, followed_by(self._sequences[index], num_tokens))

    def num_answer_rows(self, index: int) -> int:
        """One row for each token of the answer."""
        return len(self._sequences[index].answer_ids)

    @torch.inference_mode()
    def embed(self, segments: Sequence[Segment | FrameSpan], start: int, stop: int) -> Tensor:
        """The tokens ``start`` to ``stop - 1`` of the segments, ``[stop - start, H]``."""
        weight: Tensor = self._table.weight
        hidden = weight.new_empty(stop - start, weight.shape[1])
        places = self._places(segments, start, stop)
        rows = chain(self._frame_rows(places, self._part), self._text_rows(places))
        for inside, part in _clipped(rows, start, stop):
            hidden[inside] = part.to(hidden.device, hidden.dtype)
        return hidden

    def token_ids(
        self, segments: Sequence[Segment | FrameSpan], start: int, stop: int
    ) -> Tensor | None:
        """The ids of tokens, if the decoder's layers get something of them, ``[stop - start]``."""
        if not layer_input_size(self._config):
            return None
        ids = torch.full((stop - start,), self._config.pad_token_id)
        for inside, part in _clipped(self._texts(self._places(segments, start, stop)), start, stop):
            ids[inside] = part
        return ids

    def is_frame(self, segments: Sequence[Segment | FrameSpan]) -> Tensor:
        """Which rows of some segments belong to frames, bool ``[T]``."""
        parts = []
        for piece in joined(segments):
            if isinstance(piece, FrameSpan):
                before, after = torch.zeros(len(piece.before)), torch.zeros(len(piece.after))
                one = torch.cat([before, torch.ones(self._per_frame), after])
                parts.append(one.repeat(piece.num_frames))
            else:
                parts.append(torch.zeros(self.size(piece)))
        return torch.cat(parts).bool().to(self._table.weight.device)

    def images(self, segments: Sequence[Segment | FrameSpan]) -> tuple[Span, ...]:
        """The rows of each frame, if those of a frame see one another.

        Raises:
            ModelError: two frames follow one another with nothing in between, so that the decoder
                takes them for one.
        """
        if not self._sees_images:
            return ()
        found: list[Span] = []
        for place in self._places(segments, 0, sum(map(self.size, segments))):
            for span in place.spans:
                for number in range(span.num_frames):
                    first = place.token + number * place.stride + len(span.before)
                    if found and found[-1].stop == first:
                        raise ModelError(
                            f"compose of {self._model.name} puts nothing between two frames, and "
                            "its decoder takes all rows of images in a row for one image"
                        )
                    found.append(Span(first, first + self._per_frame))
        return tuple(found)

    @torch.inference_mode()
    def add_deepstack(
        self,
        layer: int,
        hidden: Tensor,
        segments: Sequence[Segment | FrameSpan],
        start: int,
        stop: int,
    ) -> None:
        """Adds the DeepStack features of a layer to the rows of frames, in place."""
        rows = self._frame_rows(self._places(segments, start, stop), 1 + layer)
        for inside, part in _clipped(rows, start, stop):
            hidden[inside] += part.to(hidden.device, hidden.dtype)

    def _places(
        self, segments: Sequence[Segment | FrameSpan], start: int, stop: int
    ) -> list["_Place"]:
        """The pieces that overlap the tokens ``[start, stop)``."""
        places, token = [], 0
        for piece in joined(segments):
            if token >= stop or start >= stop:
                break
            size = self.size(piece)
            if size and token + size > start:
                num = piece.num_frames if isinstance(piece, FrameSpan) else 1
                stride = size // num
                first = max(0, start - token) // stride
                last = min(num, -(-(stop - token) // stride))
                places.append(_Place(piece, token, stride, first, last))
            token += size
        return places

    def _text_rows(self, places: Sequence["_Place"]) -> Iterator[tuple[int, Tensor]]:
        """The rows of texts, each with the number of its first token."""
        before: Tensor | None = None
        for token, ids in self._texts(places):
            if ids is not before:  # the same text may stand before many frames
                rows, before = self._table(ids.to(self._table.weight.device)), ids
            yield token, rows

    def _texts(self, places: Sequence["_Place"]) -> Iterator[tuple[int, Tensor]]:
        """The token ids of texts, each with the number of its first token."""
        for place in places:
            piece = place.piece
            if isinstance(piece, FrameSpan):
                after = len(piece.before) + self._per_frame
                texts = [(0, piece.before), (after, piece.after)]
            else:
                texts = [(0, piece.token_ids)]
            for offset, token_ids in texts:
                if token_ids:
                    ids = torch.tensor(token_ids).long()
                    for number in range(place.first, place.last):
                        yield place.token + number * place.stride + offset, ids

    def _frame_rows(
        self, places: Sequence["_Place"], part: int | None
    ) -> Iterator[tuple[int, Tensor]]:
        """The rows of frames, each with the number of its first token.

        ``part`` is the index into the first dimension of a frame; None for frames without parts.
        """
        # Frames are read together although text may stand between them.
        frames = Frames.of(frame for place in places for frame in place.spans)
        runs = self._store.read_runs(frames, part=part)
        rows: Sequence[Tensor] | Tensor = ()
        for place in places:
            for span in place.spans:
                token = place.token + place.first * place.stride + len(span.before)
                missing = span.num_frames
                while missing:
                    rows = rows if len(rows) else next(runs)
                    taken, rows = rows[:missing], rows[missing:]
                    assert isinstance(taken, Tensor)
                    missing -= len(taken)
                    for piece in taken if span.has_text else [taken.flatten(0, 1)]:
                        yield token, piece
                        token += place.stride if span.has_text else len(piece)
        assert len(rows) == 0 and next(runs, None) is None


@dataclass(frozen=True)
class _Place:
    """A piece that overlaps a range of tokens.

    Attributes:
        piece: text, or frames with the text around each of them.
        token: the number of its first token.
        stride: number of tokens of one frame with the text around it, or of the whole text.
        first: the first frame that overlaps the range; 0 for text.
        last: the last such frame plus 1; 1 for text.
    """

    piece: Piece
    token: int
    stride: int
    first: int
    last: int

    @property
    def spans(self) -> tuple[FrameSpan, ...]:
        """Its frames that overlap the range."""
        if not isinstance(self.piece, FrameSpan):
            return ()
        start = self.piece.start
        return (replace(self.piece, start=start + self.first, stop=start + self.last),)


def _clipped(
    pieces: Iterable[tuple[int, Tensor]], start: int, stop: int
) -> Iterator[tuple[slice, Tensor]]:
    """The parts of rows within the tokens ``[start, stop)``, each with its place in that range.

    ``pieces`` are rows, each with the number of its first token.
    """
    for first, rows in pieces:
        from_, to = max(first, start), min(first + len(rows), stop)
        if from_ < to:
            yield slice(from_ - start, to - start), rows[from_ - first : to - first]


def compose_candidates(model: TokenModel, sample: Sample) -> tuple[TokenSequence, ...]:
    """The sequences of a sample, one for each of its candidate answers.

    Raises:
        ModelError: the model composed no sequence, or a prompt that depends on the answer.
        InputError: the sample shows text, and the model reads none; or frames, likewise.
    """
    compose, method = _composer(model, sample)
    sequences: list[TokenSequence] = []
    for answer in sample.candidates:
        sequence: object = compose(answer)
        if not isinstance(sequence, TokenSequence):
            raise ModelError(
                f"{method} of {model.name} gave {type(sequence).__name__}, not a TokenSequence"
            )
        if sequences and not sequence.has_prompt_of(sequences[0]):
            raise ModelError(
                f"{method} of {model.name} gave another prompt for the answer {answer!r} than for "
                f"{sample.candidates[0]!r}; a prompt must not depend on the answer"
            )
        sequences.append(sequence)
    return tuple(sequences)


def require_can_read(model: AnyModel, samples: Iterable[Sample]) -> None:
    """Raises `InputError` unless the model can read what samples show: frames or text."""
    kinds = {sample.text is None for sample in samples}
    if False in kinds:
        require_counter(model)
    if True in kinds and not isinstance(model, ChatModel):
        require_encoder(model)


def _composer(model: TokenModel, sample: Sample) -> tuple[Callable[[str], object], str]:
    """What gives the sequence of an answer, and the name of the model's method that does it."""
    if sample.text is not None:
        prompt = sample.prompt
        reader = require_reader(model)
        return lambda answer: reader.compose_text(prompt, answer), "compose_text"
    encoder, frames = require_encoder(model), Frames.of(sample.shown)
    return lambda answer: encoder.compose(frames, sample.question, answer), "compose"


def reads_only_text(model: AnyModel) -> bool:
    """Whether it is a language model without eyes."""
    return isinstance(model, LanguageModel) and not isinstance(model, EncodingModel)


def require_encoder(model: AnyModel) -> EncodingModel:
    """The model, if it reads embeddings.

    Raises:
        InputError: it is a chat model, or reads only text.
    """
    if isinstance(model, EncodingModel):  # first, as it is asked for every sample
        return model
    if reads_only_text(model):
        raise InputError(
            f"{model.name} is a language model, which reads text and no frames; measure it with a "
            "task of text, --task niah"
        )
    raise InputError(f"{model.name} is a chat model: it reads pictures, not embeddings")


def require_counter(model: AnyModel) -> CountsTokens:
    """The model, if it reads text and counts its tokens: a language model, or one that answers in
    words and has a method ``token_ends``.

    Raises:
        InputError: it does not.
    """
    if isinstance(model, ChatModel) and isinstance(model, CountsTokens):
        model.token_ends("")  # a server says here whether it knows its tokenizer
        return model
    return require_reader(model)


def require_reader(model: AnyModel) -> LanguageModel:
    """The model, if it reads text.

    Raises:
        InputError: it does not.
    """
    if not isinstance(model, LanguageModel):
        raise InputError(
            f"the task shows text, and {model.name} has no decoder that reads text alone "
            "(compose_text and token_ends); measure a language model, such as smollm2"
        )
    return model


def decoder_logits(model: HasDecoder, sequence: TokenSequence, store: FrameStore) -> Tensor:
    """The answer logits of one sequence by a pass of its own, ``[len(answer_ids), vocabulary]``."""
    inputs = DecoderInputs(model, [sequence], store)
    positions = inputs.positions(0)
    hidden = inputs.embed(sequence.input_pieces, 0, positions.shape[-1])
    deepstack = deepstack_rows(inputs, sequence.input_pieces, hidden)
    num_rows = inputs.num_answer_rows(0)
    return answer_logits(
        model.decoder,
        hidden,
        positions,
        num_rows=num_rows,
        images=inputs.images(sequence.input_pieces),
        deepstack=deepstack,
        token_ids=inputs.token_ids(sequence.input_pieces, 0, len(hidden)),
    )
