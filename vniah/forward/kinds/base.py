"""What the forward pass asks of a kind of layer.

The forward pass (`vniah.forward.prefill`) takes all rows through one layer after the other, and
knows no kind of layer by name. A kind says which rows go through the layer in one call, what these
read of the tokens before them, what is kept for suffixes and for later passes, and what all this
costs. Which kind each layer of a decoder is says `vniah.forward.kinds.choosing`.

    kind        one for each kind and its sizes: a sliding window of 512 tokens, ...
    memory      one for each kind and pass: what the layer that is running has read so far
    call        one for each time that a layer is called: some rows, and what they attend to

T tokens, n rows, Hq and Hk heads of queries and of keys/values, D head size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vniah.errors import ModelError
from vniah.forward.attention import Heads, Kernel
from vniah.forward.kv_cache import KeyValueCache, Layout, Span, Stored
from vniah.forward.ring import Ring

SeesAttention = Callable[[Tensor, Tensor, Tensor, float], None]
"""Called with queries ``[1, Hq, n, D]`` and keys ``[1, Hk, n, D]`` of the rows of a call, the
log-sum-exp of each row over all that it sees ``[1, Hq, n]``, and the factor on the scores."""


@dataclass(frozen=True)
class PassTokens:
    """The tokens of one pass, as every kind of layer sees them.

    Attributes:
        main: which tokens of this pass each rank computes.
        rank: the number of this process.
        past: what earlier passes stored, in the order of tokens.
        ends: the tokens before which suffixes, or later passes, go on; ascending.
        images: the tokens of each image among the main rows, where the rows of an image see one
            another; ascending, and with tokens in between.
        chunk_size: rows that go through a layer at once.
        kernel: computes the attention over each block of keys.
        ring: the processes that run the pass together, if there are several.
        like: a tensor of the dtype and on the device of the rows.
        finishes: whether the main rows go through all layers, also where nothing but rows of their
            own reads them.
    """

    main: Layout
    rank: int
    past: Sequence[KeyValueCache]
    ends: tuple[int, ...]
    images: tuple[Span, ...]
    chunk_size: int
    kernel: Kernel
    ring: Ring | None
    like: Tensor
    finishes: bool = False

    @property
    def start(self) -> int:
        """The number of tokens before the main rows."""
        return self.main.spans[0][0].start


@dataclass(frozen=True)
class Chunk:
    """Main rows of this process that go through a layer together.

    Attributes:
        rows: their numbers among the main rows of this process.
        start: number of tokens before the first of them.
        images: where images begin and end among them.
    """

    rows: slice
    start: int
    images: tuple[Span, ...] = ()

    @property
    def stop(self) -> int:
        """One more than the last of their tokens."""
        return self.start + int(self.rows.stop - self.rows.start)


class LayerCall:
    """One call of a layer, with some rows.

    Args:
        rows: as below.
        past: as below.
        num_used: as below.

    Attributes:
        rows: the numbers of the rows: a slice, or ``[n]``; ``[B, n]`` for a batch of sequences.
        past: what the layer gets in the place of a cache of transformers.
        num_used: of a batch of sequences, how many rows of each are used, from the first on; None
            for all. With 0 the call only changes ``past``.
        more: further arguments of the layer.
        was_called: whether the layer has asked for what the rows attend to. A layer that never
            does computes something that this call knows nothing of.
        watch: what else is to be done with the attention of the rows (`vniah.forward.watching`);
            never called for a layer without attention.
    """

    def __init__(self, rows: slice | Tensor, past: Any = None, num_used: int | None = None) -> None:
        self.rows = rows
        self.past = past
        self.num_used = num_used
        self.more: Mapping[str, Any] = {}
        self.was_called = False
        self.watch: SeesAttention | None = None

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What else the layer is called with."""
        return self.more


class AttentionCall(LayerCall):
    """A call of a layer that hands its queries, keys and values to an attention function."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The call itself, which the layer hands on to the attention function."""
        return {"vniah_attention": self, **self.more}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor | None]:
        """What the rows attend to, with keys and values of the rows themselves.

        Args:
            q: ``[B, Hq, n, D]``.
            k: ``[B, Hk, n, D]``.
            v: ``[B, Hk, n, Dv]``.
            scale: factor on the scores.

        Returns:
            Weighted values ``[B, Hq, n, Dv]``, and the log-sum-exp of the scores ``[B, Hq, n]``,
            fp32; None if it is not known.
        """
        raise NotImplementedError


class AloneCall(AttentionCall):
    """All rows, each of which attends to itself alone: for measuring all but the attention."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor | None]:
        """The values, for every head, as if each score were 0."""
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1), q[..., 0].float() * 0


class LayerMemory(ABC):
    """What a layer has read in this pass and before; all layers of one kind use it in turn."""

    @abstractmethod
    def load(self, index: int, layer: Any) -> None:
        """Begins with a layer: reads what earlier passes stored of it."""

    @abstractmethod
    def main_calls(self, *, finishes: bool) -> Iterator[LayerCall]:
        """The calls for the main rows, in order; each is made before the next is asked for.

        Args:
            finishes: False if nobody reads the layer's rows: then only what it keeps is computed.
        """

    @abstractmethod
    def save(self, index: int, cache: KeyValueCache) -> None:
        """Stores what later passes read of the layer, after the main calls."""

    @abstractmethod
    def suffix_calls(self, group: Any, *, is_last: bool) -> Iterator[LayerCall]:
        """The calls for a group of suffixes, after the main calls.

        Args:
            group: a `vniah.forward.suffixes.SuffixGroup`, or for a kind that can splice a
                `vniah.forward.slabs.Slab`.
            is_last: whether the layer is the last of the decoder.
        """

    def first_seen(self, token: int) -> int:
        """The first token that the row of a token sees."""
        return 0

    def keys_between(self, start: int, stop: int) -> Iterator[Tensor]:
        """The keys of the tokens ``start`` to ``stop - 1``, in order, in blocks ``[1, Hk, n, D]``.

        All of them are before a suffix that sees them.

        Raises:
            ModelError: the kind of layer does not say which keys its rows attend to.
        """
        raise ModelError(
            f"{type(self).__name__} does not say which keys its rows attend to, so attention "
            "cannot be traced: leave out --trace-attention"
        )


@dataclass(frozen=True)
class PassSize:
    """How large a pass is, for what it costs.

    Attributes:
        start: number of tokens before its main rows.
        stop: number of tokens up to its end.
        ends: as `PassTokens.ends`.
        chunk_size: rows that go through a layer at once.
        num_in_suffixes: rows of all its suffixes.
    """

    start: int
    stop: int
    ends: tuple[int, ...]
    chunk_size: int
    num_in_suffixes: int = 0


class LayerKind(ABC):
    """One kind of layer, with its sizes; equal kinds compare as equal."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in messages and tables."""

    @property
    def memory_kind(self) -> "LayerKind":
        """The kind in whose memory its layers read: another one if they have no keys."""
        return self

    @property
    def runs_in_ring(self) -> bool:
        """Whether several processes can run a pass together."""
        return False

    @property
    def can_splice(self) -> bool:
        """Whether rows can be spliced into a trunk (`vniah.forward.splices`)."""
        return False

    @property
    def heads(self) -> Heads | None:
        """The heads with which the layer calls a kernel; None if it calls none."""
        return None

    @abstractmethod
    def open(self, tokens: PassTokens) -> LayerMemory:
        """The memory of one pass."""

    @abstractmethod
    def stored(self, layout: Layout, rank: int, ends: tuple[int, ...]) -> tuple[Stored, ...]:
        """The tensors that a pass stores of a layer.

        Args:
            layout: the tokens that each rank stores.
            rank: the number of this rank.
            ends: the tokens before which later passes go on.
        """

    def alone(self) -> LayerCall:
        """A call of the layer with all rows, in which these read nothing of one another."""
        return AloneCall(slice(None))

    # What it costs, besides the layer's matrices.

    @abstractmethod
    def held_bytes(self, size: PassSize, itemsize: int) -> int:
        """Bytes of what one process holds of the present layer, main rows and past.

        Args:
            size: of the pass.
            itemsize: bytes of a number in the decoder's dtype.
        """

    def num_pairs(self, start: int, num_tokens: int) -> int:
        """Rows and keys that meet, of rows that begin at a token; 0 without attention.

        By default every row meets itself and all tokens before it.
        """
        return 0 if self.heads is None else causal_pairs(start, num_tokens)

    @property
    def pair_flops(self) -> int:
        """Operations for each of these pairs, of all heads: a product with the key, and one with
        the value, which has as many numbers, or zeros behind it.
        """
        return 0 if self.heads is None else 4 * self.heads.num_heads * self.heads.head_dim

    @property
    def row_flops(self) -> int:
        """Operations for each row, whatever came before it."""
        return 0

    def row_bytes(self, itemsize: int) -> int:
        """Bytes of a row inside the layer, if it is no attention; else 0."""
        return 0


def causal_pairs(start: int, num_tokens: int) -> int:
    """Pairs of rows, each with itself and all tokens before it.

    >>> causal_pairs(10, 2)
    23
    """
    return num_tokens * start + num_tokens * (num_tokens + 1) // 2


def chunks_of(
    tokens: PassTokens,
    *,
    cuts: Sequence[int] = (),
    sees_images: bool = False,
    leaves_no_row: bool = False,
    avoided: Collection[int] = (),
) -> list[Chunk]:
    """The main rows of this process in chunks, none of which reaches across two spans of it.

    Args:
        tokens: the pass.
        cuts: tokens before which a chunk ends.
        sees_images: whether no chunk may end inside an image; one longer than a chunk is a chunk.
        leaves_no_row: whether no chunk has a single row, as far as the cuts allow it.
        avoided: tokens before which no chunk ends, unless they are cuts.
    """
    images = tokens.images if sees_images else ()
    found = []
    for span, row in tokens.main.located(tokens.rank):
        borders = [*(cut for cut in cuts if span.start < cut < span.stop), span.stop]
        start = span.start
        while start < span.stop:
            border = next(border for border in borders if border > start)
            size = max(2, tokens.chunk_size) if leaves_no_row else tokens.chunk_size
            stop = min(start + size, border)
            if leaves_no_row and stop + 1 == border:
                stop = border
            while stop in avoided and start + 2 < stop < border:
                stop -= 1
            if stop in avoided:
                stop = border
            stop = _outside(images, start, stop)
            inside = tuple(
                Span(image.start - start, image.stop - start)
                for image in images
                if start <= image.start < stop
            )
            first = row + start - span.start
            found.append(Chunk(slice(first, first + stop - start), start, inside))
            start = stop
    return found


def _outside(images: Sequence[Span], start: int, stop: int) -> int:
    """Where a chunk ends that would cut an image: before it, or behind one that it begins with."""
    for image in images:
        if image.start < stop < image.stop:
            return image.start if image.start > start else image.stop
    return stop
