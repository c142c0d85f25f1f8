"""One forward pass over a very long sequence: layer by layer, in chunks, and with no KV cache.

A transformers decoder runs all layers on all rows at once, or keeps the keys and values of every
layer. Here all rows go through layer 0, then all through layer 1, and so on, and within a layer in
chunks of some thousand rows. Alive at any time are

    hidden      [T, H]            the rows between two layers, updated in place
    memory      of the present layer only: keys and values [1, Hk, T, D] of all tokens, or less
    one chunk   [chunk, ...]      inside the unmodified transformers layer

How a layer reads what came before its rows, and what it keeps, says its kind
(`vniah.forward.kinds`). Layers with attention call a registered attention function, which hands
their queries, keys and values to the call that they run in.

A pass may continue from a prefix of which keys and values were stored, and may store its own.
Logits are read from suffixes: short groups of rows, each of which sees its own part of the pass.
They go through each layer together, after the main rows. In the last layer that computes keys of
its own, the main rows stop as soon as their keys and values are computed. Rows that are spliced
into the main rows (`vniah.forward.splices`) go through the layers like suffixes.

T tokens, H hidden size, Hq and Hk heads of queries and of keys/values, D head size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from vniah.errors import ModelError
from vniah.forward.attention import Kernel, KeysValuesDone
from vniah.forward.decoders import (
    THREE_ROWS_OF_POSITIONS,
    attention_set_to,
    depends_on_length,
    require_positions,
    require_supported,
)
from vniah.forward.hooks import as_attended
from vniah.forward.kernels import choose_kernel
from vniah.forward.kinds.base import AttentionCall, LayerCall, PassTokens
from vniah.forward.kinds.choosing import (
    heads_of,
    kinds_of,
    last_with_own_keys,
    layer_types_of,
    require_can_ring,
    require_can_splice,
)
from vniah.forward.kv_cache import KeyValueCache, Layout, Span
from vniah.forward.layer_inputs import LayerInputs
from vniah.forward.offload import released_after_pass
from vniah.forward.ring import Ring
from vniah.forward.rotation import rotate, rows_of
from vniah.forward.slabs import Slab, slabs_of
from vniah.forward.splices import SplicedBranch
from vniah.forward.suffixes import Rows, SuffixGroup, SuffixRows, suffix_groups
from vniah.forward.watching import Watch

CHUNK_SIZE = 2048

# Must not contain "flash": transformers builds masks for such names, and none for unknown ones.
_ATTENTION_NAME = "vniah_prefill"

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
    images: Sequence[Span] = (),
    token_ids: Tensor | None = None,
    past: Sequence[KeyValueCache] = (),
    cache: KeyValueCache | None = None,
    chunk_size: int = CHUNK_SIZE,
    kernel: Kernel | None = None,
    ring: Ring | None = None,
    add_deepstack: Callable[[int, Tensor], None] | None = None,
    finishes: bool = False,
    on_logits: Callable[[int, Tensor], None] | None = None,
    on_watched: Callable[[int, Tensor], None] | None = None,
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
        images: the tokens of each image among the main rows, for a decoder in which the rows of an
            image see one another; ascending, and with tokens in between.
        token_ids: of the main rows, ``[T]``, for a decoder whose layers get something of them
            (`vniah.forward.layer_inputs`).
        past: keys and values of everything before the main rows, in the order of tokens.
        cache: where to store this pass's own keys and values; None does not store them.
        chunk_size: rows that go through a layer at once; changes memory and speed, not the result.
        kernel: computes the attention; by default the fastest that is right on the device.
        ring: the processes that run this pass together.
        add_deepstack: called after every layer but the last with the layer's number and
            ``hidden``, to which it adds DeepStack features in place. Suffix rows carry their own.
        finishes: whether the main rows go through the last layers as well. Then ``hidden`` ends as
            what the decoder's last norm and ``lm_head`` read; otherwise its content has no meaning.
        on_logits: called with the number of each suffix and its logits, which are then not kept:
            those of ten thousand suffixes take more memory than all else. Nothing is returned.
        on_watched: called with the number of each suffix that has watched tokens and the attention
            mass of these, ``[groups, layers, Hq, rows]`` fp32 on the CPU; NaN in layers without
            attention. None computes nothing of this. Not with a ring or with spliced branches.

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
    assert on_watched is None or (ring is None and not spliced)
    require_supported(decoder)
    require_positions(decoder, position_ids, stop - start)

    kinds, layer_types = kinds_of(body), layer_types_of(body)
    main = Layout.whole(start, stop) if ring is None else ring.layout(start, stop)
    rank = 0 if ring is None else ring.rank
    if ring is not None:
        require_can_ring(body)
    assert len(hidden) == main.num_rows(rank)
    ends = {*(suffix.stop for suffix in suffixes), *(() if cache is None else cache.ends)}
    tokens = PassTokens(
        main,
        rank,
        past,
        tuple(sorted(ends)),
        tuple(images),
        chunk_size,
        kernel or choose_kernel(hidden.device, hidden.dtype, heads_of(body)),
        ring,
        hidden,
        finishes,
    )
    memories = {kind: kind.open(tokens) for kind in dict.fromkeys(k.memory_kind for k in kinds)}
    last_kept = last_with_own_keys(kinds)
    asked = [suffix.position_ids for suffix in suffixes]
    asked += [block.position_ids for branch in spliced for block in branch.blocks]
    spans = main.spans[rank]
    angles, read_angles = rotate(body, layer_types, hidden, position_ids, start, spans, asked)
    positions = position_ids.to(hidden.device)
    inputs = LayerInputs.of(body, hidden, token_ids)
    rows = Rows(hidden, angles, _positions_of(positions, main, rank, start, stop), inputs)
    num_rows = sum(len(suffix.hidden) for suffix in suffixes)
    groups: list[SuffixGroup | Slab] = [
        *suffix_groups(suffixes, body, rows_of(read_angles, slice(0, num_rows)), chunk_size),
        *slabs_of(spliced, body, rows_of(read_angles, slice(num_rows, None)), chunk_size),
    ]

    watches = [
        Watch(group, len(kinds)) if on_watched and isinstance(group, SuffixGroup) else None
        for group in groups
    ]

    with _layers_call_attention(body):
        for index, (layer, kind) in enumerate(zip(body.layers, kinds, strict=True)):
            is_last = index == len(body.layers) - 1
            memory = memories[kind.memory_kind]
            memory.load(index, layer)
            for call in memory.main_calls(finishes=finishes or index < last_kept):
                _run(layer, index, layer_types[index], rows, call)
            if cache is not None:
                memory.save(index, cache)
            for group, watch in zip(groups, watches, strict=True):
                for call in memory.suffix_calls(group, is_last=is_last):
                    if watch is not None and watch.watches:
                        call.watch = watch.in_layer(index, memory)
                    _run(layer, index, layer_types[index], group.rows, call)
                group.add_deepstack(index)
            if add_deepstack is not None and not is_last:
                add_deepstack(index, hidden)
    found: list[Tensor] = []
    take = on_logits or (lambda number, logits: found.append(logits))
    for number, logits in enumerate(logits for group in groups for logits in group.read(decoder)):
        take(number, logits)
    if on_watched is not None:
        masses = chain.from_iterable(watch.read() for watch in watches if watch is not None)
        for number, mass in enumerate(masses):
            if mass is not None:
                on_watched(number, mass)
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
    images: Sequence[Span] = (),
    deepstack: Tensor | None = None,
    token_ids: Tensor | None = None,
) -> Tensor:
    """Logits of the last rows of one sequence, ``[num_rows, vocabulary]`` fp32.

    Args:
        decoder: as `prefill`.
        hidden: input embeddings of the whole sequence, ``[T, H]``; overwritten.
        position_ids: ``[T]``, or ``[3, T]``.
        num_rows: how many rows are read, at the end of the sequence.
        chunk_size: as `prefill`.
        kernel: as `prefill`.
        images: as `prefill`; before the rows that are read.
        deepstack: what is added to all rows after each of the first layers, ``[layers, T, H]``.
        token_ids: as `prefill`; of all rows.
    """
    start = len(hidden) - num_rows
    assert num_rows >= 1 and start >= 0 and all(image.stop <= start for image in images)
    require_positions(decoder, position_ids, len(hidden))
    suffix = SuffixRows(
        (Span(0, start),),
        hidden[start:],
        position_ids[..., start:],
        num_rows,
        None if deepstack is None else deepstack[:, start:],
        token_ids=None if token_ids is None else token_ids[start:],
    )

    def add_deepstack(layer: int, rows: Tensor) -> None:
        if deepstack is not None and layer < len(deepstack):
            rows += deepstack[layer, :start]

    (logits,) = prefill(
        decoder,
        hidden[:start],
        position_ids[..., :start],
        [suffix],
        images=images,
        token_ids=None if token_ids is None else token_ids[:start],
        chunk_size=chunk_size,
        kernel=kernel,
        add_deepstack=add_deepstack,
    )
    return logits


@torch.inference_mode()
def run_alone(decoder: Any, index: int, hidden: Tensor) -> None:
    """Runs rows through one layer in place, each as if it were alone: for measuring its time.

    Args:
        decoder: as `prefill`.
        index: the number of the layer.
        hidden: ``[n, H]``.
    """
    body = decoder.model
    kind, layer_types = kinds_of(body)[index], layer_types_of(body)
    positions = torch.arange(len(hidden))
    if body.config.model_type in THREE_ROWS_OF_POSITIONS:
        positions = positions.expand(3, -1)
    spans = (Span(0, len(hidden)),)
    angles, _ = rotate(body, layer_types, hidden, positions, 0, spans, [])
    inputs = LayerInputs.of(body, hidden, torch.zeros(len(hidden), dtype=torch.long))
    rows = Rows(hidden, angles, positions.to(hidden.device), inputs)
    with _layers_call_attention(body):
        _run(body.layers[index], index, layer_types[index], rows, kind.alone())


@contextmanager
def _layers_call_attention(body: Any) -> Iterator[None]:
    """Has the decoder's layers call `_attention` inside the block."""
    from transformers import AttentionInterface  # takes seconds, and not every model has layers

    AttentionInterface.register(_ATTENTION_NAME, _attention)
    with _ONE_PASS, attention_set_to(body, _ATTENTION_NAME), released_after_pass(body):
        yield


def _positions_of(positions: Tensor, main: Layout, rank: int, start: int, stop: int) -> Tensor:
    """Position ids of this process's main rows, ``[n]`` or ``[3, n]``."""
    own = [torch.arange(*span, device=positions.device) - start for span in main.spans[rank]]
    return positions[..., torch.cat(own).clamp(max=max(0, stop - start - 1))]


def _run(layer: Any, index: int, layer_type: str, rows: Rows, call: LayerCall) -> None:
    """Runs some rows through a layer, in place."""
    part = call.rows
    hidden = rows.hidden[part]
    is_batch = hidden.ndim == 3
    with suppress(KeysValuesDone):
        found = layer(
            hidden if is_batch else hidden[None],
            **rows.arguments(index, layer_type, part),
            attention_mask=None,
            past_key_values=call.past,
            use_cache=False,
            **call.arguments,
        )
        if isinstance(found, tuple):
            found = found[0]
        if isinstance(part, Tensor) and call.num_used is not None:
            part, found = part[:, : call.num_used], found[:, : call.num_used]
        if call.num_used != 0:
            rows.hidden[part] = found if is_batch else found[0]
    if not call.was_called:
        raise ModelError(
            f"layer {index} of the decoder computes attention in a way of its own, which vniah's "
            "forward pass does not run; give the model an answer_logits method instead"
        )


# What transformers' layers hand to an attention function besides, and what each may be: this pass
# does what they ask for in another way, or they ask for nothing.
_KNOWN_ARGUMENTS: dict[str, Callable[[Any], bool]] = {
    "dropout": lambda value: not value,
    "is_causal": lambda value: value in (None, True),
    "sliding_window": lambda value: True,  # `kinds_of` has compared it with the config
    "position_ids": lambda value: True,
    "use_cache": lambda value: True,
    "position_embeddings": lambda value: True,
}


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    vniah_attention: AttentionCall,
    scaling: float | None = None,
    s_aux: Tensor | None = None,
    sinks: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers' layers call; ``query`` is ``[1, Hq, n, D]``.

    Attention sinks are scores of a key whose value is zero, one for each head; they only make the
    softmax's denominator larger (Xiao et al. 2023, arXiv 2309.17453).
    """
    assert attention_mask is None
    for name, argument in others.items():
        if argument is not None and not _KNOWN_ARGUMENTS.get(name, lambda _: False)(argument):
            raise ModelError(
                f"the decoder's {type(module).__name__} gives attention the argument {name!r}, "
                "which vniah's forward pass would leave out; give the model an answer_logits "
                "method instead"
            )
    vniah_attention.was_called = True
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    key, value = as_attended(module, key, value)
    out, lse = vniah_attention.attend(query, key, value, scale)
    sinks = s_aux if sinks is None else sinks
    if sinks is not None:
        if lse is None:
            raise ModelError(
                f"the decoder's {type(module).__name__} has attention sinks, which a pass over "
                "several processes leaves out; run it without --context-parallel"
            )
        sinks = sinks.float()[None, :, None]
        out = out * torch.sigmoid(lse - sinks)[..., None]
        lse = torch.logaddexp(lse, sinks)
    if vniah_attention.watch is not None:
        assert lse is not None, "several processes have no log-sum-exp over all keys"
        vniah_attention.watch(query, key, lse, scale)
    return out.to(query.dtype).transpose(1, 2).contiguous(), None
