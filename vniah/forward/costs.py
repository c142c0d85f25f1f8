"""What passes cost, in closed form: bytes and floating point operations.

H hidden size, I intermediate size, Hq and Hk heads of queries and of keys/values, D head size,
s bytes of a number in the decoder's dtype, n rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vniah.forward.attention import Heads
from vniah.forward.decoders import heads_of
from vniah.forward.offload import offloaded
from vniah.forward.prefill import ROPE_BLOCK
from vniah.forward.prefix_tree import Branch, Cost

_FP32 = 4
_POSITION_BYTES = 8


@dataclass(frozen=True)
class PassBytes:
    """What one pass takes besides the weights and what is kept, per rank.

    Attributes:
        hidden: input embeddings and rows between two layers, their cosines, sines and positions.
        keys_values: of the present layer; with a ring also the pieces on their way.
        tile: the most that is alive besides, at one moment.
    """

    hidden: int
    keys_values: int
    tile: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.hidden + self.keys_values + self.tile


@dataclass(frozen=True)
class Flops:
    """Operations, a multiplication and an addition being two.

    Attributes:
        linear: of the matrices in the layers.
        attention: of queries with keys, and of weights with values.
    """

    linear: int
    attention: int

    @property
    def total(self) -> int:
        """Both."""
        return self.linear + self.attention


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder that decide what a pass costs.

    Attributes:
        num_layers: layers.
        hidden_size: H.
        intermediate_size: I, the widest rows inside of a layer.
        num_heads: Hq.
        num_kv_heads: Hk.
        head_dim: D.
        vocab_size: columns of the logits.
        linear_weights: weights of all matrices in the layers together.
        query_key_value_weights: of those, what every layer's queries, keys and values take.
        weight_bytes: everything that the decoder holds on its device.
        itemsize: s.
        host_weight_bytes: what its layers hold in host memory instead, where they are offloaded.
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

    @classmethod
    def of(cls, decoder: Any) -> "DecoderShape":
        """The shape of a transformers causal language model, or of its two parts."""
        body, config = decoder.model, decoder.model.config
        num_chosen = getattr(config, "num_experts_per_tok", None)
        held = {id(t): t.nbytes for part in (body, decoder.lm_head) for t in _tensors(part)}
        layers = offloaded(body)
        if layers is not None:
            for tensor in _tensors(body.layers):
                held.pop(id(tensor), None)
            held |= {id(layers): layers.device_bytes}
        heads = heads_of(body)
        num_projected = heads.num_heads + 2 * heads.num_kv_heads
        return cls(
            num_layers=len(body.layers),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=heads.num_heads,
            num_kv_heads=heads.num_kv_heads,
            head_dim=heads.head_dim,
            vocab_size=decoder.lm_head.weight.shape[0],
            linear_weights=sum(_active_weights(m, num_chosen) for m in body.layers.modules()),
            query_key_value_weights=(
                len(body.layers) * config.hidden_size * num_projected * heads.head_dim
            ),
            weight_bytes=sum(held.values()),
            itemsize=decoder.lm_head.weight.dtype.itemsize,
            host_weight_bytes=0 if layers is None else layers.host_bytes,
        )

    @property
    def heads(self) -> Heads:
        """What the choice of an attention kernel depends on."""
        return Heads(self.num_heads, self.num_kv_heads, self.head_dim)

    @property
    def hidden_bytes(self) -> int:
        """Of a token's row between two layers."""
        return self.hidden_size * self.itemsize

    @property
    def key_value_bytes(self) -> int:
        """Of a token's keys and values, of one layer."""
        return 2 * self.num_kv_heads * self.head_dim * self.itemsize

    @property
    def angle_bytes(self) -> int:
        """Of a token's cosines and sines."""
        return 2 * self.head_dim * self.itemsize

    def flops_of(self, branches: Sequence[Branch], *, num_ranks: int = 1) -> Flops:
        """What a rank computes in linear layers and attention for branches and all behind them.

        The last layer stops after the queries, keys and values of rows that are not read. A ring
        computes those of all main rows twice; leaves run on every rank, and share their attention.
        Exact for one process; of several, each is taken for an equal share.
        """
        main, leaves = Cost(), Cost()
        for root in branches:
            for branch in root.passes():
                main += Cost.of_rows(branch.start, branch.num_tokens)
                for leaf in branch.leaves:
                    leaves += Cost.of_rows(leaf.start, leaf.num_tokens)
        last = (self.linear_weights - self.query_key_value_weights) // self.num_layers
        in_main = self.linear_weights - last
        if num_ranks > 1:
            in_main += self.query_key_value_weights * (self.num_layers - 1) // self.num_layers
        attention = 4 * self.num_heads * self.head_dim
        pairs = (self.num_layers - 1) * main.num_pairs + self.num_layers * leaves.num_pairs
        return Flops(
            2 * (in_main * main.num_tokens // num_ranks + self.linear_weights * leaves.num_tokens),
            attention * pairs // num_ranks,
        )

    def store_bytes(self, num_tokens: int) -> int:
        """Of keys and values of all layers."""
        return self.num_layers * self.key_value_bytes * num_tokens

    def kept_bytes(self, branches: Sequence[Branch], *, num_ranks: int = 1) -> int:
        """The most that is kept for later passes at once, per rank."""
        return self.store_bytes(max(map(_kept_tokens, branches), default=0)) // num_ranks

    def pass_bytes(
        self, branch: Branch, *, tile_size: int, num_ranks: int = 1, num_read: int = 0
    ) -> int:
        """The sum of `pass_parts`; arguments as there."""
        return self.pass_parts(
            branch, tile_size=tile_size, num_ranks=num_ranks, num_read=num_read
        ).total

    def pass_parts(
        self, branch: Branch, *, tile_size: int, num_ranks: int = 1, num_read: int = 0
    ) -> PassBytes:
        """What one pass takes besides the weights and what is kept, per rank.

        Args:
            branch: the pass.
            tile_size: rows that go through a layer at once.
            num_ranks: processes of the ring.
            num_read: rows whose logits are read.
        """
        in_leaves = sum(leaf.num_tokens for leaf in branch.leaves)
        own = -(-branch.num_tokens // num_ranks)
        keys = -(-branch.stop // num_ranks) * self.key_value_bytes
        if num_ranks > 1:
            keys += keys // 2  # two pieces, each a quarter, on their way
        # The embeddings of leaves are there twice: one by one, and their rows in groups.
        hidden = (own + 2 * in_leaves) * self.hidden_bytes + branch.max_tokens * _POSITION_BYTES
        angles = (own + in_leaves) * self.angle_bytes
        in_tile, in_group = min(tile_size, own), min(tile_size, in_leaves)
        has_earlier = own > in_tile or branch.start > 0
        moments = (
            self._rotation_bytes(own),
            in_tile * max(self._feed_forward_row, self._attention_row(merges=has_earlier)),
            in_group * max(self._feed_forward_row, self._leaf_row(num_ranks)),
            num_read * self.vocab_size * _FP32,
        )
        return PassBytes(hidden + angles, keys, max(moments))

    def _rotation_bytes(self, num_rows: int) -> int:
        """What making the angles takes besides the angles: it ends before the first layer.

        A block's frequencies, half a row, and the same doubled, cosines and sines are fp32; of the
        sines there is also what they are before they are scaled.
        """
        block = min(num_rows, ROPE_BLOCK)
        return block * 9 * self.head_dim * _FP32 // 2

    @property
    def _feed_forward_row(self) -> int:
        """Gate after its activation, up, and their product; the residual and its norm."""
        return (3 * self.intermediate_size + 2 * self.hidden_size) * self.itemsize

    def _attention_row(self, *, merges: bool) -> int:
        """The rows' norm, q, k, v, and what is alive besides when most is.

        Without earlier keys that is at RoPE: q times cos, q turned, and that times sin. With them
        it is at the merge: both results, both in fp32 if they are not, the difference, and that
        weighted; and three numbers for each head, the log-sum-exps and the weight.
        """
        queries = self.num_heads * self.head_dim
        here = self.hidden_bytes + queries * self.itemsize + self.key_value_bytes
        if not merges:
            return here + 3 * queries * self.itemsize
        casts = 0 if self.itemsize == _FP32 else 2 * _FP32
        return here + queries * (2 * self.itemsize + casts + 2 * _FP32) + 3 * self.num_heads * _FP32

    def _leaf_row(self, num_ranks: int) -> int:
        """As `_attention_row`, where the first of both results is fp32 at once.

        With a ring there are also this rank's part, packed, and those of all ranks.
        """
        queries = self.num_heads * self.head_dim
        here = self.hidden_bytes + queries * self.itemsize + self.key_value_bytes
        cast = 0 if self.itemsize == _FP32 else _FP32
        merged = 3 * _FP32 + self.itemsize + cast
        gathered = (2 + num_ranks + 3) * _FP32 if num_ranks > 1 else 0
        return here + queries * max(merged, gathered) + 3 * self.num_heads * _FP32


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """What a module holds; of quantized weights also their scales."""
    yield from module.state_dict(keep_vars=True).values()


def _kept_tokens(root: Branch) -> int:
    """The most tokens of one way through the tree whose keys and values are kept."""
    own = max(0, root.keep_until - root.start)
    return own + max((_kept_tokens(branch) for branch in root.branches), default=0)


def _active_weights(module: nn.Module, num_chosen: int | None) -> int:
    """Weights of a module's own matrices that one row goes through; of experts, those chosen."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features  # rounded ones are stored otherwise
    experts = [p for p in module.parameters(recurse=False) if p.ndim == 3]
    return sum(p.numel() // len(p) * (num_chosen or len(p)) for p in experts)
