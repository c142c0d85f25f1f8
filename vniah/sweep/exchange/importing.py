"""Makes a run of the answers that another harness, or a hosted model, gave to an export."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vniah.engines.base import GENERATED
from vniah.engines.prompt_text import CountedPrompt, TextProbe
from vniah.errors import InputError, ResultsError, TaskError, counted, short_repr
from vniah.files import hash_file
from vniah.paths import user_path
from vniah.results import Results, RunFolder, SampleResult
from vniah.results.folders import PLAN_NAME
from vniah.scoring import GeneratedText, Reading
from vniah.sweep.exchange.answers import Answer, read_answers
from vniah.sweep.exchange.folder import ExportManifest, read_export
from vniah.sweep.exchange.records import read_plan, read_prompt_lengths
from vniah.sweep.manifest import environment_record, manifest_of_plan
from vniah.sweep.outcomes import result_of
from vniah.sweep.replies import warn_of_unreadable
from vniah.tasks import Sample, Task, load_task
from vniah.tasks.controls import Control, choose_controls
from vniah.tasks.details import details_of

_LOG = logging.getLogger("vniah")

_MOST_IN_NAME = 1000


def import_answers(
    answers: str | Path | Mapping[str, str],
    *,
    export: str | Path,
    model_name: str,
    output: str | Path,
    revision: str | None = None,
    task: str | Task | None = None,
    overwrite: bool = False,
) -> Results:
    """Makes a run folder of answers to the samples of an export.

    They are scored by the task's own rule for written answers, as those of a chat model. Answers
    may come in several files, one after the other; a run that lacks some is not complete.

    Args:
        answers: a file of JSON lines with ``sample_id`` and ``prediction`` (or ``response``) each,
            or of CSV with these columns; or the texts by ``sample_id``. A line with ``error`` in
            place of the text is a sample that could not be run. ``seconds`` and ``prompt_tokens``
            are kept where they are given.
        export: the folder of `export_samples`.
        model_name: who answered, for titles and tables.
        output: the run's folder.
        revision: which version of the model answered.
        task: makes the task of the export again; needed where that was given as an object.
        overwrite: discard what the folder holds.

    Raises:
        ResultsError: the export or the answers cannot be read; an answer is to no sample of the
            export, is given twice, or is another one than was imported before; or the
            ``prompt_tokens`` of answers are not those of the exported texts.
        RunMismatchError: the folder holds another run.
        TaskError: the task cannot be made again.
        InputError: the name is empty.
    """
    source = user_path(export, "the export")
    folder = user_path(output, "the output")
    if source.resolve().is_relative_to(folder.resolve()):
        raise ResultsError(
            f"{folder} holds the export {source}, and a run needs a folder of its own; choose "
            "another --output"
        )
    given = answers if isinstance(answers, Mapping) else user_path(answers, "the answers")
    manifest = read_export(source)
    samples = read_plan(source / PLAN_NAME, manifest["plan_sha256"])
    if manifest["plan"]["sample_ids"].split() != [sample.sample_id for sample in samples]:
        raise ResultsError(f"{source} lists other samples in its manifest than in {PLAN_NAME}")
    loaded = _load_task(manifest, task)
    found = read_answers(given)
    _require_known(found, samples, source)
    if "tokenizer" in manifest:
        lengths = read_prompt_lengths(source / PLAN_NAME, manifest["plan_sha256"])
        _require_counted(found, lengths, manifest)
    run = RunFolder(folder, _run_manifest(manifest, model_name, revision), overwrite=overwrite)
    new = _new_results(run, loaded, samples, found)
    if new:
        of_file = {} if isinstance(given, Mapping) else {"sha256": hash_file(given)}
        environment = {"answers": {**of_file, "num_imported": len(new)}}
        with run.open(manifest.get("notes", ()), environment=environment):
            for result in new:
                run.append(result)
            run.merge()
    results = run.results()
    if warning := warn_of_unreadable(samples, results):
        _LOG.warning(warning)
    return results


def controls_of(export: str | Path, task: str | Task | None = None) -> Sequence[Control]:
    """The controls of an export, for the verdict; none if they were given as objects.

    Args:
        export: the folder.
        task: as `import_answers`.
    """
    manifest = read_export(user_path(export, "the export"))
    chosen = manifest["task"]["controls"]
    return () if chosen is None else choose_controls(_load_task(manifest, task), chosen)


def _load_task(manifest: ExportManifest, task: str | Task | None) -> Task:
    """The task of the export, configured as it was.

    Raises:
        TaskError: it cannot be made again, or is another one now.
    """
    record, plan = manifest["task"], manifest["plan"]
    source = record["source"] if task is None else task
    if source is None:
        raise TaskError(
            f"the task {short_repr(plan['task'])} of the export was given as an object, so its "
            "name does not say how to make it again: give it with task"
        )
    loaded = load_task(source, record["options"] if isinstance(source, str) else None)
    own = (loaded.name, details_of(loaded).get("settings", {}))
    exported = (plan["task"], plan.get("task_details", {}).get("settings", {}))
    if own != exported:
        raise TaskError(
            f"the task {own[0]} with {short_repr(own[1])} is not the one of the export, which is "
            f"{exported[0]} with {short_repr(exported[1])}; export again, or give that task"
        )
    return loaded


def _run_manifest(
    manifest: ExportManifest, model_name: str, revision: str | None
) -> dict[str, Any]:
    if not model_name.strip() or len(model_name) > _MOST_IN_NAME:
        raise InputError(
            f"the name of the model must be 1 to {_MOST_IN_NAME:,} characters, got "
            f"{short_repr(model_name)}"
        )
    model = {
        "name": model_name,
        "revision": revision,
        "dtype": None,
        "tokens_per_frame": None,
        "answers": "imported",
        **_shown_record(manifest),
    }
    return manifest_of_plan(
        manifest["plan"], model, criterion=GENERATED, environment=environment_record(None)
    )


def _shown_record(manifest: ExportManifest) -> dict[str, str]:
    """What a run says of the videos that the model saw, or of the tokens that it read."""
    if "tokenizer" in manifest:
        tokenizer = manifest["tokenizer"]
        return {"tokenizer": tokenizer["name"], "tokenizer_sha256": tokenizer["sha256"]}
    video = manifest["video"]
    size = f"{video['width']}x{video['height']}"
    return {"videos": f"{video['codec']}, {size}, quantizer {video['quantizer']}"}


def _require_counted(
    found: Mapping[str, Answer], lengths: Mapping[str, int], manifest: ExportManifest
) -> None:
    """Requires the tokens that hosts counted to be those of the prompts, and of what is around.

    Raises:
        ResultsError: a host cut a prompt, or its model has another tokenizer.
    """
    counts = {
        sample_id: CountedPrompt(lengths[sample_id], answer.prompt_tokens)
        for sample_id, answer in found.items()
        if sample_id in lengths and answer.prompt_tokens is not None
    }
    if not counts:
        return
    shortest = min(counts.values(), key=lambda prompt: prompt.counted)
    probe = TextProbe("", manifest["tokenizer"]["name"], (shortest,))
    for sample_id, prompt in counts.items():
        if (complaint := probe.complaint_about(prompt)) is not None:
            raise ResultsError(f"the answer to {short_repr(sample_id)}: {complaint}")


def _require_known(found: Mapping[str, Answer], samples: Sequence[Sample], source: Path) -> None:
    """Raises `ResultsError` for answers to samples that the export does not have."""
    unknown = found.keys() - {sample.sample_id for sample in samples}
    if unknown:
        first = next(sample_id for sample_id in found if sample_id in unknown)
        raise ResultsError(
            f"{counted(len(unknown), 'answer')} of {len(found):,} to samples that the export "
            f"{source} does not have, the first is {short_repr(first)}; give the --export that was "
            "answered"
        )


def _new_results(
    run: RunFolder, task: Task, samples: Sequence[Sample], found: Mapping[str, Answer]
) -> list[SampleResult]:
    """The results that the run lacks, in the order of the plan.

    Raises:
        ResultsError: an answer is another one than the run has.
    """
    new = []
    for sample in samples:
        if sample.sample_id not in found:
            continue
        result = _result(task, sample, found[sample.sample_id])
        if not run.has_score(sample.sample_id):
            new.append(result)
            continue
        earlier = run.samples[sample.sample_id]
        if result.error is None and result.prediction != earlier.prediction:
            raise ResultsError(
                f"the answer to {sample.sample_id} is {short_repr(result.prediction)}, and "
                f"{run.directory} has {short_repr(earlier.prediction)} for it; choose another "
                "--output, or start again with --overwrite"
            )
    return new


def _result(task: Task, sample: Sample, answer: Answer) -> SampleResult:
    if answer.text is None:
        return result_of(task, sample, answer.error or "")
    reading = Reading(
        seconds=answer.seconds or 0.0,
        generated=GeneratedText(answer.text),
        prompt_tokens=answer.prompt_tokens,
    )
    return replace(result_of(task, sample, (reading,)), seconds=answer.seconds)
