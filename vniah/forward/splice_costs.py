"""What a pass with rows that are spliced into a trunk takes, in closed form.

See `vniah.forward.splices` for what is computed. Bytes are those of the moment at which most is
alive: rows that go through a layer together are a *slab* there, the others wait.

R rows, E entries: a row and a span of the trunk that it sees. H hidden size, Hq heads of queries,
D head size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from vniah.forward.costs import DecoderShape, PassBytes

_FP32 = 4
_INDEX = 8  # of a row, an entry, or a position
_CALLS = 6  # by which an entry is read, about: the logarithm of the number of cuts


@dataclass(frozen=True)
class SplicedSize:
    """How many rows spliced branches have, and what these attend to.

    Attributes:
        num_rows: R, those of suffixes included.
        num_entries: E.
        num_turned: rows whose queries are turned back, once for each of their shifts.
        num_own_seen: own rows of branches that suffixes see, counted for each suffix.
        num_read: rows whose logits are read.
    """

    num_rows: int = 0
    num_entries: int = 0
    num_turned: int = 0
    num_own_seen: int = 0
    num_read: int = 0

    def __add__(self, other: "SplicedSize") -> "SplicedSize":
        return SplicedSize(
            *(getattr(self, one.name) + getattr(other, one.name) for one in fields(self))
        )


def spliced_pass_parts(
    shape: DecoderShape,
    branches: Sequence[SplicedSize],
    *,
    num_trunk: int,
    num_past: int = 0,
    chunk_size: int,
    num_position_rows: int = 1,
    num_deepstack_layers: int = 0,
) -> PassBytes:
    """Bytes that a pass takes, besides the weights and stored keys and values.

    Args:
        shape: of the decoder.
        branches: the sizes of the branches, in their order; none for a pass over the trunk alone.
        num_trunk: rows of the trunk that the pass computes.
        num_past: rows of the trunk before them, whose keys and values are stored.
        chunk_size: rows that go through a layer at once.
        num_position_rows: 3 for M-RoPE.
        num_deepstack_layers: layers after which something is added to the rows of frames.
    """
    slabs = list(_slabs(branches, chunk_size))
    total = sum(branches, SplicedSize())
    num_rows = num_trunk + total.num_rows
    # Spliced rows are there twice: block by block, and as the rows of slabs.
    hidden = (num_trunk + (2 + num_deepstack_layers) * total.num_rows) * shape.hidden_bytes
    positions = (2 * num_rows + num_past) * num_position_rows * _INDEX
    in_chunk = min(chunk_size, num_trunk)
    trunk_alone = shape.chunk_bytes(in_chunk, merges=num_trunk > in_chunk)
    moments = (
        shape.rotation_bytes(num_trunk),
        shape.rotation_bytes(total.num_rows, block=total.num_rows),
        trunk_alone,
        *(_slab_bytes(shape, slab) for slab in slabs),
        max((branch.num_read for branch in branches), default=0) * shape.vocab_size * _FP32,
    )
    keys = (num_trunk + num_past) * shape.key_value_bytes
    waiting = hidden + positions + num_rows * shape.angle_bytes + _index_bytes(shape, total)
    return PassBytes(waiting, keys, max(moments))


def _slabs(branches: Sequence[SplicedSize], max_rows: int) -> Iterator[SplicedSize]:
    """As `vniah.forward.slabs.slabs_of`: up to so many rows together, or one branch with more."""
    slab = SplicedSize()
    for branch in branches:
        if slab.num_rows and slab.num_rows + branch.num_rows > max_rows:
            yield slab
            slab = SplicedSize()
        slab += branch
    if slab.num_rows:
        yield slab


def _index_bytes(shape: DecoderShape, total: SplicedSize) -> int:
    """Bytes of what is worked out once: which rows meet which keys, and by what they are turned."""
    numbers = 2 * total.num_rows + total.num_own_seen + total.num_turned
    numbers += (3 + _CALLS) * total.num_entries
    return numbers * _INDEX + 2 * total.num_turned * shape.head_dim * _FP32


def _slab_bytes(shape: DecoderShape, slab: SplicedSize) -> int:
    """Bytes of a slab inside a layer at the moment when most is alive.

    In attention always the rows' norms, q, k, v, and the result in fp32. Besides, when rows meet
    one another: keys and values that they see, and a merge. When queries are turned back: these
    rows in fp32 five times. When the trunk is met: the queries of all entries and their results in
    fp32, and a merge of the rows that see one span, which may be all.
    """
    queries = shape.num_heads * shape.head_dim
    here = slab.num_rows * (shape.hidden_bytes + queries * shape.itemsize + shape.key_value_bytes)
    here += slab.num_rows * (queries + shape.num_heads) * _FP32
    row = queries * shape.itemsize
    merge = slab.num_rows * (row + queries * 3 * _FP32 + 3 * shape.num_heads * _FP32)
    of_entries = queries * (shape.itemsize + _FP32) + shape.num_heads * _FP32
    attention = max(
        slab.num_own_seen * shape.key_value_bytes + merge + slab.num_rows * row,
        slab.num_turned * queries * (shape.itemsize + 4 * _FP32) + slab.num_entries * row,
        slab.num_entries * of_entries + merge,
    )
    return max(here + attention, slab.num_rows * shape.feed_forward_row)
