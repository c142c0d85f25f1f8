"""A run as an evaluation log of Inspect (``inspect_ai``), version 2 of its format.

A ``.json`` log is one object; a ``.eval`` log is a zip archive with a file for each sample, which
the viewer opens one at a time. https://inspect.aisi.org.uk/eval-logs.html
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from vniah.analysis.convert.contents import (
    Scored,
    as_utf8,
    run_details,
    sample_ids,
    scored_groups,
    task_name,
    time_of,
)
from vniah.errors import InputError, quoted
from vniah.files import atomic_path, hash_settings, to_json
from vniah.results import Results, SampleResult

_VERSION = 2
_SUFFIXES = (".eval", ".json")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MOST_IN_SUMMARY = 1000  # characters of a text

# What a line says of the score; all else describes the sample.
_OF_SCORE = (
    *("predicted_ids", "logprob", "rank", "margin", "variant"),
    *("argmax_correct", "greedy_correct"),
)
_OWN_PLACE = ("sample_id", "question", "answer", "prediction", "correct", "error")


def write_inspect_log(results: Results, path: Path) -> Path:
    """Writes the log, whole or not at all.

    Args:
        results: a run.
        path: of the file; ``.eval`` is the smaller format, ``.json`` the one for scripts.

    Raises:
        InputError: the file has another suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(
            f"a log of Inspect cannot be saved as {quoted(path.name, 60)}: use one of "
            f"{', '.join(_SUFFIXES)}"
        )
    groups = scored_groups(results)
    header = as_utf8(_header(results, groups))
    with atomic_path(path) as temporary:
        if suffix == ".eval":
            _write_archive(temporary, header, groups, results.name)
        else:
            _write_object(temporary, header, groups, results.name)
    return path


def _write_object(path: Path, header: Any, groups: tuple[Scored, ...], model: str) -> None:
    """The header with the samples at its end, one after the other: a run may have many."""
    with path.open("wb") as file:
        file.write(to_json(header).removesuffix(b"}") + b', "samples": [')
        for number, sample in enumerate(_samples(groups, model)):
            file.write(b",\n" if number else b"\n")
            file.write(to_json(sample))
        file.write(b"\n]}\n")


def _write_archive(path: Path, header: Any, groups: tuple[Scored, ...], model: str) -> None:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:

        def write(name: str, content: Any) -> None:
            info = ZipInfo(name, _EPOCH)
            info.compress_type = ZIP_DEFLATED
            archive.writestr(info, to_json(content))

        write("_journal/start.json", {name: header[name] for name in ("version", "eval", "plan")})
        summaries = []
        for sample in _samples(groups, model):
            name = sample["id"].replace("\0", "\\0")  # where names in an archive end
            write(f"samples/{name}_epoch_{sample['epoch']}.json", sample)
            summaries.append(_summary(sample))
        write("summaries.json", summaries)
        write("header.json", header)


def _header(results: Results, groups: tuple[Scored, ...]) -> dict[str, Any]:
    manifest, details = results.manifest, run_details(results)
    created, task, ids = time_of(results), task_name(results), sample_ids(results)
    number = hash_settings(as_utf8({**manifest, "created": created.isoformat()}))[:22]
    environment = manifest.get("environment", {})
    packages = {"vniah": environment.get("vniah"), **(environment.get("packages") or {})}
    num_errors = sum(s.error is not None for group in groups for s in group.samples)
    return {
        "version": _VERSION,
        "status": "success" if results.is_finished else "started",
        "eval": {
            "eval_id": number,
            "run_id": number,
            "created": created.isoformat(timespec="seconds"),
            "task": task,
            "task_id": number,
            "task_version": 0,
            "task_args": manifest.get("task_details", {}).get("settings", {}),
            "dataset": {
                "name": f"{manifest['needles'].get('name', 'needles')} in "
                f"{manifest['haystack'].get('name', 'a haystack')}",
                "samples": len(ids),
                "sample_ids": ids,
                "shuffled": False,
            },
            "model": results.name,
            "model_args": dict(manifest["model"]),
            "config": {"epochs": 1},
            "packages": {name: str(value) for name, value in packages.items() if value},
            "metadata": details,
        },
        "plan": {"name": "vniah", "steps": []},
        "results": {
            "total_samples": len(ids),
            "completed_samples": (results.num_done or 0) - num_errors,
            "scores": [_eval_score(group, results) for group in groups],
        },
        "stats": {"started_at": "", "completed_at": ""},
    }


def _eval_score(group: Scored, results: Results) -> dict[str, Any]:
    """The means of the test, or of a control."""
    metrics = {"accuracy": group.accuracy}
    if group.control is None:
        metrics = {"cell_mean": results.average, **metrics}
    return {
        "name": group.name,
        "scorer": group.name,
        "scored_samples": group.num_scored,
        "unscored_samples": len(group.samples) - group.num_scored,
        "metrics": {
            name: {"name": name, "value": value}
            for name, value in metrics.items()
            if value is not None
        },
        "metadata": {
            "control": group.control,
            "num_planned": group.num_planned,
            **({"approximate": True} if group.is_approximate else {}),
        },
    }


def _samples(groups: tuple[Scored, ...], model: str) -> Iterator[dict[str, Any]]:
    for group in groups:
        for sample in group.samples:
            yield as_utf8(_sample(sample, group.name, model))


def _sample(sample: SampleResult, scorer: str, model: str) -> dict[str, Any]:
    record = sample.record()
    said = [] if sample.prediction is None else [_said(sample.prediction)]
    found: dict[str, Any] = {
        "id": sample.sample_id,
        "epoch": 1,
        "input": sample.question,
        "target": sample.answer,
        "messages": [{"role": "user", "content": sample.question, "source": "input"}, *said],
        "output": {
            "model": model,
            "choices": [{"message": message, "stop_reason": "unknown"} for message in said],
            "completion": sample.prediction or "",
        },
        "scores": None,
        "metadata": {
            name: value for name, value in record.items() if name not in _OWN_PLACE + _OF_SCORE
        },
        "total_time": sample.seconds,
    }
    if sample.error is not None:
        found["error"] = {"message": sample.error, "traceback": "", "traceback_ansi": ""}
    else:
        found["scores"] = {
            scorer: {
                "value": "C" if sample.correct else "I",
                "answer": sample.prediction,
                "metadata": {name: record[name] for name in _OF_SCORE if name in record},
            }
        }
    return found


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "source": "generate"}


def _summary(sample: dict[str, Any]) -> dict[str, Any]:
    """What the list of samples of the viewer shows."""
    error = sample.get("error")
    return {
        "id": sample["id"],
        "epoch": sample["epoch"],
        "input": sample["input"][:_MOST_IN_SUMMARY],
        "target": sample["target"][:_MOST_IN_SUMMARY],
        "metadata": {
            name: value[:_MOST_IN_SUMMARY] if isinstance(value, str) else value
            for name, value in sample["metadata"].items()
            if not isinstance(value, list)
        },
        "scores": sample["scores"],
        "total_time": sample["total_time"],
        "error": None if error is None else error["message"][:_MOST_IN_SUMMARY],
        "completed": True,
        "message_count": len(sample["messages"]),
    }
