"""What a window behind needles gives and costs: outcomes of one pass, held against exact ones.

A window is how many frames or tokens behind each needle are computed with it in sight. It reaches
from 0, where nothing behind a needle knows of it, to the whole haystack, which is exact.
"""

from dataclasses import dataclass
from typing import Any

from vniah.errors import counted
from vniah.options.approximation import LEAST_AGREEMENT, WindowUnit
from vniah.tasks.controls.exact import Agreement


@dataclass(frozen=True)
class WindowTrial:
    """What a window gives on some samples whose exact outcomes are known.

    Attributes:
        window: frames or tokens behind each needle that are computed with it in sight.
        agreement: of the outcomes with the exact ones.
        flops: floating point operations that it takes.
        num_approximate: samples of which something is not computed exactly.
    """

    window: int
    agreement: Agreement
    flops: int
    num_approximate: int

    @property
    def is_enough(self) -> bool:
        """Whether at least 99 % of the outcomes agree."""
        return self.agreement.share >= LEAST_AGREEMENT

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        return {"window": self.window, **self.agreement.record(), "flops": self.flops}


def window_advice(window: int | None, agreement: float | None, unit: WindowUnit) -> str:
    """What a run should be started with whose own window is too small.

    Args:
        window: the smallest that was found to be enough; None where only one is with which these
            samples are computed exactly.
        agreement: of that window.
        unit: what it counts.
    """
    if window is None or agreement is None:
        return (
            f"no window that leaves something to share agrees in {LEAST_AGREEMENT} of these "
            "samples; run again without --share one-pass"
        )
    return (
        f"a window of {counted(window, unit[:-1])} agrees in {agreement:.2f} of these samples; run "
        f"again with --window {window}"
    )


@dataclass(frozen=True)
class WindowCurve:
    """How agreement and cost of one pass over a haystack change with the window.

    Attributes:
        model_name: the model's name.
        haystack_name: the haystack's name.
        grid: the cells and needles, in words.
        unit: what windows count.
        num_samples: samples of the grid.
        num_branches: branches that were drawn: needles at positions, with all lengths behind them.
        num_right: samples of theirs that are right when they are run exactly.
        trials: ascending; the last has the whole haystack in its window. The operations of each are
            those of one pass for the whole grid.
        flops_of_tree: operations of the whole grid where common prefixes are computed once.
        flops_alone: operations of the whole grid, sample by sample.
        flops_of_exact: operations of the drawn branches, which a run computes exactly besides.
        num_ties: samples whose outcome is another one with the whole window, and for which the
            exact pass likes two answers about equally well.
        max_allowed: how far rounding may move log-probabilities, in nats.
    """

    model_name: str
    haystack_name: str
    grid: str
    unit: WindowUnit
    num_samples: int
    num_branches: int
    num_right: int
    trials: tuple[WindowTrial, ...]
    flops_of_tree: int
    flops_alone: int
    flops_of_exact: int
    num_ties: int
    max_allowed: float

    @property
    def whole(self) -> WindowTrial:
        """What the whole haystack in the window gives."""
        return self.trials[-1]

    @property
    def is_exact(self) -> bool:
        """Whether the whole window gives what the exact pass gives, to rounding."""
        found = self.whole.agreement
        is_equal = found.num_equal + self.num_ties == found.num_pairs
        return is_equal and (found.max_difference or 0.0) <= self.max_allowed

    @property
    def enough(self) -> WindowTrial | None:
        """The smallest window from which on all agree; None if only exact samples do.

        With a window of half the haystack or more a sample is run exactly, by the tree.
        """
        found = None
        for trial in reversed(self.trials):
            if not trial.is_enough:
                break
            found = trial
        if found is None or (found is not self.trials[0] and not found.num_approximate):
            return None
        return found if found.window < self.whole.window else None

    @property
    def window_texts(self) -> tuple[str, ...]:
        """The windows in words."""
        *smaller, whole = (f"{trial.window:,}" for trial in self.trials)
        return (*smaller, f"all {whole}")

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """A table: a heading, then a row for each window."""
        heading = (
            f"window ({self.unit})",
            *("agreement", "mean difference", "largest", "FLOPs", "tree / it", "one by one / it"),
        )
        return (
            heading,
            *(
                (
                    text,
                    f"{trial.agreement.share:.3f}",
                    _nats(trial.agreement.mean_difference),
                    _nats(trial.agreement.max_difference),
                    f"{trial.flops:.2e}",
                    f"{self.flops_of_tree / trial.flops:.1f}",
                    f"{self.flops_alone / trial.flops:.1f}",
                )
                for text, trial in zip(self.window_texts, self.trials, strict=True)
            ),
        )

    @property
    def branches(self) -> str:
        """The number of branches, in words."""
        return f"{self.num_branches:,} branch{'es' * (self.num_branches != 1)}"

    @property
    def about(self) -> tuple[str, str]:
        """What was measured, in sentences: the samples, and the columns."""
        exact = counted(self.whole.agreement.num_pairs, "sample")
        return (
            f"{self.model_name} on {self.haystack_name}, {self.grid}: "
            f"{exact} of {self.branches} run exactly, {self.num_right:,} of them right, and by one "
            "pass with each window",
            f"agreement: share of these {exact} with the exact outcome; "
            "differences are those of log-probabilities, in nats; FLOPs are those of one pass for "
            f"all {self.num_samples:,} samples of the grid",
        )

    @property
    def verdict(self) -> tuple[str, str]:
        """Which window is enough, and whether the whole one is exact."""
        found = self.enough
        enough = window_advice(None, None, self.unit)
        if found is not None:
            enough = (
                f"smallest window with an agreement of at least {LEAST_AGREEMENT}: "
                f"{counted(found.window, self.unit[:-1])} ({found.agreement.share:.3f}), with "
                f"{self.flops_of_tree / found.flops:.1f} times fewer FLOPs than the tree, or "
                f"{self.flops_of_tree / (found.flops + self.flops_of_exact):.1f} times with "
                f"{self.branches} run exactly besides, as in a run"
            )
        whole = self.whole.agreement
        if not self.num_right:
            enough += (
                "; but none is right when it is run exactly, so that equal outcomes say little: "
                "look at the differences"
            )
        ties = f" and {self.num_ties} as good as equal" * bool(self.num_ties)
        moved = whole.max_difference
        differ = (
            ""
            if moved is None
            else f", log-probabilities at most {moved:.2g} apart ({self.max_allowed:.2g} allowed)"
        )
        return (
            enough,
            f"whole window: {whole.num_equal:,} of {whole.num_pairs:,} outcomes equal{ties}"
            f"{differ}: {'exact' if self.is_exact else 'NOT exact, as it has to be'}",
        )


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def doubling(first: int, whole: int) -> list[int]:
    """Windows from ``first`` on, each twice the one before, that are smaller than ``whole``."""
    found = []
    window = first
    while window < whole:
        found.append(window)
        window = max(1, 2 * window)
    return found
