"""How a reference model does at every task of vniah and with every control, for its model card."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import vniah
from training.recipe import CARDS_DIR, RECIPE
from training.tables import share, with_interval
from vniah.analysis.verdict import Verdict, verdict
from vniah.haystacks.haystack import Haystack
from vniah.protocol import DecoderModel
from vniah.results import Results, SampleResult
from vniah.results.facets import facet_results, facet_values, group_results, label_of, value_label
from vniah.tasks import TASKS

PLAIN = "vniah"  # the task with all controls; it has the tables of scores to itself
LOCALIZATION, BRIDGED = "localization", "bridged"


@dataclass(frozen=True)
class Measured:
    """The run of one task."""

    name: str  # with the options that are not the task's own
    results: Results

    @property
    def chance(self) -> float | None:
        """The share that is right by chance, where the task says how many answers there are."""
        options = [sample.fields.get("num_options") for sample in self.results.samples]
        return sum(1 / count for count in options) / len(options) if all(options) else None


def measure_tasks(model: DecoderModel, haystack: Haystack, *, folder: Path) -> list[Measured]:
    """Runs every task with the default needles on a small grid.

    The plain task has all controls, the others those that they have by default.

    Args:
        model: the exported model.
        haystack: an unseen film.
        folder: for the runs and the embeddings.
    """
    needles = vniah.load_needles(CARDS_DIR)
    measured = []
    for task_name in TASKS:
        depths = RECIPE.part_depths if task_name == LOCALIZATION else RECIPE.task_depths
        for options in RECIPE.task_options.get(task_name, ({},)):
            title = " ".join([task_name, *(f"{key}={value}" for key, value in options.items())])
            results = vniah.run_sweep(
                model,
                haystack,
                needles,
                vniah.Grid.of(RECIPE.task_frame_counts, depths),
                output=folder / title.replace(" ", "_"),
                task=task_name,
                task_options=options,
                controls="all" if task_name == PLAIN else "default",
                cache=folder / "cache",
                overwrite=True,
                progress=False,
            )
            if errors := [sample.error for sample in results.samples if sample.error is not None]:
                raise RuntimeError(f"{title}: {len(errors)} samples have errors: {errors[0]}")
            measured.append(Measured(title, results))
    return measured


def task_table(measured: Sequence[Measured]) -> str:
    """Every task's share of right answers and its measures, in Markdown."""
    heads = [
        "task",
        "measured",
        *(f"{n} frames" for n in RECIPE.task_frame_counts),
        "all (95 %, n)",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for one in measured:
        if one.name == PLAIN:
            continue
        for what, cells in _rows(one):
            lines.append(f"| {' | '.join((f'`{one.name}`', what, *cells))} |")
    return "\n".join(lines)


def control_table(measured: Sequence[Measured]) -> str:
    """What the controls of the plain task found, in Markdown."""
    (plain,) = [one for one in measured if one.name == PLAIN]
    lines = ["| control | finding | conspicuous |", "|---|---|---|"]
    for found in _verdict(plain).findings:
        lines.append(f"| {found.control} | {found.summary} | {found.verdict or 'nothing'} |")
    return "\n".join(lines)


def verdict_table(measured: Sequence[Measured]) -> str:
    """The verdict of the controls of every task, in Markdown."""
    lines = ["| task | verdict of its controls |", "|---|---|"]
    lines += [f"| `{one.name}` | {_verdict(one).text} |" for one in measured]
    return "\n".join(lines)


def _verdict(one: Measured) -> Verdict:
    found = verdict(one.results)
    if found is None:
        raise ValueError(f"the task {one.name} has no controls by default: tasks.py needs some")
    return found


def _rows(one: Measured) -> list[tuple[str, list[str]]]:
    """What was measured, and a cell for each number of frames and for all of them."""
    chance = "" if one.chance is None else f" (by chance {one.chance:.2f})"
    rows = [(f"right{chance}", _shares(one.results.samples))]
    if one.name == BRIDGED:
        rows.append(("answer of the first hop", _shares(_first_hops(one.results.samples))))
    for field, values in facet_values(one.results).items():
        parts = facet_results(one.results, field)
        for value in values:
            name = f"{label_of(one.results, field)}: {value_label(value)}"
            rows.append((name, _shares(parts[value].samples)))
    if (groups := group_results(one.results)) is not None:
        rows.append((f"all of a {one.results.details['all_of']} right", _shares(groups.samples)))
    details = one.results.details
    for measure, reference in details.get("references", {}).items():
        name = f"{label_of(one.results, measure)} ({label_of(one.results, reference)})"
        cells = [
            f"{_mean(some, measure):.2f} ({_mean(some, reference):.2f})"
            for some in (*_by_length(one.results.samples).values(), one.results.samples)
        ]
        rows.append((name, cells))
    return rows


def _first_hops(samples: Sequence[SampleResult]) -> list[SampleResult]:
    """Samples of `vniah.tasks.bridged`, right where the answer is the key of the second hop."""
    needles = vniah.load_needles(CARDS_DIR)
    keys = {one.needle_id: one.answer for one in needles if one.bridge is not None}
    return [
        replace(
            sample,
            correct=sample.prediction in [keys.get(one) for one in sample.fields["needle_ids"]],
        )
        for sample in samples
    ]


def _by_length(samples: Sequence[SampleResult]) -> Mapping[int, Sequence[SampleResult]]:
    return {
        count: [sample for sample in samples if sample.num_frames == count]
        for count in RECIPE.task_frame_counts
    }


def _shares(samples: Sequence[SampleResult]) -> list[str]:
    every = [sample.correct for sample in samples]
    found = [[sample.correct for sample in some] for some in _by_length(samples).values()]
    return [*(f"{share(some):.2f}" if some else "-" for some in found), with_interval(every)]


def _mean(samples: Sequence[SampleResult], measure: str) -> float:
    values = [float(sample.fields[measure]) for sample in samples if measure in sample.fields]
    return sum(values) / len(values) if values else math.nan
