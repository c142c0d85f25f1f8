"""A run as lmms-eval writes its own with ``--log_samples``: a file of results, one of samples each.

``OUTPUT/MODEL/DATE_results.json`` has the means, ``OUTPUT/MODEL/DATE_samples_TASK.jsonl`` a line
for each sample. The test is one task and each control another, so that no mean mixes them.
https://github.com/EvolvingLMMs-Lab/lmms-eval, ``lmms_eval/loggers/evaluation_tracker.py``
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vniah.analysis.convert.contents import (
    Scored,
    as_utf8,
    run_details,
    sample_ids,
    scored_groups,
    time_of,
)
from vniah.errors import without_surrogates
from vniah.files import atomic_path, hash_settings, hash_text, to_json, write_json
from vniah.results import Results, SampleResult

METRIC = "vniah_score"
"""1 for a right sample and 0 for a wrong one; readers know a score by this part of its name."""

_CELL_MEAN = "vniah_cell_mean"
_FILTER = "none"
_MOST_IN_A_NAME = 48  # characters of up to four bytes; the name of a file has at most 255


def write_lmms_eval(results: Results, folder: Path) -> tuple[Path, ...]:
    """Writes the files, each whole or not at all; those of the results come last.

    Args:
        results: a run.
        folder: in it a folder of the model's name is made.

    Returns:
        The file of results, then those of samples.
    """
    groups = scored_groups(results)
    names = _task_names(groups)
    model = _folder_name(without_surrogates(results.name))
    if results.is_approximate:  # which the name may be too long to say
        model = f"{model.partition('__approximate')[0]}__approximate"
    date = time_of(results).strftime("%Y%m%d_%H%M%S")
    directory = folder / model
    doc_ids = {sample_id: number for number, sample_id in enumerate(sample_ids(results))}
    files, hashes = [], {}
    for group, name in zip(groups, names, strict=True):
        path = directory / f"{date}_samples_{name}.jsonl"
        hashes[name] = _write_samples(path, group, doc_ids)
        files.append(path)
    content = _results(results, dict(zip(names, groups, strict=True)))
    named = {"model_name": results.name, "model_name_sanitized": model, "date": date}
    path = directory / f"{date}_results.json"
    write_json(path, as_utf8({**content, "task_hashes": hashes, **named}))
    return path, *files


def _write_samples(path: Path, group: Scored, doc_ids: Mapping[str, int]) -> str:
    """Writes a line for each sample; gives their hash, as lmms-eval computes it."""
    hashes = []
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for number, sample in enumerate(group.samples):
            line = as_utf8(_line(sample, doc_ids[sample.sample_id]))
            file.write(to_json(line) + b"\n")
            hashes.append(f"sample_{number}{line['doc_hash']}")
    return hash_text("".join(hashes))


def _results(results: Results, tasks: Mapping[str, Scored]) -> dict[str, Any]:
    details = run_details(results)
    manifest = results.manifest
    seconds = [s.seconds for group in tasks.values() for s in group.samples if s.seconds]
    return {
        "results": {name: _means(group, results) for name, group in tasks.items()},
        "group_subtasks": {name: [] for name in tasks},
        "configs": {
            name: {
                "task": name,
                "dataset_name": manifest["needles"].get("name"),
                "output_type": "generate_until",
                "num_fewshot": 0,
                "metadata": {"version": 0, "control": group.control, **details},
            }
            for name, group in tasks.items()
        },
        "versions": dict.fromkeys(tasks, 0),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {name: {METRIC: True, _CELL_MEAN: True} for name in tasks},
        "n-samples": {
            name: {"original": group.num_planned, "effective": group.num_scored}
            for name, group in tasks.items()
        },
        "config": {"model": results.name, "model_args": dict(manifest["model"])},
        "git_hash": manifest.get("environment", {}).get("git_revision"),
        "model_source": "vniah",
        "total_evaluation_time_seconds": str(sum(seconds)),
    }


def _means(group: Scored, results: Results) -> dict[str, Any]:
    """The mean over samples, and for the test the mean over cells, which is vniah's own."""
    means = {METRIC: group.accuracy}
    if group.control is None:
        means[_CELL_MEAN] = results.average
    found: dict[str, Any] = {"alias": f"{group.name}{' (approximate)' * group.is_approximate}"}
    for name, mean in means.items():
        # An empty text is what lmms-eval shows as N/A. Samples of one needle are not independent,
        # so its standard error over samples would be too small.
        found[f"{name},{_FILTER}"] = "" if mean is None else mean
        found[f"{name}_stderr,{_FILTER}"] = "N/A"
    return found


def _line(sample: SampleResult, doc_id: int) -> dict[str, Any]:
    score = None if sample.correct is None else float(sample.correct)
    asked = {"id": sample.sample_id, "question": sample.question, "answer": sample.answer}
    return {
        "doc_id": doc_id,
        "target": sample.answer,
        # Nothing was answered where the sample could not be run.
        "filtered_resps": [] if sample.error is not None else sample.prediction or "",
        "doc_hash": hash_settings(as_utf8(asked)),
        METRIC: score,
        "input": sample.question,
        "error": sample.error,
        "vniah": sample.record(),
    }


def _task_names(groups: tuple[Scored, ...]) -> list[str]:
    """A name for each task that a file can have, and that no other task has."""
    names: list[str] = []
    for group in groups:
        name = plain = re.sub(r"\W", "_", group.name)[:_MOST_IN_A_NAME] or "task"
        while name in names:
            name = f"{plain}_{len(names)}"
        names.append(name)
    return names


def _folder_name(model: str) -> str:
    """The last two parts of a model's name as one name, as lmms-eval names its folders."""
    last = "/".join(model.strip("/").split("/")[-2:])
    name = re.sub(r"[^\w.-]+", "__", last)[:_MOST_IN_A_NAME]
    return name if name.strip(".") else "model"
