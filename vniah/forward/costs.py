"""What passes cost, in closed form: bytes and floating point operations.

H hidden size, I intermediate size, Hq and Hk heads of queries and of keys/values, D head size,
s bytes of a number in the decoder's dtype, n rows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vniah.forward.attention import Heads
from vniah.forward.decoders import layer_input_size, num_chosen_experts
from vniah.forward.kinds.base import LayerKind, PassSize
from vniah.forward.kinds.choosing import attention_of, heads_of, kinds_of, last_with_own_keys
from vniah.forward.kinds.full import FullAttention
from vniah.forward.kv_cache import Layout
from vniah.forward.offload import offloaded
from vniah.forward.prefix_tree import Branch, Cost, costs_of
from vniah.forward.rotation import ROPE_BLOCK, num_angles

_FP32 = 4
_POSITION_BYTES = 8
# What a config calls the width of the rows inside a layer.
_WIDTHS = ("intermediate_size", "intermediate_size_mlp")
# The projection of an attention module behind its values.
_OUTPUTS = ("o_proj", "out_proj")


@dataclass(frozen=True)
class PassBytes:
    """Bytes that one pass takes on each rank, besides the weights and stored keys and values.

    Weights that are there during a pass only count as well.

    Attributes:
        hidden: input embeddings and rows between two layers, their cosines, sines and positions.
        keys_values: keys and values of the present layer; with a ring also the pieces in transit.
        chunk: the most that is alive besides these at one moment: usually a chunk inside a layer.
        layers: layers that are gathered from several processes.
    """

    hidden: int
    keys_values: int
    chunk: int
    layers: int = 0

    @property
    def total(self) -> int:
        """The sum of all."""
        return self.hidden + self.keys_values + self.chunk + self.layers


@dataclass(frozen=True)
class Flops:
    """Floating point operations; a multiplication and an addition are two.

    Attributes:
        linear: products with the matrices of the layers.
        attention: products of queries with keys, and of attention weights with values.
    """

    linear: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.linear + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.linear + other.linear, self.attention + other.attention)


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder that decide what a pass costs.

    Attributes:
        num_layers: number of layers.
        hidden_size: H.
        intermediate_size: I, the width of the widest rows inside a layer.
        num_heads: Hq.
        num_kv_heads: Hk.
        head_dim: D.
        vocab_size: columns of the logits.
        linear_weights: number of weights in the matrices of all layers.
        query_key_value_weights: those of them that compute queries, keys and values, as if all
            layers were like the one in which main rows go no further.
        weight_bytes: bytes of all that the decoder holds on its device between two passes.
        itemsize: s.
        host_weight_bytes: bytes of the layers in host memory, if they are offloaded; else 0.
        gathered_bytes: bytes of layers that a pass gathers, if their weights are shared; else 0.
        num_weight_ranks: number of processes that share the weights of the layers.
        kinds: the kind of every layer; none if all have full attention.
        num_angles: cosines and sines of a token, of all sets; by default two for each number of a
            head.
        expert_numbers: numbers of a row inside experts, if that is more than in an MLP.
        last_weights: weights in the matrices of the layer in which main rows go no further, and of
            those behind it; by default an equal share of all.
        layer_input_size: numbers that each layer gets of a token besides its row.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    linear_weights: int
    query_key_value_weights: int
    weight_bytes: int
    itemsize: int
    host_weight_bytes: int = 0
    gathered_bytes: int = 0
    num_weight_ranks: int = 1
    kinds: tuple[LayerKind, ...] = ()
    num_angles: int | None = None
    last_weights: int | None = None
    layer_input_size: int = 0
    expert_numbers: int = 0

    @classmethod
    def of(cls, decoder: Any) -> "DecoderShape":
        """The sizes of a transformers causal language model (its ``model`` and ``lm_head``)."""
        body, config = decoder.model, decoder.model.config
        num_chosen = num_chosen_experts(config)
        held = {id(t): t.nbytes for part in (body, decoder.lm_head) for t in _tensors(part)}
        layers = offloaded(body)
        if layers is not None:
            for tensor in _tensors(body.layers):
                held.pop(id(tensor), None)
            held |= {id(layers): layers.device_bytes}
        heads, kinds = heads_of(body), kinds_of(body)
        input_size = layer_input_size(config)
        of_inputs = config.hidden_size * input_size
        by_layer = [active_weights(layer, config) + of_inputs for layer in body.layers]
        last = last_with_own_keys(kinds)
        asking = _asking_weights(body.layers[last], kinds[last], by_layer[last]) + of_inputs
        return cls(
            num_layers=len(body.layers),
            hidden_size=config.hidden_size,
            intermediate_size=max(
                int(getattr(part, name, None) or 0)
                for part in (config, *(getattr(layer, "mlp", None) for layer in body.layers))
                for name in _WIDTHS
            ),
            num_heads=heads.num_heads,
            num_kv_heads=heads.num_kv_heads,
            head_dim=heads.head_dim,
            vocab_size=decoder.lm_head.weight.shape[0],
            linear_weights=sum(by_layer),
            query_key_value_weights=len(body.layers) * asking,
            weight_bytes=sum(held.values()),
            itemsize=decoder.lm_head.weight.dtype.itemsize,
            host_weight_bytes=0 if layers is None else layers.host_bytes,
            gathered_bytes=0 if layers is None else layers.pass_bytes,
            num_weight_ranks=1 if layers is None else layers.num_ranks,
            kinds=kinds,
            num_angles=num_angles(body),
            last_weights=sum(by_layer[last:]),
            layer_input_size=input_size,
            expert_numbers=max(
                _expert_numbers(module, config.hidden_size, num_chosen) for module in body.modules()
            ),
        )

    @property
    def heads(self) -> Heads:
        """The heads, on which the choice of an attention kernel depends."""
        return Heads(self.num_heads, self.num_kv_heads, self.head_dim)

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of every layer."""
        return self.kinds or (FullAttention(*self.heads),) * self.num_layers

    @property
    def hidden_bytes(self) -> int:
        """Bytes of a token's row between two layers."""
        return self.hidden_size * self.itemsize

    @property
    def key_value_bytes(self) -> int:
        """Bytes of a token's keys and values in one layer, that with the most of them."""
        heads = [self.heads, *(kind.heads for kind in self.kinds if kind.heads is not None)]
        return max(2 * one.num_kv_heads * one.head_dim for one in heads) * self.itemsize

    @property
    def angle_bytes(self) -> int:
        """Bytes of a token's cosines and sines."""
        num_angles = 2 * self.head_dim if self.num_angles is None else self.num_angles
        return num_angles * self.itemsize

    def flops_of(self, branches: Sequence[Branch], *, num_ranks: int = 1) -> Flops:
        """The operations of one rank for some branches and all their descendants.

        In the last layer with keys of its own, rows that are not read end after their queries, keys
        and values. A ring computes these twice for all main rows. Suffixes run on every rank, which
        share the work of their attention. Exact for one process, but that latents are
        expanded again for each chunk behind them; with several, each counts for an
        equal share.
        """
        main, suffixes = costs_of(branches)
        passes = [branch for root in branches for branch in root.passes()]
        in_suffixes = [suffix for branch in passes for suffix in branch.suffixes]
        attention = 0
        finished = Counter(self.layer_kinds[: last_with_own_keys(self.layer_kinds)])
        for kind, count in Counter(self.layer_kinds).items():
            pairs = [
                sum(kind.num_pairs(rows.start, rows.num_tokens) for rows in items)
                for items in (passes, in_suffixes)
            ]
            attention += kind.pair_flops * (finished[kind] * pairs[0] + count * pairs[1])
            attention += kind.row_flops * count * (main.num_tokens + suffixes.num_tokens)
        linear = self._linear_flops(main.num_tokens, suffixes.num_tokens, num_ranks=num_ranks)
        return Flops(linear, attention // num_ranks)

    def flops_of_rows(
        self, main: Cost, suffixes: Cost, *, num_ranks: int = 1, num_repeated: int = 0
    ) -> Flops:
        """The same for main rows and for rows that are read, all with full attention.

        Of ``num_repeated`` rows queries, keys and values of the last layer are computed twice.
        """
        linear = self._linear_flops(main.num_tokens, suffixes.num_tokens, num_ranks=num_ranks)
        pairs = (self.num_layers - 1) * main.num_pairs + self.num_layers * suffixes.num_pairs
        repeated = self.query_key_value_weights // self.num_layers * num_repeated
        attention = 4 * self.num_heads * self.head_dim * pairs
        return Flops(linear + 2 * repeated, attention // num_ranks)

    def _linear_flops(self, num_main: int, num_read: int, *, num_ranks: int) -> int:
        last = self.linear_weights // self.num_layers
        if self.last_weights is not None:
            last = self.last_weights
        in_main = self.linear_weights - last + self.query_key_value_weights // self.num_layers
        if num_ranks > 1:
            in_main += self.query_key_value_weights * (self.num_layers - 1) // self.num_layers
        return 2 * (in_main * num_main // num_ranks + self.linear_weights * num_read)

    def store_bytes(self, num_tokens: int) -> int:
        """Bytes of the keys and values of all layers."""
        return self.num_layers * self.key_value_bytes * num_tokens

    def kept_bytes(self, branches: Sequence[Branch], *, num_ranks: int = 1) -> int:
        """The most bytes of keys and values that a rank stores for later passes at one time."""
        return max(map(self._kept_bytes, branches), default=0) // num_ranks

    def _kept_bytes(self, root: Branch) -> int:
        """The most bytes that are stored on one path through the tree."""
        below = max(map(self._kept_bytes, root.branches), default=0)
        return self.stored_bytes(root) + below

    def stored_bytes(self, branch: Branch) -> int:
        """Bytes that a pass stores for later passes, on all ranks together."""
        if not branch.keeps_any:
            return 0
        layout = Layout.whole(branch.start, branch.keep_until)
        return sum(
            count * stored.num_bytes(self.itemsize)
            for kind, count in Counter(self.layer_kinds).items()
            for stored in kind.stored(layout, 0, branch.kept_ends)
        )

    def pass_bytes(
        self, branch: Branch, *, chunk_size: int, num_ranks: int = 1, num_read: int = 0
    ) -> int:
        """The sum of `pass_parts`; arguments as there."""
        return self.pass_parts(
            branch, chunk_size=chunk_size, num_ranks=num_ranks, num_read=num_read
        ).total

    def pass_parts(
        self, branch: Branch, *, chunk_size: int, num_ranks: int = 1, num_read: int = 0
    ) -> PassBytes:
        """Bytes that a pass takes on each rank, besides the weights and stored keys and values.

        Args:
            branch: the branch that the pass computes.
            chunk_size: rows that go through a layer at once.
            num_ranks: number of processes in the ring.
            num_read: number of rows whose logits are read.
        """
        in_suffixes = sum(suffix.num_tokens for suffix in branch.suffixes)
        own = -(-branch.num_tokens // num_ranks)
        ends = (*branch.kept_ends, *(suffix.start for suffix in branch.suffixes))
        size = PassSize(
            branch.start // num_ranks,
            -(-branch.stop // num_ranks),
            tuple(sorted(set(ends))) if num_ranks == 1 else (),
            chunk_size,
            in_suffixes,
        )
        # The layers of one kind use one memory in turn.
        keys = sum(kind.held_bytes(size, self.itemsize) for kind in set(self.layer_kinds))
        if num_ranks > 1:
            keys += keys // 2  # two pieces in transit, each a quarter
        # The embeddings of suffixes are there twice: one by one, and as the rows of groups.
        hidden = (own + 2 * in_suffixes) * self.hidden_bytes + branch.max_tokens * _POSITION_BYTES
        if self.layer_input_size:  # embeddings and token ids, from which they are computed
            hidden += (own + in_suffixes) * (self.hidden_bytes + _POSITION_BYTES)
        angles = (own + in_suffixes) * self.angle_bytes
        in_chunk, in_group = min(chunk_size, own), min(chunk_size, in_suffixes)
        has_earlier = own > in_chunk or branch.start > 0
        moments = (
            self.rotation_bytes(own),
            self.chunk_bytes(in_chunk, merges=has_earlier),
            in_group * max(self.feed_forward_row, self._suffix_row(num_ranks)),
            num_read * self.vocab_size * _FP32,
        )
        return PassBytes(hidden + angles, keys, max(moments), self.gathered_bytes)

    def chunk_bytes(self, num_rows: int, *, merges: bool) -> int:
        """Bytes of main rows that are inside a layer; ``merges`` if any keys stand before them."""
        widest = max(kind.row_bytes(self.itemsize) for kind in self.layer_kinds)
        inside = max(self.feed_forward_row, widest, self._attention_row(merges=merges))
        return num_rows * (inside + self.layer_input_size * self.itemsize)

    def rotation_bytes(self, num_rows: int, *, block: int = ROPE_BLOCK) -> int:
        """Bytes for computing the angles of RoPE, besides the angles; free before the first layer.

        Of one block of rows, in fp32: frequencies (half a row), the same doubled, cosines, sines,
        and the sines before they are scaled.
        """
        return min(num_rows, block) * 9 * self.head_dim * _FP32 // 2

    @property
    def feed_forward_row(self) -> int:
        """Bytes of a row in the MLP: gate, up and their product; the residual and its norm."""
        inside = max(3 * self.intermediate_size, self.expert_numbers)
        return (inside + 2 * self.hidden_size) * self.itemsize

    def _attention_row(self, *, merges: bool) -> int:
        """Bytes of a row in attention at the moment when most is alive.

        Always the row's norm, q, k and v. Without earlier keys the moment is RoPE: q times cosine,
        q rotated by half, and that times sine. With them it is the merge: both results, both in
        fp32 if they are not, their difference, and that weighted; and for each head three numbers,
        the log-sum-exps and the weight.
        """
        queries = self.num_heads * self.head_dim
        here = self.hidden_bytes + queries * self.itemsize + self.key_value_bytes
        if not merges:
            return here + 3 * queries * self.itemsize
        casts = 0 if self.itemsize == _FP32 else 2 * _FP32
        return here + queries * (2 * self.itemsize + casts + 2 * _FP32) + 3 * self.num_heads * _FP32

    def _suffix_row(self, num_ranks: int) -> int:
        """Bytes of a suffix's row in attention; as `_attention_row`, but one result is in fp32.

        With a ring there are also this rank's part, packed, and the parts of all ranks.
        """
        queries = self.num_heads * self.head_dim
        here = self.hidden_bytes + queries * self.itemsize + self.key_value_bytes
        cast = 0 if self.itemsize == _FP32 else _FP32
        merged = 3 * _FP32 + self.itemsize + cast
        gathered = (2 + num_ranks + 3) * _FP32 if num_ranks > 1 else 0
        return here + queries * max(merged, gathered) + 3 * self.num_heads * _FP32


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """All tensors of a module; for quantized weights also their scales."""
    yield from module.state_dict(keep_vars=True).values()


def _asking_weights(layer: Any, kind: LayerKind, num_weights: int) -> int:
    """Weights of a layer that compute queries, keys and values; all of one without attention."""
    if kind.heads is None:
        return num_weights
    module = attention_of(layer)
    skipped = [getattr(module, name, None) for name in _OUTPUTS]
    leaves = [m for m in module.modules() if isinstance(m, nn.Linear) and m not in skipped]
    return sum(m.in_features * m.out_features for m in leaves)


def active_weights(layer: nn.Module, config: Any) -> int:
    """Weights of a layer's matrices that one row is multiplied by; of experts, those of the chosen.

    Args:
        layer: of a decoder.
        config: of the decoder.
    """
    num_chosen = num_chosen_experts(config)
    return sum(_active_weights(module, num_chosen) for module in layer.modules())


def _expert_numbers(module: Any, hidden_size: int, num_chosen: int | None) -> int:
    """Numbers of a row inside a module of experts: for each that is chosen, the row itself, gate
    and up, their product, and the result. 0 for other modules.
    """
    down = getattr(module, "down_proj", None)
    if not isinstance(down, Tensor) or down.ndim != 3:
        return 0
    width = down.numel() // len(down) // hidden_size
    return (num_chosen or len(down)) * (2 * hidden_size + 3 * width)


def _active_weights(module: nn.Module, num_chosen: int | None) -> int:
    """Weights of a module's own matrices that one row is multiplied by; of experts, the chosen."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features  # quantized weights have another shape
    experts = [p for p in module.parameters(recurse=False) if p.ndim == 3]
    return sum(p.numel() // len(p) * (num_chosen or len(p)) for p in experts)
