"""The results of cells, of controls, and of a whole run."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from vniah.errors import ResultsError, counted, shortened, without_surrogates
from vniah.grid import Cell, Grid
from vniah.options.approximation import Approximation, approximation_in
from vniah.results.chance import option_chance
from vniah.results.debiased import (
    DebiasedSample,
    DebiasedScore,
    by_cell,
    by_length,
    debiased_samples,
    mean_of,
)
from vniah.results.details import TaskDetails, details_in
from vniah.results.manifests import ADAPTIVE_KEY, STOPPED_KEY, oddness_in
from vniah.results.measures import Measure, measure_of, shown_measures
from vniah.results.plan import pending_cells, planned_cells, planned_ids, read_grid
from vniah.results.samples import SampleResult

if TYPE_CHECKING:
    import pandas as pd

_MAX_TABLE_SIZE = 10_000_000
_MAX_NAME = 100  # characters of a name in tables and pictures


@dataclass(frozen=True)
class CellScore:
    """The score of a cell.

    Attributes:
        cell: the cell.
        score: mean over its samples, in [0, 1]; None if none could be run.
        num_samples: number of samples with a score; None in a published table.
        num_correct: number of right samples; None in a published table.
        num_errors: number of samples that could not be run; they are not in the mean.
    """

    cell: Cell
    score: float | None
    num_samples: int | None
    num_correct: int | None = None
    num_errors: int = 0


@dataclass(frozen=True)
class ControlScore:
    """The score of a control at one number of frames.

    Attributes:
        control: name of the control.
        num_frames: number of haystack frames; None for controls that show none.
        num_samples: number of samples with a score.
        num_correct: number of samples that are right by the criterion of the test.
        num_errors: number of samples that could not be run.
    """

    control: str
    num_frames: int | None
    num_samples: int
    num_correct: int
    num_errors: int = 0

    @property
    def score(self) -> float | None:
        """Mean over its samples, in [0, 1]; None if none could be run."""
        return self.num_correct / self.num_samples if self.num_samples else None


Axis = Literal["frames", "pages", "tokens"]
"""What lengths count."""


@dataclass(frozen=True, repr=False)
class Results:
    """The results of a run, or of a published table.

    Attributes:
        name: for titles: the name of the model, or of the file.
        path: the folder or the file of the results.
        manifest: the run's manifest; empty for a published table.
        samples: the results of the test itself, in the order of the plan; empty for a published
            table.
        control_samples: the results of controls, in the order of the plan.
        published: the cells of a published table; empty for a run.
        axis: what `Cell.num_frames` counts: frames, pages where the haystack is a document of
            pictures, or tokens where it is text.
        part: which part of a run these are, in words (`vniah.results.facet_results`); empty for
            all of it.
        unit: number of frames in what a published table counts as one: 2 where its script counts
            pairs. The cells have numbers of frames in any case.
        frame_tokens: number of tokens of a frame, where a published table says it.
    """

    name: str
    path: Path
    manifest: Mapping[str, Any]
    samples: tuple[SampleResult, ...] = ()
    control_samples: tuple[SampleResult, ...] = ()
    published: tuple[CellScore, ...] = ()
    axis: Axis = "frames"
    part: str = ""
    unit: int = 1
    frame_tokens: int | None = None

    def __repr__(self) -> str:
        name_of_mean = f"{'approximate ' * self.is_approximate}average"
        average = "no average" if self.average is None else f"{name_of_mean} {self.average:.4f}"
        what = f"{self.num_done} of {self.num_planned} samples" if self.manifest else "published"
        name = f"{self.short_name}, {self.part}" if self.part else self.short_name
        return f"<Results {name}: {what}, {self.coverage}, {average}>"

    def _repr_html_(self) -> str:
        """The table of cells, for notebooks."""
        about = html.escape(without_surrogates(repr(self)))
        if not self.cells:
            return f"<p>{about}</p>"
        frame = self.to_pandas(cells=True)
        row = "depth"
        if self.has_positions:
            row = "position"
            frame[row] = [found.cell.needle_index for found in self.cells]
        if self.is_approximate:  # also where only the table is copied
            row, frame = f"{row} (approximate)", frame.rename(columns={row: f"{row} (approximate)"})
        table = frame.pivot(index=row, columns="num_frames", values="score")
        return f"<p>{about}</p>{table.to_html(float_format='{:.2f}'.format)}"

    def to_pandas(self, *, cells: bool = False) -> "pd.DataFrame":
        """A data frame with a row for each sample, controls included; or with a row for each cell.

        Args:
            cells: a row for each cell with ``num_frames``, ``depth``, ``score``, ``num_samples``,
                ``num_correct`` and ``num_errors`` instead. A published table has only these.

        Returns:
            The columns have the names of ``samples.jsonl``; ``depth`` is a float in [0, 1]. Those
            of an approximate run have the column ``approximate`` besides, in both frames. Whole
            numbers and truth values that some rows lack, such as ``needle_index``, which most
            controls do not have, are in pandas' nullable types ``Int64`` and ``boolean``. Lone
            surrogates in texts are escaped.
        """
        import pandas as pd

        if cells or self.published:
            rows = [
                {
                    "num_frames": found.cell.num_frames,
                    "depth": found.cell.depth,
                    **vars(found),
                    **({"approximate": True} if self.is_approximate else {}),
                }
                for found in self.cells
            ]
        else:
            everything = (*self.samples, *self.control_samples)
            rows = [
                {_as_utf8(name): _as_utf8(value) for name, value in sample.record().items()}
                for sample in everything
            ]
            if self.is_approximate:
                rows = [{**row, "approximate": bool(row.get("approximate"))} for row in rows]
        frame = pd.DataFrame(rows).drop(columns="cell", errors="ignore")
        if "depth" in frame:
            frame["depth"] = frame["depth"].map(lambda depth: float(Fraction(depth)), "ignore")
        for name in frame.columns[frame.isna().any()]:
            values = [row.get(name) for row in rows]
            kinds = {type(value) for value in values if value is not None}
            if kinds in ({int}, {bool}):
                frame[name] = pd.array(values, dtype="Int64" if int in kinds else "boolean")
        return frame

    @cached_property
    def cells(self) -> tuple[CellScore, ...]:
        """Every measured cell, ordered by frames, then by depth."""
        if self.published:
            return self.published
        shared: dict[int, list[SampleResult]] = {}
        for sample in self.samples:
            if sample.cell is not None:  # which samples share, and it takes long to hash
                shared.setdefault(id(sample.cell), []).append(sample)
        groups: dict[Cell, list[SampleResult]] = {}
        for samples in shared.values():
            assert samples[0].cell is not None, "only such samples are in a group"
            groups.setdefault(samples[0].cell, []).extend(samples)
        return tuple(_score(cell, groups[cell]) for cell in sorted(groups))

    @cached_property
    def controls(self) -> tuple[ControlScore, ...]:
        """Every control at every number of frames, ordered by name, then by frames."""
        groups: dict[tuple[str, int], list[SampleResult]] = {}
        for sample in self.control_samples:
            key = (sample.control or "", sample.num_frames or 0)
            groups.setdefault(key, []).append(sample)
        scores = []
        for (control, num_frames), samples in sorted(groups.items()):
            scored = [sample.correct for sample in samples if sample.correct is not None]
            errors = len(samples) - len(scored)
            scores.append(
                ControlScore(control, num_frames or None, len(scored), sum(scored), errors)
            )
        return tuple(scores)

    @property
    def haystack_noun(self) -> str:
        """What the needles are hidden in, in a word."""
        return {"frames": "film", "pages": "document", "tokens": "text"}[self.axis]

    def measure(self, name: str) -> Measure:
        """Means over cells of a number that samples have besides right and wrong.

        Args:
            name: a measure of the task, such as ``"error_seconds"``, any other number among the
                fields of samples, or ``"logprob"``, ``"margin"``, ``"rank"``, ``"seconds"`` or
                ``"needle_attention"``.

        Raises:
            ResultsError: no sample has such a number.
        """
        return measure_of(self.samples, name, self.details, self.path)

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures of the task that have a table and a picture of their own."""
        return shown_measures(self.details)

    @cached_property
    def _debiased_samples(self) -> tuple[DebiasedSample, ...]:
        return debiased_samples(self.samples, self.control_samples)

    @property
    def debiased(self) -> DebiasedScore | None:
        """The mean over all orders of the options of multiple choice, with what guessing gives.

        None if the run has no such control.
        """
        return mean_of(self._debiased_samples) if self._debiased_samples else None

    @property
    def debiased_by_cell(self) -> Mapping[Cell, DebiasedScore]:
        """The same in each cell that has such samples, ordered by frames, then by depth."""
        return by_cell(self._debiased_samples)

    @property
    def debiased_by_length(self) -> Mapping[int, DebiasedScore]:
        """The same at each number of frames that has such samples, ascending."""
        return by_length(self._debiased_samples)

    @cached_property
    def chance(self) -> float | None:
        """The share of right samples that a guess among the task's options gives, in (0, 1].

        A task names the number of options in the field ``num_options`` of its samples, and that of
        right ones, where there are several, in ``num_right_options``; None if one with a score has
        none, for then a guess is not known.
        """
        scored = [sample for sample in self.samples if sample.correct is not None]
        chances = [option_chance(sample.fields) for sample in scored]
        known = [float(chance) for chance in chances if chance is not None]
        return fmean(known) if chances and len(known) == len(chances) else None

    @property
    def average(self) -> float | None:
        """The mean of the cells' scores, all with the same weight; None if there is no score."""
        scores = [cell.score for cell in self.cells if cell.score is not None]
        return sum(scores) / len(scores) if scores else None

    @cached_property
    def planned_cells(self) -> frozenset[Cell]:
        """The cells that the plan has a sample for; none for a published table."""
        return planned_cells(self.manifest) if self.manifest else frozenset()

    @cached_property
    def num_planned_cells(self) -> int:
        """Number of cells that the run measures when it is complete, and those it has besides."""
        return len(self.planned_cells.union(found.cell for found in self.cells))

    @property
    def num_scored_cells(self) -> int:
        """Number of cells that have a score: the average is over these."""
        return sum(found.score is not None for found in self.cells)

    @property
    def num_partial_cells(self) -> int:
        """Number of cells whose score leaves out samples that could not be run."""
        return sum(found.score is not None and found.num_errors > 0 for found in self.cells)

    @property
    def coverage(self) -> str:
        """What the average is over, in words: ``"6 cells"``, or ``"5 of 6 cells"``."""
        scored, planned = self.num_scored_cells, self.num_planned_cells
        part = f"{scored:,} of " if scored != planned else ""
        return f"{part}{counted(planned, 'cell')}"

    @property
    def short_name(self) -> str:
        """The name, cut where it is very long, but for what says that it is approximate."""
        if (found := self.approximation) is None:
            return shortened(self.name, _MAX_NAME)
        return found.marked(shortened(found.unmarked(self.name), _MAX_NAME))

    def named(self, name: str) -> str:
        """Another name for these results, which says that they are approximate where they are."""
        return name if self.approximation is None else self.approximation.marked(name)

    @property
    def is_approximate(self) -> bool:
        """True if haystack states were shared among needles (`vniah.options.approximation`)."""
        return self.approximation is not None

    @property
    def has_positions(self) -> bool:
        """True if the rows of the map are positions, and not depths."""
        return bool(self.manifest) and "positions" in self.manifest["grid"]

    @property
    def has_depths(self) -> bool:
        """True if the rows of the map mean something; False for a task that inserts nothing."""
        return self.cluster == "needle"

    def row_of(self, cell: Cell) -> Fraction:
        """The row of the map that a cell stands in: its depth, or its position."""
        return Fraction(cell.needle_index) if self.has_positions else cell.depth

    @property
    def details(self) -> TaskDetails:
        """What the task said of itself; empty for a published table."""
        return details_in(self.manifest)

    @property
    def cluster(self) -> str:
        """What samples are of that is independent of one another: ``"needle"``, or ``"video"``."""
        return self.details.get("clusters", "needle")

    @property
    def has_seconds(self) -> bool:
        """True if the frames of a run are one second apart; a published table does not say it."""
        rate = self.manifest.get("protocol", {}).get("frame_rate", "1 FPS")
        return bool(self.manifest) and self.axis == "frames" and rate == "1 FPS"

    @property
    def oddness(self) -> Mapping[str, float]:
        """How far each needle stands out among the haystack's frames, from 0 to 1, by its id.

        It is the share of frames that stand out less (`vniah.embeddings.oddness`). Empty for chat
        models, published tables, and runs from before it was measured.
        """
        return oddness_in(self.manifest)

    @property
    def grid(self) -> Grid | None:
        """The grid of the run; None for a published table."""
        return read_grid(self.manifest["grid"]) if self.manifest else None

    @cached_property
    def _planned_ids(self) -> Mapping[str, int]:
        return planned_ids(self.manifest)

    @cached_property
    def num_planned_by_control(self) -> Mapping[str, int]:
        """Number of planned samples of each control; empty for a published table."""
        counts = dict.fromkeys(self.manifest.get("controls", ()), 0)
        for sample_id in self._planned_ids if counts else ():
            name = sample_id.rpartition("/")[2]
            if name in counts:
                counts[name] += 1
        return counts

    @property
    def num_planned(self) -> int | None:
        """Number of planned samples, controls included; None for a published table."""
        return len(self._planned_ids) if self.manifest else None

    @cached_property
    def num_done(self) -> int | None:
        """Number of planned samples that have a line; None for a published table."""
        if not self.manifest:
            return None
        done = {sample.sample_id for sample in (*self.samples, *self.control_samples)}
        return len(done & self._planned_ids.keys())

    @property
    def is_complete(self) -> bool:
        """True if every planned sample has a line; a published table always is complete."""
        return self.num_done == self.num_planned

    @cached_property
    def pending_by_cell(self) -> Mapping[Cell, int]:
        """How many planned samples of the test have no line yet, by cell, where there are any.

        Of an adaptive run only of cells that were begun, as it need not run the others.
        """
        if not self.manifest or self.is_complete:
            return {}
        done = {sample.sample_id for sample in self.samples}
        found = pending_cells(self.manifest, done)
        if not self.is_adaptive:
            return found
        begun = {sample.cell for sample in self.samples}
        return {cell: count for cell, count in found.items() if cell in begun}

    @property
    def num_pending(self) -> int:
        """Number of planned samples of the test that have no line yet (`pending_by_cell`)."""
        return sum(self.pending_by_cell.values())

    @property
    def progress(self) -> str:
        """How much of the test was run, in a sentence; empty if nothing is pending.

        >>> results.progress  # doctest: +SKIP
        "27 of 108 samples have been run"
        """
        if not self.num_pending:
            return ""
        if self.stopped_early:
            return self.stopped_early
        if self.is_adaptive:  # which need not run the others
            done = sum(sample.cell is not None for sample in self.samples)
            return f"{done:,} of {counted(done + self.num_pending, 'sample')} have been run"
        return self.done_in_words

    @property
    def done_in_words(self) -> str:
        """How many planned samples have a line, those of the test apart from those of controls.

        >>> results.done_in_words  # doctest: +SKIP
        "163 of 360 samples of the test and 232 of 430 of its controls have been run"
        """
        of_controls = sum(self.num_planned_by_control.values())
        done_of_controls = len({sample.sample_id for sample in self.control_samples})
        done = (self.num_done or 0) - done_of_controls
        planned = (self.num_planned or 0) - of_controls
        if not of_controls:
            return f"{done:,} of {counted(planned, 'sample')} have been run"
        return (
            f"{done:,} of {counted(planned, 'sample')} of the test and {done_of_controls:,} of "
            f"{of_controls:,} of its controls have been run"
        )

    @property
    def approximation(self) -> Approximation | None:
        """How far the run is approximate; None for an exact one, and for a published table."""
        record = self.manifest.get("approximation")
        return None if record is None else approximation_in(record)

    @property
    def is_adaptive(self) -> bool:
        """True if an adaptive run chose which cells of its grid were measured, and not all were."""
        return ADAPTIVE_KEY in self.manifest and not self.is_complete

    @property
    def is_finished(self) -> bool:
        """True if there is nothing left to run: all of it, or what an adaptive run chose."""
        return self.is_complete or "rounds" in self.manifest.get(ADAPTIVE_KEY, {})

    @property
    def stopped_early(self) -> str:
        """That a run was stopped early, and that its average is not to be quoted; else empty."""
        record = self.manifest.get(STOPPED_KEY)
        if record is None or not self.num_pending:
            return ""
        return (
            f"stopped early after {record['samples']:,} of "
            f"{counted(record['planned_samples'], 'sample')}, as it is worse than "
            f"{shortened(record['baseline'], _MAX_NAME)}: the average is not to be quoted, for its "
            "scores decided when the run stopped"
        )

    @property
    def is_selected(self) -> bool:
        """True if scores decided which samples were run, so that their mean has no interval."""
        return self.is_adaptive or bool(self.stopped_early)

    @property
    def tokens_per_frame(self) -> int | None:
        """Number of tokens that the model reads for a frame; None if that is not known."""
        tokens = self.manifest.get("model", {}).get("tokens_per_frame", self.frame_tokens)
        return int(tokens) if tokens is not None else None


def _as_utf8(value: Any) -> Any:
    """A text as pandas can hold it, which knows no lone surrogates: they are escaped."""
    return without_surrogates(value) if isinstance(value, str) else value


def require_table_size(results: Results) -> Results:
    """The results, if their cells fit into a table that can be shown.

    Raises:
        ResultsError: there are too many different numbers of frames and depths.
    """
    num_columns = len({found.cell.num_frames for found in results.cells})
    num_rows = len({results.row_of(found.cell) for found in results.cells})
    if num_columns * num_rows > _MAX_TABLE_SIZE:
        raise ResultsError(
            f"{results.path} has cells at {num_columns:,} numbers of {results.axis} and "
            f"{num_rows:,} depths, and a table has at most {_MAX_TABLE_SIZE:,} places"
        )
    return results


def _score(cell: Cell, samples: Sequence[SampleResult]) -> CellScore:
    scored = [sample.correct for sample in samples if sample.correct is not None]
    return CellScore(
        cell,
        score=sum(scored) / len(scored) if scored else None,
        num_samples=len(scored),
        num_correct=sum(scored),
        num_errors=len(samples) - len(scored),
    )
