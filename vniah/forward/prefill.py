"""One forward pass over a very long sequence: layer by layer, in chunks, and with no KV cache.

A transformers decoder runs all layers on all rows at once, or keeps the keys and values of every
layer. Here all rows go through layer 0, then all through layer 1, and so on, and within a layer in
chunks of some thousand rows. Alive at any time are

    hidden      [T, H]            the rows between two layers, updated in place
    k, v        [1, Hk, T, D]     of the present layer only (`vniah.forward.kv_cache`)
    one chunk   [chunk, ...]      inside the unmodified transformers layer

A registered attention function writes the chunk's keys and values into the layer's buffer and
attends to [the chunk itself, causal | all earlier keys]; the two parts merge by log-sum-exp.

A pass may continue from a prefix whose keys and values were stored, and may store its own. Logits
are read from suffixes: short groups of rows, each of which sees its own part of the pass. They go
through each layer together, after the main rows. In the last layer the main rows stop as soon as
their keys and values are computed. Rows that are spliced into the main rows
(`vniah.forward.splices`) go through the layers like suffixes.

T tokens, H hidden size, Hq and Hk heads of queries and of keys/values, D head size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from vniah.errors import ModelError
from vniah.forward.attention import Kernel, KeyBlock, KeysValuesDone, attend
from vniah.forward.decoders import (
    attention_set_to,
    depends_on_length,
    heads_of,
    require_positions,
    require_supported,
    reset_dynamic_rope,
)
from vniah.forward.kernels import choose_kernel
from vniah.forward.kv_cache import KeyValueCache, LayerKeyValues, Layout, Span
from vniah.forward.offload import released_after_pass
from vniah.forward.ring import Ring
from vniah.forward.slabs import Slab, SlabAttention, SlabKeysValues, slabs_of
from vniah.forward.splices import SplicedBranch, require_can_splice
from vniah.forward.suffixes import (
    Rows,
    SuffixAttention,
    SuffixGroup,
    SuffixRows,
    suffix_groups,
)

CHUNK_SIZE = 2048

# Must not contain "flash": transformers builds masks for such names, and none for unknown ones.
_ATTENTION_NAME = "vniah_prefill"

# Rows whose angles are computed at once, in fp32.
ROPE_BLOCK = 16384
# Which attention function its layers call is a setting of the decoder, so one pass at a time.
_ONE_PASS = Lock()


@torch.inference_mode()
def prefill(
    decoder: Any,
    hidden: Tensor,
    position_ids: Tensor,
    suffixes: Sequence[SuffixRows],
    *,
    spliced: Sequence[SplicedBranch] = (),
    past: Sequence[KeyValueCache] = (),
    cache: KeyValueCache | None = None,
    chunk_size: int = CHUNK_SIZE,
    kernel: Kernel | None = None,
    ring: Ring | None = None,
    add_deepstack: Callable[[int, Tensor], None] | None = None,
    finishes: bool = False,
    on_logits: Callable[[int, Tensor], None] | None = None,
) -> list[Tensor]:
    """One pass: the logits of every suffix, ``[num_rows, vocabulary]`` fp32.

    Those of the suffixes come first, then those of the suffixes of spliced branches.

    Args:
        decoder: a transformers causal language model, e.g. ``Qwen2ForCausalLM``: anything with
            its ``model`` and ``lm_head``.
        hidden: input embeddings ``[T, H]`` of the main rows in the decoder's dtype; overwritten.
            With a ring, those of this rank (`Ring.layout`).
        position_ids: of all main rows, on every rank, ``[T]``, or ``[3, T]`` for M-RoPE.
        suffixes: the rows whose logits are read. Where RoPE depends on the length of the sequence,
            only one, and no past; or none, where the main rows are read. Memory is copied least
            where suffixes that see the same keys follow one another.
        spliced: branches of which the main rows know nothing; not with a ring. Up to
            ``chunk_size`` of their rows go through a layer at once, or one branch with more.
        past: keys and values of everything before the main rows, in the order of tokens.
        cache: where to store this pass's own keys and values; None does not store them.
        chunk_size: rows that go through a layer at once; changes memory and speed, not the result.
        kernel: computes the attention; by default the fastest that is right on the device.
        ring: the processes that run this pass together.
        add_deepstack: called after every layer but the last with the layer's number and
            ``hidden``, to which it adds DeepStack features in place. Suffix rows carry their own.
        finishes: whether the main rows go through the last layer as well. Then ``hidden`` ends as
            what the decoder's last norm and ``lm_head`` read; otherwise its content has no meaning.
        on_logits: called with the number of each suffix and its logits, which are then not kept:
            those of ten thousand suffixes take more memory than all else. Nothing is returned.

    Raises:
        ModelError: the decoder computes something that this pass would not compute exactly.
    """
    assert chunk_size >= 1
    body = decoder.model
    start = past[-1].stop if past else 0
    stop = start + position_ids.shape[-1]
    read: list[SuffixRows | SplicedBranch] = [*suffixes, *spliced]
    assert all(rows.fits(stop) for rows in read)
    num_read = len(suffixes) + finishes
    if spliced:
        require_can_splice(decoder)
    assert not depends_on_length(body) or (not past and cache is None and num_read == 1)
    require_supported(decoder, max([stop, *(rows.length for rows in read)]))
    require_positions(decoder, position_ids, stop - start)

    main = Layout.whole(start, stop) if ring is None else ring.layout(start, stop)
    rank = 0 if ring is None else ring.rank
    assert len(hidden) == main.num_rows(rank)
    kernel = kernel or choose_kernel(hidden.device, hidden.dtype, heads_of(body))
    keys = LayerKeyValues(body, past, main, rank=rank, like=hidden)
    asked = [suffix.position_ids for suffix in suffixes]
    asked += [block.position_ids for branch in spliced for block in branch.blocks]
    angles, read_angles = _rotate(body, hidden, position_ids, start, main.spans[rank], asked)
    rows = Rows(hidden, angles)
    whole = None if ring is None or not ring.takes_whole(keys) else _WholeShare(ring, keys)
    num_rows = sum(len(suffix.hidden) for suffix in suffixes)
    groups: list[SuffixGroup | Slab] = [
        *suffix_groups(suffixes, read_angles[:, :, :num_rows], chunk_size),
        *slabs_of(spliced, body, read_angles[:, :, num_rows:], chunk_size),
    ]
    chunks = list(_chunks(main, rank, chunk_size))

    def run_chunks(index: int, *, attends: bool) -> None:
        for chunk in chunks:
            attention = _ChunkAttention(keys, chunk, kernel, ring, whole, attends)
            _run(body.layers[index], index, rows, attention)

    from transformers import AttentionInterface  # takes seconds, and not every model has layers

    AttentionInterface.register(_ATTENTION_NAME, _attention)
    with _ONE_PASS, attention_set_to(body, _ATTENTION_NAME), released_after_pass(body):
        for index, layer in enumerate(body.layers):
            is_last = index == len(body.layers) - 1
            keys.load(index)
            attends = finishes or not is_last
            if ring is not None or not attends:  # no rank attends before all have their keys
                run_chunks(index, attends=False)
            if attends:
                if whole is not None:
                    whole.attend()
                run_chunks(index, attends=True)
            if cache is not None:
                keys.save(index, cache)
            for group in groups:
                for attention in group.attentions(keys, kernel, ring, is_last=is_last):
                    _run(layer, index, group.rows, attention)
                group.add_deepstack(index)
            if add_deepstack is not None and not is_last:
                add_deepstack(index, hidden)
    found: list[Tensor] = []
    take = on_logits or (lambda number, logits: found.append(logits))
    for number, logits in enumerate(logits for group in groups for logits in group.read(decoder)):
        take(number, logits)
    return found


@torch.inference_mode()
def answer_logits(
    decoder: Any,
    hidden: Tensor,
    position_ids: Tensor,
    *,
    num_rows: int,
    chunk_size: int = CHUNK_SIZE,
    kernel: Kernel | None = None,
    deepstack: Tensor | None = None,
) -> Tensor:
    """Logits of the last rows of one sequence, ``[num_rows, vocabulary]`` fp32.

    Args:
        decoder: as `prefill`.
        hidden: input embeddings of the whole sequence, ``[T, H]``; overwritten.
        position_ids: ``[T]``, or ``[3, T]``.
        num_rows: how many rows are read, at the end of the sequence.
        chunk_size: as `prefill`.
        kernel: as `prefill`.
        deepstack: what is added to all rows after each of the first layers, ``[layers, T, H]``.
    """
    start = len(hidden) - num_rows
    assert num_rows >= 1 and start >= 0
    require_positions(decoder, position_ids, len(hidden))
    suffix = SuffixRows(
        (Span(0, start),),
        hidden[start:],
        position_ids[..., start:],
        num_rows,
        None if deepstack is None else deepstack[:, start:],
    )

    def add_deepstack(layer: int, rows: Tensor) -> None:
        if deepstack is not None and layer < len(deepstack):
            rows += deepstack[layer, :start]

    (logits,) = prefill(
        decoder,
        hidden[:start],
        position_ids[..., :start],
        [suffix],
        chunk_size=chunk_size,
        kernel=kernel,
        add_deepstack=add_deepstack,
    )
    return logits


@dataclass(frozen=True)
class _Chunk:
    """Main rows of this process that go through a layer together.

    Attributes:
        rows: their numbers among the main rows of this process.
        start: number of tokens before the first of them.
    """

    rows: slice
    start: int


def _chunks(main: Layout, rank: int, chunk_size: int) -> Iterator[_Chunk]:
    """The main rows of a rank in chunks, none of which reaches across two spans of the rank."""
    for span, row in main.located(rank):
        for first in range(0, span.num_tokens, chunk_size):
            last = min(first + chunk_size, span.num_tokens)
            yield _Chunk(slice(row + first, row + last), span.start + first)


def _run(
    layer: Any,
    index: int,
    rows: Rows,
    attention: "_ChunkAttention | SuffixAttention | SlabAttention | SlabKeysValues",
) -> None:
    """Runs some rows through a layer, in place."""
    part = attention.rows
    with suppress(KeysValuesDone):
        rows.hidden[part] = layer(
            rows.hidden[None, part],
            position_embeddings=(rows.angles[0, :, part], rows.angles[1, :, part]),
            attention_mask=None,
            position_ids=None,
            use_cache=False,
            vniah_attention=attention,
        )[0]
    if not attention.was_called:
        raise ModelError(
            f"layer {index} of the decoder computes attention in a way of its own, which vniah's "
            "forward pass does not run; give the model an answer_logits method instead"
        )


class _WholeShare:
    """The queries of all rows of this rank, for a ring that takes them in one call.

    After `attend` the results stand in the place of the queries.

    Args:
        ring: computes the attention.
        keys: keys and values of the present layer.
    """

    def __init__(self, ring: Ring, keys: LayerKeyValues) -> None:
        self._ring = ring
        self._keys = keys
        self._rows: Tensor | None = None
        self._scale = 0.0

    def put(self, q: Tensor, row: int, scale: float) -> None:
        """Stores a chunk's queries, ``[1, Hq, chunk, D]``, from ``row`` on."""
        if self._rows is None:
            self._rows = q.new_empty(1, q.shape[1], self._keys.k.shape[2], q.shape[3])
        self._rows[:, :, row : row + q.shape[2]] = q
        self._scale = scale

    def attend(self) -> None:
        """Computes the attention of all rows."""
        assert self._rows is not None
        self._ring.attend_whole(self._rows, self._keys, scale=self._scale)

    def get(self, rows: slice) -> Tensor:
        """The results of a chunk, ``[1, Hq, chunk, D]``."""
        assert self._rows is not None
        return self._rows[:, :, rows]


@dataclass
class _ChunkAttention:
    """Attention of a chunk to itself and to everything before it.

    Attributes:
        keys: keys and values of the present layer.
        chunk: the rows that attend.
        kernel: computes the attention over each block of keys.
        ring: the processes that run the pass together, if there are several.
        whole: collects the queries of all chunks, for a ring that takes them in one call.
        attends: False if only the chunk's keys and values are computed.
        was_called: True once the layer has called it.
    """

    keys: LayerKeyValues
    chunk: _Chunk
    kernel: Kernel
    ring: Ring | None
    whole: _WholeShare | None
    attends: bool
    was_called: bool = False

    @property
    def rows(self) -> slice:
        return self.chunk.rows

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        self.was_called = True
        self.keys.put(self.rows.start, k, v)
        if not self.attends:
            if self.whole is not None:
                self.whole.put(q, self.rows.start, scale)
            raise KeysValuesDone
        if self.whole is not None:
            return self.whole.get(self.rows)
        if self.ring is not None:
            return self.ring.attend(
                q, k, v, self.chunk.start, self.keys, kernel=self.kernel, scale=scale
            )
        before = [KeyBlock(*part) for part in self.keys.between(0, self.chunk.start)]
        own = KeyBlock(k, v, is_causal=True)
        return attend(q, [own, *before], kernel=self.kernel, scale=scale)


def _rotate(
    body: Any,
    hidden: Tensor,
    position_ids: Tensor,
    start: int,
    spans: Sequence[Span],
    others: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """RoPE's cosines and sines, ``[2, 1, n, D]``: of this rank's main rows, and of all others.

    ``others`` are the position ids of the rows that are no main rows.
    """
    rotary = body.rotary_emb
    reset_dynamic_rope(body)
    num_main, device = position_ids.shape[-1], hidden.device
    positions = torch.cat([position_ids, *others], -1).to(device)
    own = [torch.arange(*span, device=device) - start for span in spans]
    rows = torch.cat(own).clamp(max=max(0, num_main - 1))  # padding gets the last row's position
    # The largest position goes with every block: some kinds of RoPE look at the largest of a call.
    last = positions.view(-1, positions.shape[-1]).amax(0).argmax()

    def angles(columns: Tensor) -> Tensor:
        part = positions[..., torch.cat([columns, last[None]])]
        shaped = part[None] if part.ndim == 1 else part[:, None]
        return torch.stack(rotary(hidden[None], shaped))[:, :, :-1]

    of_others = angles(torch.arange(num_main, positions.shape[-1], device=device))
    of_main = of_others.new_empty(2, 1, len(rows), of_others.shape[-1])
    for first in range(0, len(rows), ROPE_BLOCK):
        block = slice(first, first + ROPE_BLOCK)
        of_main[:, :, block] = angles(rows[block])
    return of_main, of_others


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    vniah_attention: _ChunkAttention | SuffixAttention | SlabAttention | SlabKeysValues,
    scaling: float | None = None,
    softcap: float | None = None,
    **_ignored: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers' layers call; ``query`` is ``[1, Hq, n, D]``."""
    assert attention_mask is None and query.shape[0] == 1
    if softcap is not None:
        raise ModelError(
            "the decoder caps its attention scores, which the forward pass does not; give the "
            "model an answer_logits method instead"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return vniah_attention(query, key, value, scale).transpose(1, 2).contiguous(), None
