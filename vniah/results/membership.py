"""Does a line of samples belong to the run in whose folder it is, and does it agree with itself?"""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from vniah.errors import short_repr
from vniah.grid import Cell, format_depth, place_prefix
from vniah.results.details import details_in
from vniah.results.measures import fault_of_measures
from vniah.results.plan import planned_ids
from vniah.results.samples import SampleResult


class _Placed(Protocol):
    """What samples and their results have in common."""

    @property
    def sample_id(self) -> str: ...
    @property
    def cell(self) -> Cell | None: ...
    @property
    def num_frames(self) -> int | None: ...
    @property
    def control(self) -> str | None: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


def contradiction(
    sample: _Placed, needle_ids: Collection[str], *, asks_needles: bool = False
) -> str | None:
    """What a sample says about its needle that its id or its cell contradicts; None if nothing.

    ``needle_index`` has one meaning in all results: floor(depth x num_frames). ``needle_id`` is the
    needle that ``sample_id`` names; that of a control names it first, and then what it changed
    (``"600/0.2/clock/1/option-rotation"``). A task that means something else calls its field
    otherwise.

    Args:
        sample: a sample, or the result of one.
        needle_ids: the ids of the run's needles.
        asks_needles: what its task says of itself (`vniah.tasks.details`): then both fields have to
            be there.
    """
    fields, cell = sample.fields, sample.cell
    if cell is not None and ("needle_index" in fields or asks_needles):
        index = fields.get("needle_index", "missing")
        if type(index) is not int or index != cell.needle_index:
            return (
                f"needle_index is {short_repr(index)}, and the length {cell.num_frames} at depth "
                f"{format_depth(cell.depth)} has {cell.needle_index}"
            )
    if "needle_id" in fields or asks_needles:
        needle_id = fields.get("needle_id", "missing")
        name = asked_name(sample)
        if sample.control is not None:
            name = name.partition("/")[0]
        if needle_id != name and (asks_needles or name in needle_ids):
            return f"needle_id is {short_repr(needle_id)}, and sample_id names {short_repr(name)}"
    return None


def asked_name(sample: _Placed) -> str:
    """What is asked, and the control: the ``sample_id`` without the place."""
    cell = sample.cell
    place = place_prefix(sample.num_frames, None) if cell is None else cell.prefix
    return sample.sample_id.removeprefix(place)


class Membership:
    """Says of one line after the other whether it belongs to a run.

    Args:
        manifest: of the run.

    Attributes:
        plan: that of the run.
    """

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self.plan = planned_ids(manifest)
        self._task = manifest.get("task")
        self._details = details_in(manifest)
        self._asks_needles = self._details.get("asks_needles", False)
        self._needle_ids = frozenset(manifest["needles"]["ids"])
        self._asked: dict[str, tuple[str, str]] = {}

    def fault(self, sample: SampleResult) -> str | None:
        """What the line of a sample holds that does not belong to the run; None if it does."""
        if sample.task != self._task:
            return f"the task {short_repr(sample.task)}, and the run is of {short_repr(self._task)}"
        if sample.sample_id not in self.plan:
            return (
                f"the sample {short_repr(sample.sample_id)}, which is not part of this run's plan"
            )
        if found := contradiction(sample, self._needle_ids, asks_needles=self._asks_needles):
            return f"a contradiction: {found}"
        if found := fault_of_measures(sample, self._details):
            return found
        return self._fault_of_needle(sample) if self._asks_needles else None

    def _fault_of_needle(self, sample: SampleResult) -> str | None:
        """What can be told where each sample asks the question of a needle.

        A needle has one question and answer, in each control as well, and the argmax is right
        exactly where the rank is 1.
        """
        by_argmax = sample.correct if sample.argmax_correct is None else sample.argmax_correct
        if sample.rank is not None and by_argmax is not (sample.rank == 1):
            name = "correct" if sample.argmax_correct is None else "argmax_correct"
            return f"a contradiction: {name} is {by_argmax}, and rank is {sample.rank}"
        asked = sample.question, sample.answer
        first = self._asked.setdefault(asked_name(sample), asked)
        if asked == first:
            return None
        now, before = next(pair for pair in zip(asked, first, strict=True) if len({*pair}) > 1)
        return (
            f"{short_repr(now)} as the question or answer of a needle for which an earlier line "
            f"has {short_repr(before)}"
        )
