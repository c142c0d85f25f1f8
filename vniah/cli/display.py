"""What a command shows: progress bars, the table of cells, the average."""

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING

from vniah.analysis.tables import format_columns
from vniah.grid import format_depth

if TYPE_CHECKING:
    from vniah.models.families import Family
    from vniah.results import Results, SampleResult


def format_table(results: "Results") -> str:
    """The cells as text: depths, or positions, downwards, frames to the right.

    A dot stands where there is no score, nothing where the haystack ends before the position.
    """
    has_positions = results.grid is not None and bool(results.grid.positions)
    by_place: dict[tuple[int, Fraction], float | None] = {}
    for found in results.cells:
        row = Fraction(found.cell.needle_index) if has_positions else found.cell.depth
        by_place[found.cell.num_frames, row] = found.score
    counts = sorted({count for count, _ in by_place})
    lines = [["position" if has_positions else "depth", *(f"{count:,}" for count in counts)]]
    for row in sorted({row for _, row in by_place}):
        line = [f"{int(row):,}" if has_positions else format_depth(row)]
        for count in counts:
            score = by_place.get((count, row))
            blank = "" if has_positions and row > count else "."
            line.append(blank if score is None else f"{score:.2f}")
        lines.append(line)
    lines.append(["mean", *_means(results, counts)])
    return format_columns(lines)


def format_controls(results: "Results") -> str:
    """The controls as text, one a line: the share that the criterion calls right, by frames."""
    counts = sorted({found.num_frames or 0 for found in results.controls})
    names = dict.fromkeys(found.control for found in results.controls)
    scores = {(found.control, found.num_frames or 0): found.score for found in results.controls}
    lines = [["control", *(f"{count:,}" for count in counts)]]
    for name in names:
        row = [scores.get((name, count)) for count in counts]
        lines.append([name, *("." if score is None else f"{score:.2f}" for score in row)])
    return format_columns(lines)


def format_comparison(names: Sequence[str], runs: "Sequence[Results]") -> str:
    """Runs on one grid, one a line: means over depth by frames, and the average over cells."""
    counts = sorted({found.cell.num_frames for results in runs for found in results.cells})
    lines = [["mean over depth", *(f"{count:,}" for count in counts), "average"]]
    for name, results in zip(names, runs, strict=True):
        average = "." if results.average is None else f"{results.average:.4f}"
        lines.append([name, *_means(results, counts), average])
    return format_columns(lines)


def _means(results: "Results", counts: Sequence[int]) -> list[str]:
    """The mean score at each number of frames, and a dot where there is none."""
    means = []
    for count in counts:
        found = [score for score in results.cells if score.cell.num_frames == count]
        column = [score.score for score in found if score.score is not None]
        means.append(f"{sum(column) / len(column):.2f}" if column else ".")
    return means


def format_families(families: "Iterable[Family]", *, width: int | None = None) -> str:
    """The families of models, one a row; lines have at most ``width`` characters."""
    rows = [["model_type", "one frame", "tokens", "sharing", "ring"]]
    rows += [
        [
            family.model_type,
            family.frame_unit,
            family.tokens,
            family.sharing,
            "yes" if family.has_decoder else "no",
        ]
        for family in families
    ]
    return format_columns(rows, justify=str.ljust, width=width)


def format_average(results: "Results") -> str:
    """The mean over the cells that have a score, and a Wilson interval over all samples."""
    from vniah.analysis.statistics import wilson_interval

    if results.average is None:
        return "average: none, no sample could be scored"
    num_cells, num_blank = len(results.cells), sum(s.score is None for s in results.cells)
    over = f"{num_cells - num_blank} of {num_cells}" if num_blank else f"{num_cells}"
    text = f"average: {results.average:.4f} over {over} cells"
    sizes = {score.num_samples for score in results.cells}
    (size,) = sizes if len(sizes) == 1 else (None,)
    if size:  # else the mean over cells is not the share of samples, and the interval not its own
        total = size * len(results.cells)
        correct = sum(score.num_correct or 0 for score in results.cells)
        interval = wilson_interval(correct, total)
        text += (
            f" ({correct} of {total} samples, 95 % interval {interval.low:.3f}-{interval.high:.3f})"
        )
    return text


def format_agreement(results: "Results") -> list[str]:
    """Whether generated answers and the argmax say the same, of tokens and of text; else nothing.

    Of tokens they do, but for ties: the argmax is right everywhere where decoding begins with the
    answer. Of text they need not: a model may write more, or the answer in other words.
    """
    judged = [sample for sample in results.samples if sample.argmax_correct is not None]
    if not judged:
        return []
    tokens = [sample for sample in judged if sample.argmax_correct != sample.greedy_correct]
    texts = [sample for sample in judged if sample.argmax_correct != sample.correct]
    num_argmax = sum(bool(sample.argmax_correct) for sample in texts)
    scorer = results.manifest.get("scorer", {})
    stop_ids = set(scorer.get("stop_ids", ()))
    num_cut = sum(not stop_ids.intersection(sample.predicted_ids[-1:]) for sample in judged)
    return [
        f"tokens: {_agreement(len(judged), tokens)}",
        f"text: {_agreement(len(judged), texts)}"
        + f" ({num_argmax} right by the argmax only, {len(texts) - num_argmax} by the text only)"
        * bool(texts),
        *(
            [
                f"{num_cut} of {len(judged)} texts were cut off before the model ended them; for "
                "one that never does, --max-new-tokens 1 cuts where its answer is as long"
            ]
            if num_cut and scorer.get("max_new_tokens") != 1
            else []
        ),
    ]


def _agreement(num_judged: int, differing: "Sequence[SampleResult]") -> str:
    text = f"greedy decoding and argmax agree on {num_judged - len(differing)} of {num_judged}"
    if not differing:
        return text
    first = differing[0]
    return text + (f"; first not: {first.sample_id}, {first.prediction!r} for {first.answer!r}")


@contextmanager
def shown_log(where: str = "") -> Iterator[None]:
    """Shows what vniah says and warns of as lines on stderr, above the bars.

    Args:
        where: which process of a job this is, such as ``" in process 1"``.
    """
    log, handler = logging.getLogger("vniah"), _Lines(where)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


class _Lines(logging.Handler):
    """Prints records by tqdm, which moves its bars out of the way."""

    def __init__(self, where: str) -> None:
        super().__init__(logging.INFO)
        self._where = where

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        kind = f"warning{self._where}: " if record.levelno >= logging.WARNING else ""
        tqdm.write(f"vniah: {kind}{record.getMessage()}", file=sys.stderr)
