"""What a command shows: progress bars, the table of cells, the average."""

from typing import TYPE_CHECKING, Any

from vniah.grid import format_depth

if TYPE_CHECKING:
    from vniah.results import Results

_UNITS = {"sweep": "sample", "encode": "frame", "draw": "s"}


def format_table(results: "Results") -> str:
    """The cells as text: depths downwards, frames to the right; a dot where there is no score."""
    cells = {score.cell: score.score for score in results.cells}
    counts = sorted({cell.num_frames for cell in cells})
    depths = sorted({cell.depth for cell in cells})
    by_place = {(cell.num_frames, cell.depth): score for cell, score in cells.items()}
    lines = [["depth", *(f"{count:,}" for count in counts)]]
    for depth in depths:
        scores = (by_place.get((count, depth)) for count in counts)
        lines.append(
            [format_depth(depth), *("." if score is None else f"{score:.2f}" for score in scores)]
        )
    means = []
    for count in counts:
        column = [s for (n, _), s in by_place.items() if n == count and s is not None]
        means.append(f"{sum(column) / len(column):.2f}" if column else ".")
    lines.append(["mean", *means])
    widths = [max(len(line[column]) for line in lines) for column in range(len(counts) + 1)]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in lines
    )


def format_average(results: "Results") -> str:
    """The mean over cells, and how sure it is: a Wilson interval over all samples."""
    from vniah.statistics import wilson_interval

    if results.average is None:
        return "average: none, no sample could be scored"
    text = f"average: {results.average:.4f} over {len(results.cells)} cells"
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


class Bars:
    """A tqdm bar on stderr for the stage that reports; the next stage closes it."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Any = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def show(self, stage: str, done: int, total: int) -> None:
        """Moves the stage's bar to ``done`` of ``total``."""
        from tqdm import tqdm

        if stage != self._stage:
            self._close()
            self._stage = stage
            self._bar = tqdm(desc=stage, total=total, unit=f" {_UNITS[stage]}")
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
