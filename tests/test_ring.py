"""The ring against one process: 1 to 4 gloo ranks, lengths that do not divide."""

import sys
import warnings
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
import torch.distributed as dist
from jobs import run_ranks
from test_prefill import build_decoder, embeddings, three_rows

from vniah.forward.kinds.choosing import open_cache
from vniah.forward.kv_cache import KeyValueCache, Layout, Span
from vniah.forward.prefill import prefill
from vniah.forward.ring import Ring, find_zigzag
from vniah.forward.suffixes import SuffixRows

pytestmark = pytest.mark.distributed

# Of a trunk, of what is kept of it, and of a branch behind that.
LENGTHS = ((97, 61, 50), (64, 64, 33), (5, 2, 3), (1, 1, 1), (130, 7, 128))
# Two key/value heads, one, and three rows of positions; which rank has which rows does not depend
# on the family.
CASES = (
    *(("qwen2", lengths) for lengths in LENGTHS),
    *(("qwen3", lengths) for lengths in (LENGTHS[1], LENGTHS[4])),
    *(("qwen2_vl", lengths) for lengths in (LENGTHS[0], LENGTHS[2])),
)


def start_ranks(size: int, work, *arguments) -> None:
    """Runs ``work(rank, size, *arguments)`` in a process group of so many ranks."""
    run_ranks(_in_group, size, size, work, arguments)


def _in_group(rank: int, size: int, work, arguments) -> None:
    dist.init_process_group("gloo")
    try:
        work(rank, size, *arguments)
    finally:
        dist.destroy_process_group()


def share(ring: Ring, rows: torch.Tensor, start: int) -> torch.Tensor:
    """The rows of this rank, padded with zeros."""
    layout = ring.layout(start, start + len(rows))
    padded = torch.cat([rows, rows.new_zeros(2 * ring.size, rows.shape[1])])
    spans = layout.spans[ring.rank]
    return torch.cat([padded[span.start - start : span.stop - start] for span in spans])


def keep_in(decoder, layout: Layout, stop: int, rank: int) -> KeyValueCache:
    like, kept = decoder.lm_head.weight, layout.until(stop)
    return open_cache(
        decoder.model, kept, ends=(), stop=stop, like=like, kv_location="host", rank=rank
    )


def suffixes_at(starts, positions):
    """Five rows each, of which three are read: with so many borders some answer would be cut."""
    return [
        SuffixRows((Span(0, at),), embeddings(5), positions[..., at : at + 5], 3)
        for at in sorted(starts)
    ]


def suffixes_with_gaps(stop, positions):
    """Rows that see two spans of the tokens up to ``stop``, and rows that see all but the first."""
    borders = [((0, stop // 3), (stop // 2, stop)), ((min(1, stop), stop),)]
    at = slice(stop, stop + 4)
    return [
        SuffixRows(tuple(Span(*pair) for pair in seen), embeddings(4), positions[..., at], 2)
        for seen in borders
    ]


def two_passes(decoder, num_trunk: int, keep_until: int, num_branch: int, ring: Ring | None):
    """A trunk and a branch that goes on from it, with suffixes on both: all logits."""
    positions = three_rows(900) if "vl" in decoder.config.model_type else torch.arange(900)
    trunk, branch = embeddings(num_trunk), embeddings(num_branch)
    stop = keep_until + num_branch
    layout = Layout.whole(0, num_trunk) if ring is None else ring.layout(0, num_trunk)
    rank = 0 if ring is None else ring.rank
    kept = keep_in(decoder, layout, keep_until, rank)
    read = prefill(
        decoder,
        trunk if ring is None else share(ring, trunk, 0),
        positions[..., :num_trunk],
        suffixes_at([0, 1, num_trunk // 2, num_trunk], positions)
        + suffixes_with_gaps(num_trunk, positions),
        cache=kept,
        chunk_size=16,
        ring=ring,
    )
    return read + prefill(
        decoder,
        branch if ring is None else share(ring, branch, keep_until),
        positions[..., keep_until:stop],
        suffixes_at([keep_until, keep_until + num_branch // 2, stop], positions)
        + suffixes_with_gaps(stop, positions),
        past=[kept],
        chunk_size=16,
        ring=ring,
    )


@pytest.fixture(scope="module")
def by_one_process(tmp_path_factory):
    """A file with the logits of one process."""
    path = tmp_path_factory.mktemp("one-process") / "logits.pt"
    expected = {
        (family, lengths): two_passes(build_decoder(family), *lengths, None)
        for family, lengths in CASES
    }
    torch.save(expected, path)
    return path


def compare_with_one_process(rank, size, path, zigzag=None):
    by_one_process = torch.load(path)
    for family, lengths in CASES:
        ring = Ring(dist.group.WORLD, zigzag=zigzag)
        found = two_passes(build_decoder(family), *lengths, ring)
        for one, other in zip(by_one_process[family, lengths], found, strict=True):
            assert (one - other).abs().max() < 1e-4, (family, lengths)
            assert torch.equal(one.argmax(-1), other.argmax(-1))
        assert (ring.bytes_sent > 0) == (size > 1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ring_equals_one_process(size, by_one_process):
    start_ranks(size, compare_with_one_process, by_one_process)


def flash_attention_stand_in() -> None:
    """Puts flash_attn's forward function on torch's CPU kernel: its published surface, no more."""

    def _flash_attn_forward(
        q, k, v, dropout_p, softmax_scale, causal, window_size_left, window_size_right,
        softcap, alibi_slopes, return_softmax,
    ):  # fmt: skip
        assert (dropout_p, window_size_left, window_size_right, softcap) == (0, -1, -1, 0)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(x.transpose(1, 2) for x in (q, k, v)), 0.0, causal, scale=softmax_scale
        )
        return out.transpose(1, 2), lse, None, None

    from importlib.machinery import ModuleSpec

    package, interface = ModuleType("flash_attn"), ModuleType("flash_attn.flash_attn_interface")
    package.__spec__ = ModuleSpec("flash_attn", None)
    package.flash_attn_interface = interface
    interface._flash_attn_forward = _flash_attn_forward
    interface._flash_attn_backward = None
    for name in ("varlen_forward", "varlen_backward"):
        setattr(interface, f"_flash_attn_{name}", None)
    sys.modules |= {"flash_attn": package, "flash_attn.flash_attn_interface": interface}


def compare_ring_flash_attn(rank, size, path):
    warnings.filterwarnings("ignore", "`torch.jit.script`")  # the package's own
    flash_attention_stand_in()
    zigzag = find_zigzag()
    assert zigzag is not None and zigzag.__module__ == "ring_flash_attn.zigzag_ring_flash_attn"
    assert "ring_flash_attn" not in sys.modules, "a later import must find the whole package"
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        return zigzag(*arguments, **options)

    compare_with_one_process(rank, size, path, zigzag=counted)
    assert calls


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ring_flash_attn_equals_one_process(size, by_one_process):
    if find_spec("ring_flash_attn") is None:
        pytest.skip("needs the package ring_flash_attn")
    start_ranks(size, compare_ring_flash_attn, by_one_process)


def test_ring_flash_attn_is_not_used_without_flash_attn():
    assert find_zigzag() is None


def test_every_token_lies_on_one_rank_and_all_have_as_many_rows():
    for size in (1, 2, 3, 4, 7):
        for start, length in [(0, 0), (0, 1), (5, 97), (3, 96)]:
            ring = object.__new__(Ring)
            ring.size = size
            layout = ring.layout(start, start + length)
            tokens = [t for held in layout.spans for span in held for t in range(*span)]
            padding = -length % (2 * size)
            assert sorted(tokens) == list(range(start, start + length + padding))
            assert len({layout.num_rows(rank) for rank in range(size)}) == 1
            until = layout.until(start + length // 2)
            assert sum(until.num_rows(rank) for rank in range(size)) == length // 2


def count_bytes(rank, size):
    decoder = build_decoder("qwen2")
    ring = Ring(dist.group.WORLD)
    hidden = share(ring, embeddings(96), 0)
    prefill(decoder, hidden, torch.arange(96), [], chunk_size=96, ring=ring)
    per_row = 2 * 2 * 16 * 4  # keys and values, heads, head size, fp32
    rows = 96 // size
    # one chunk for each of the two chunks; the last layer needs no attention
    assert ring.bytes_sent == 2 * 2 * (size - 1) * rows * per_row


def test_what_is_sent_is_a_share_of_keys_and_values_for_each_tile_and_step():
    start_ranks(3, count_bytes)


def test_span_is_clipped_to_nothing_where_it_lies_outside():
    assert Span(4, 9).clip(0, 6) == (4, 6)
    assert Span(4, 9).clip(0, 2).num_tokens == 0
    assert Span(4, 9).clip(20, 30).num_tokens == 0
