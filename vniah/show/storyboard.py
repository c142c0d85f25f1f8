"""Which frames of a sample are drawn: those around its needles, and its first and last ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from vniah.errors import counted
from vniah.protocol import HAYSTACK, Frames

MOST_TILES = 30
"""As many frames are drawn at most; what is left out of longer samples is named."""

_NUM_ENDS = 2  # frames at the beginning, and at the end
_NUM_OVERVIEW = 8  # frames of a sample without needles
_LONGEST_RUN = 5  # frames of one needle that are all drawn
_NUM_OF_LONG_RUN = 2  # first frames of a longer one, and last ones


@dataclass(frozen=True)
class Tile:
    """A frame that is drawn.

    Attributes:
        position: its number among all that is shown, from 0. At 1 FPS it is its second as well.
        source: where it is from, as in `vniah.protocol.FrameSegment`.
        index: its number in that source; of the haystack, its second.
    """

    position: int
    source: str
    index: int

    @property
    def is_inserted(self) -> bool:
        """True unless it is a frame of the haystack."""
        return self.source != HAYSTACK


@dataclass(frozen=True)
class Gap:
    """Frames between two tiles that are not drawn.

    Attributes:
        num_frames: how many.
        num_inserted: how many of them are not frames of the haystack.
    """

    num_frames: int
    num_inserted: int = 0

    @property
    def words(self) -> str:
        """What is left out, in words."""
        inserted = f", {counted(self.num_inserted, 'inserted one')}" if self.num_inserted else ""
        return f"{counted(self.num_frames, 'frame')}{inserted}"


Storyboard = tuple[Tile | Gap, ...]


def make_storyboard(frames: Frames, *, around: int = 2, most: int = MOST_TILES) -> Storyboard:
    """The frames of a sample that are drawn, and the gaps between them.

    Args:
        frames: everything that is shown.
        around: frames before and after each needle.
        most: the largest number of tiles. Where there would be more, fewer frames around each
            needle are drawn; and if that is not enough, the needles in the middle are left out.
    """
    inserted = _inserted_runs(frames)
    for fewer in range(around, -1, -1):
        wanted = sorted(_wanted(frames, inserted, fewer))
        if len(wanted) <= most:
            break
    else:
        wanted = [*wanted[: most - _NUM_ENDS], *wanted[-_NUM_ENDS:]]
    return tuple(_with_gaps(frames, inserted, wanted))


def _inserted_runs(frames: Frames) -> list[range]:
    """The positions of what is not of the haystack; consecutive frames of one source are a run."""
    runs: list[range] = []
    start = 0
    for source, spans in groupby(frames.spans, key=lambda span: span.source):
        stop = start + sum(span.num_frames for span in spans)
        if source != HAYSTACK:
            runs.append(range(start, stop))
        start = stop
    return runs


def _wanted(frames: Frames, inserted: list[range], around: int) -> set[int]:
    everything = range(len(frames))
    if not inserted:
        return _evenly(len(frames))
    found = {*everything[:_NUM_ENDS], *everything[len(everything) - _NUM_ENDS :]}
    for run in inserted:
        if len(run) <= _LONGEST_RUN:
            found |= {*run}
        else:
            found |= {*run[:_NUM_OF_LONG_RUN], *run[-_NUM_OF_LONG_RUN:]}
        found |= {*everything[max(0, run.start - around) : run.start]}
        found |= {*everything[run.stop : run.stop + around]}
    return found


def _evenly(num_frames: int) -> set[int]:
    """A few positions at equal distances, the first and the last one among them."""
    steps = min(num_frames, _NUM_OVERVIEW) - 1
    if steps < 1:
        return set(range(num_frames))
    return {round((num_frames - 1) * step / steps) for step in range(steps + 1)}


def _with_gaps(frames: Frames, inserted: list[range], wanted: list[int]) -> Iterator[Tile | Gap]:
    before = -1
    for position in wanted:
        missing = range(before + 1, position)
        if len(missing) == 1:  # it takes no more room than a gap
            yield _tile(frames, missing[0])
        elif missing:
            yield Gap(len(missing), sum(len(_common(run, missing)) for run in inserted))
        yield _tile(frames, position)
        before = position


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _tile(frames: Frames, position: int) -> Tile:
    frame = frames[position]
    return Tile(position, frame.source, frame.index)
