"""Latent attention: of each token a short latent is kept, from which keys and values are made.

A layer with multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", arXiv 2405.04434) makes
the keys and values of all heads from one latent and one rotated key for each token. Here the latent
and the rotated key are kept, and blocks of them are expanded whenever rows attend to them. So a
layer holds tens of times less, and each token is expanded once for every chunk behind it.

Values have fewer numbers than keys. They are filled up with zeros, which the kernels need, and the
result is cut.

n rows, R and P numbers of a latent and of a rotated key, Hq heads, D and Dv numbers of a head's
keys and values.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from vniah.forward.attention import Heads, KeyBlock, KeysValuesDone, attend
from vniah.forward.kinds.base import (
    AttentionCall,
    Chunk,
    LayerCall,
    LayerKind,
    LayerMemory,
    PassSize,
    PassTokens,
    chunks_of,
)
from vniah.forward.kinds.full import SuffixCall
from vniah.forward.kv_cache import KeyValueCache, LayerKeyValues, Layout, Stored
from vniah.forward.suffixes import SuffixGroup

# Tokens whose keys and values are expanded at once.
EXPANDED_TOKENS = 2048


@dataclass(frozen=True)
class LatentAttention(LayerKind):
    """Multi-head latent attention.

    Attributes:
        num_heads: Hq.
        head_dim: D.
        value_dim: Dv.
        latent_dim: R.
        rotated_dim: P.
    """

    num_heads: int
    head_dim: int
    value_dim: int
    latent_dim: int
    rotated_dim: int

    @property
    def name(self) -> str:
        """As `LayerKind.name`."""
        return f"latent attention of {self.latent_dim + self.rotated_dim} numbers a token"

    @property
    def heads(self) -> Heads:
        """As `LayerKind.heads`."""
        return Heads(self.num_heads, self.num_heads, self.head_dim)

    def open(self, tokens: PassTokens) -> LayerMemory:
        """As `LayerKind.open`."""
        return _LatentMemory(self, tokens)

    def stored(self, layout: Layout, rank: int, ends: tuple[int, ...]) -> tuple[Stored, ...]:
        """Latents and rotated keys of all tokens, ``[1, 1, rows, R]`` and ``[1, 1, rows, P]``."""
        num_rows = layout.num_rows(rank)
        return (
            Stored((1, 1, num_rows, self.latent_dim)),
            Stored((1, 1, num_rows, self.rotated_dim)),
        )

    def held_bytes(self, size: PassSize, itemsize: int) -> int:
        """Latents and rotated keys of all tokens, and one block of them expanded."""
        kept = size.stop * (self.latent_dim + self.rotated_dim)
        # Keys and values as the matrix gives them, the keys with their rotated part, the values.
        expanded = 3 * self.num_heads * self.head_dim + self.num_heads * self.value_dim
        return (kept + min(size.stop, EXPANDED_TOKENS) * expanded) * itemsize


class _Latents(LayerKeyValues):
    """The latents of a layer, which give keys and values in blocks.

    Attributes:
        module: the layer's attention, which expands latents.
    """

    module: Any = None

    def between(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `LayerKeyValues.between`, a block at a time; values as long as keys."""
        latents, rotated = self.parts
        for rows in self.rows_between(start, stop):
            for first in range(rows.start, rows.stop, EXPANDED_TOKENS):
                block = slice(first, min(first + EXPANDED_TOKENS, rows.stop))
                k, v = self.module.expand_kv(latents[:, :, block], rotated[:, :, block])
                yield k, _filled_up(v, k)


class _LatentMemory(LayerMemory):
    def __init__(self, kind: LatentAttention, tokens: PassTokens) -> None:
        assert tokens.ring is None, "each process would have to expand the latents of another"
        sizes = [(1, kind.latent_dim), (1, kind.rotated_dim)]
        self._latents = _Latents(
            sizes, tokens.past, tokens.main, rank=tokens.rank, like=tokens.like
        )
        self._tokens = tokens
        self._chunks = chunks_of(tokens)

    def load(self, index: int, layer: Any) -> None:
        self._latents.module = layer.self_attn
        self._latents.load(index)

    def main_calls(self, *, finishes: bool) -> Iterator[LayerCall]:
        for chunk in self._chunks:
            yield _LatentChunk(self._latents, chunk, self._tokens, attends=finishes)

    def save(self, index: int, cache: KeyValueCache) -> None:
        self._latents.save(index, cache)

    def keys_between(self, start: int, stop: int) -> Iterator[Tensor]:
        return (k for k, _ in self._latents.between(start, stop))

    def suffix_calls(self, group: SuffixGroup, *, is_last: bool) -> Iterator[LayerCall]:
        yield _LatentSuffixes(self._latents, group, self._tokens.kernel, past=_Handover())


class _Handover:
    """What the layer takes for its cache: it hands over its latents before it expands them.

    Args:
        keep: called with latents and rotated keys, ``[1, 1, n, R]`` and ``[1, 1, n, P]``.
    """

    def __init__(self, keep: Any = None) -> None:
        self._keep = keep

    def update(self, latents: Tensor, rotated: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Keeps the rows, and gives them back as they are."""
        if self._keep is not None:
            self._keep(latents, rotated)
        return latents, rotated


class _LatentChunk(AttentionCall):
    """A chunk of main rows."""

    def __init__(
        self, latents: _Latents, chunk: Chunk, tokens: PassTokens, *, attends: bool
    ) -> None:
        super().__init__(chunk.rows, _Handover(self._keep))
        self._latents, self._chunk, self._kernel = latents, chunk, tokens.kernel
        self._attends = attends

    def _keep(self, *parts: Tensor) -> None:
        self._latents.put(self._chunk.rows.start, *parts)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        if not self._attends:
            raise KeysValuesDone
        own = KeyBlock(k, _filled_up(v, k), is_causal=True)

        def blocks() -> Iterator[KeyBlock]:
            yield own
            for part in self._latents.between(0, self._chunk.start):
                yield KeyBlock(*part)

        out, lse = attend(q, blocks(), kernel=self._kernel, scale=scale)
        return out[..., : v.shape[-1]], lse


class _LatentSuffixes(SuffixCall):
    """A group of suffixes."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor | None]:
        out, lse = super().attend(q, k, _filled_up(v, k), scale)
        return out[..., : v.shape[-1]], lse


def _filled_up(v: Tensor, k: Tensor) -> Tensor:
    """Values with zeros behind them, as long as the keys."""
    return pad(v, (0, k.shape[-1] - v.shape[-1]))
