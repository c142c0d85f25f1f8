"""From token sequences to the passes that read them: what is shared, what is refused, and why."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from vniah.embeddings import FrameStore
from vniah.errors import ModelError, first_line
from vniah.forward.prefix_tree import (
    MAX_LEAF_TOKENS,
    Branch,
    Cost,
    Path,
    build_tree,
    by_themselves,
    cost_of,
)
from vniah.forward.support import (
    DEEP_MODEL_TYPES,
    depends_on_length,
    refuse_positions,
    refuse_unknown,
    refuse_unsupported,
)
from vniah.models.loading import require_protocol
from vniah.models.protocol import (
    AnyModel,
    DecoderModel,
    EncodingModel,
    FrameSegment,
    TextSegment,
    TokenSequence,
)

Segment = TextSegment | FrameSegment


@dataclass(frozen=True)
class Plan:
    """How some sequences are run.

    Attributes:
        branches: the passes, with what goes on from them.
        refused: sequences that cannot be run, and why.
        alone: the passes that would run every sequence by itself.
        note: why every sequence is run by itself although sharing was asked for; None where not.
    """

    branches: tuple[Branch, ...]
    refused: Mapping[int, str]
    alone: tuple[Branch, ...]
    note: str | None = None

    @property
    def cost(self) -> Cost:
        """What the passes compute."""
        return cost_of(self.branches)

    @property
    def cost_alone(self) -> Cost:
        """What one pass for every sequence would."""
        return cost_of(self.alone)


def make_plan(
    model: DecoderModel,
    sequences: Sequence[TokenSequence],
    *,
    share: bool = True,
    max_leaf_tokens: int = MAX_LEAF_TOKENS,
    groups: Sequence[int] | None = None,
) -> Plan:
    """The passes for some sequences.

    Sequences share what they begin with, unless that would give wrong numbers: where the model says
    so (an attribute ``shares_prefixes = False``), where RoPE depends on the length of the sequence,
    or where a token's position depends on what follows it.

    Args:
        model: what reads them.
        sequences: what `DecoderModel.compose` gave; `Branch.sequences` are their places here.
        share: False runs every sequence by itself.
        max_leaf_tokens: as `vniah.forward.prefix_tree.build_tree`.
        groups: a number for each sequence; those with equal numbers have one prompt and several
            answers. Where nothing else is shared, they still make up one pass, if they can.
    """
    size = segment_size(model)
    refused: dict[int, str] = {}
    for index, sequence in enumerate(sequences):
        try:
            refuse_sequence(model, sequence)
        except ModelError as error:
            refused[index] = first_line(error)
    indices = [index for index in range(len(sequences)) if index not in refused]
    paths = [_path(sequences[index]) for index in indices]
    alone = by_themselves(paths, size, indices)
    why_not = _why_not_shared(model)
    if groups is not None and why_not is None:
        together = by_themselves(paths, size, indices, [groups[index] for index in indices])
        if _positions_agree(model, sequences, together):
            alone = together
    note = why_not if share else None
    branches = alone
    if share and note is None:
        branches = build_tree(paths, size, indices, max_leaf_tokens=max_leaf_tokens)
    if branches is not alone and not _positions_agree(model, sequences, branches):
        note = "position ids depend on what follows"
        branches = alone
    return Plan(branches, refused, alone, note)


def can_go_on(model: DecoderModel, sequence: TokenSequence, num_tokens: int) -> bool:
    """Whether up to ``num_tokens`` may follow a prompt whose keys and values were kept.

    Not where they would change what the prompt's own tokens are: as for sharing (`make_plan`).
    """
    if _why_not_shared(model) is not None:
        return False
    num_prompt = replace(sequence, answer_ids=(0,)).num_tokens(size_of_frame(model))
    ahead = positions_of(model, followed_by(sequence, num_tokens))[..., :num_prompt]
    return torch.equal(positions_of(model, sequence)[..., :num_prompt], ahead)


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


def _path(sequence: TokenSequence) -> Path:
    """A sequence cut before the first row that is read: the last one before the answer."""
    body: list[Hashable] = list(sequence.inputs)
    tail: list[Hashable] = []
    missing = len(sequence.answer_ids)
    while missing > 0:
        last = body.pop()
        if isinstance(last, TextSegment) and len(last.token_ids) > missing:
            ids = last.token_ids
            body.append(TextSegment(ids[:-missing]))
            last = TextSegment(ids[-missing:])
        tail.insert(0, last)
        missing -= len(last.token_ids) if isinstance(last, TextSegment) else 1
    return Path(tuple(body), tuple(tail))


def _why_not_shared(model: DecoderModel) -> str | None:
    if not getattr(model, "shares_prefixes", True):
        return f"{model.name} says that its prefixes cannot be shared"
    if depends_on_length(model.decoder.model):
        kind = model.decoder.model.rotary_emb.rope_type
        return f"RoPE of the kind {kind!r} depends on the length of the sequence"
    return None


def _positions_agree(
    model: DecoderModel, sequences: Sequence[TokenSequence], roots: Sequence[Branch]
) -> bool:
    """Whether all sequences have the same positions where they share tokens."""
    for root in roots:
        for branch in root.passes():
            through: Tensor | None = None
            hanging = [(leaf.start, leaf.sequences) for leaf in branch.leaves]
            hanging += [(child.start, child.sequences[:1]) for child in branch.branches]
            for start, members in sorted(hanging, reverse=True):
                for index in members:
                    positions = positions_of(model, sequences[index])[..., :start]
                    if through is None:
                        through = positions
                    elif not torch.equal(positions, through[..., :start]):
                        return False
    return True


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
