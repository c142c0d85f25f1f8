"""Makes a run of a run, with its answers judged by other rules."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vniah.errors import InputError, ResultsError
from vniah.files import hash_file
from vniah.needles import NeedleSet, load_needles
from vniah.paths import user_path
from vniah.results import (
    ENVIRONMENT_KEY,
    FORMAT_VERSION,
    MANIFEST_NAME,
    NOTES_KEY,
    SAMPLES_NAME,
    Results,
    RunFolder,
    SampleResult,
    load_results,
)
from vniah.results.attention import read_attention
from vniah.results.manifests import VERIFICATION_KEY
from vniah.results.plan import planned_ids
from vniah.results.reading import rank_paths
from vniah.sweep.approximate import record_verification
from vniah.sweep.rescoring.rules import Rule, default_rule, is_of_texts, number_rule, text_rule
from vniah.sweep.rescoring.samples import samples_again, task_again
from vniah.tasks import Task
from vniah.tasks.parsing import Option
from vniah.tasks.recorded import require_run


@dataclass(frozen=True)
class Change:
    """A sample whose outcome is another one.

    Attributes:
        before: its line in the earlier run.
        after: its line in the new run.
    """

    before: SampleResult
    after: SampleResult


@dataclass(frozen=True)
class Rescoring:
    """A run whose answers were judged anew.

    Attributes:
        earlier: the run that it was made from.
        results: the new run.
        rule: the name of the rule.
        criterion: the rule in words.
        changes: the samples whose outcome changed, in the order of the plan, those of controls
            last.
        num_lines: number of samples that were judged.
        num_errors: number of samples that could not be run, which stay errors.
        num_open: number of samples of the earlier run whose outcome is not known yet.
    """

    earlier: Results
    results: Results
    rule: str
    criterion: str
    changes: tuple[Change, ...]
    num_lines: int
    num_errors: int
    num_open: int = 0

    def to(self, outcome: bool | None, *, is_control: bool = False) -> tuple[Change, ...]:
        """The changes to an outcome: True, False, or None for an error.

        Args:
            outcome: the new one.
            is_control: of the controls, in place of the test.
        """
        return tuple(
            change
            for change in self.changes
            if change.after.correct is outcome and (change.after.control is not None) == is_control
        )


def rescore(
    results: str | Path,
    *,
    output: str | Path,
    answer_rules: str | None = None,
    accept: Mapping[str, Sequence[str]] | None = None,
    needles: NeedleSet | str | Path | None = None,
    task: str | Task | None = None,
    task_options: Mapping[str, Option] | None = None,
    export: str | Path | None = None,
    overwrite: bool = False,
) -> Rescoring:
    """Judges the answers of a run by other rules, without a model, and writes them as a new run.

    Args:
        results: the folder of the run, which is not changed. It may still be going on.
        output: the folder of the new run.
        answer_rules: for generated text ``"whole"`` (all of it is the answer), ``"exact"``,
            ``"begins"``, ``"contains"``, or ``"package.module:factory"``, which returns a
            `vniah.answers.MatchRule`; for log-probabilities ``"argmax"``, ``"rank:K"``,
            ``"margin:X"`` or ``"probability:P"``; for options that were asked in several orders
            ``"circular"``. By default the rule of the run.
        accept: further accepted answers for rules of texts, by the answer that they stand for.
        needles: the needle set of the run, where it does not come with vniah. It may accept more
            answers than when the run was made.
        task: makes the task of the run again, where it does not come with vniah.
        task_options: its options, where the task is given.
        export: the folder of the export, for imported answers; then needles are not needed.
        overwrite: discard what the output holds.

    Raises:
        InputError: there is no such rule, the run does not hold what it needs, or its samples
            cannot be made again.
        ResultsError: the run cannot be read, or changes just now.
        RunMismatchError: the output holds another run.
    """
    source, folder = user_path(results, "a result"), user_path(output, "the output")
    earlier, hashes = _read(source)
    _require_apart(source, folder)
    _require_original(earlier)
    name = default_rule(earlier) if answer_rules is None else answer_rules
    given = load_needles(str(needles)) if isinstance(needles, str | Path) else needles
    exported = None if export is None else user_path(export, "the export")
    rule = _open_rule(name, earlier, accept or {}, given, task, task_options, exported)
    manifest = _manifest(earlier, rule, accept or {}, hashes)
    lines, changes, num_open = [], [], 0
    for line in (*earlier.samples, *earlier.control_samples):
        new = line if line.error is not None else rule.judge(line)
        if new is None:
            num_open += 1
            continue
        lines.append(new)
        if new.correct is not line.correct:
            changes.append(Change(line, new))
    run, attention = RunFolder(folder, manifest, overwrite=overwrite), read_attention(source)
    with run.open(manifest[NOTES_KEY]):
        for line in lines:
            if not run.has_score(line.sample_id):
                run.append(line, attention.get(line.sample_id))
        run.merge()
        record_verification(run, run.results(), None, leads=True)
    num_errors = sum(line.error is not None for line in lines)
    return Rescoring(
        *(earlier, run.results(), rule.name, rule.criterion, tuple(changes)),
        num_lines=len(lines),
        num_errors=num_errors,
        num_open=num_open,
    )


def _read(source: Path) -> tuple[Results, Mapping[str, str]]:
    """A run, and the hashes of its two files.

    Raises:
        InputError: it is a published table.
        ResultsError: it has no samples yet, or changes while it is read.
    """
    path = source / SAMPLES_NAME
    digest = hash_file(path) if path.is_file() else None
    results = require_run(load_results(source))
    if rank_paths(source):
        raise ResultsError(
            f"several processes write to {source}, or did when they were stopped; wait until the "
            "run has ended, or start it again"
        )
    if digest is None or not (results.samples or results.control_samples):
        raise ResultsError(f"{source} has no samples yet, so there is nothing to judge")
    if digest != hash_file(path):
        raise ResultsError(
            f"{path} grew while it was read, as the run is going on; try again, or wait for its end"
        )
    manifest = hash_file(source / MANIFEST_NAME)
    return results, {"samples_sha256": digest, "manifest_sha256": manifest}


def _require_apart(source: Path, folder: Path) -> None:
    """Raises `ResultsError` if the new run would lie in the folder of the earlier one."""
    if folder.resolve().is_relative_to(source.resolve()):
        raise ResultsError(
            f"{folder} is, or lies in, the folder of the run that is judged anew, which is not "
            "changed; choose another --output"
        )


def _open_rule(
    name: str,
    results: Results,
    accept: Mapping[str, Sequence[str]],
    needles: NeedleSet | None,
    task: str | Task | None,
    task_options: Mapping[str, Option] | None,
    export: Path | None,
) -> Rule:
    """The rule of a name for a run.

    Raises:
        InputError: there is no such rule, or the run does not hold what it needs.
    """
    if not is_of_texts(name):
        rule = number_rule(name, results)
        if accept:
            raise InputError(
                f"further accepted answers go with rules for texts, and {name} reads no text: the "
                "log-probability of an answer is known only where the model read it"
            )
        return rule
    if default_rule(results) != "whole":
        raise InputError(
            f"the rule {name} is for texts, and {results.path} holds none: its predictions are the "
            "argmax at the places of the right answer, or an option, and not what the model would "
            "write. Use argmax, rank:K, margin:X, probability:P or circular; or run it again with "
            "--scorer generate"
        )
    again = task_again(results, task, task_options)
    samples = samples_again(results, again, needles, export)
    return text_rule(name, again, samples, accept)


def _require_original(earlier: Results) -> None:
    """Requires outcomes that a model's run gave: those of other rules do not say all that it did.

    Raises:
        InputError: the run was itself judged anew.
    """
    if (derived := earlier.manifest.get("derived")) is not None:
        raise InputError(
            f"{earlier.path} was itself made by other answer rules from {derived['from']}; give "
            "that run"
        )


def _manifest(
    earlier: Results,
    rule: Rule,
    accept: Mapping[str, Sequence[str]],
    hashes: Mapping[str, str],
) -> dict[str, Any]:
    """The manifest of the new run: what was measured, and how it was judged."""
    old = earlier.manifest
    ids = " ".join(planned_ids(old))
    derived: dict[str, Any] = {"from": earlier.path.name, **hashes, "answer_rules": rule.name}
    if accept:
        derived["accepted"] = {answer: list(texts) for answer, texts in accept.items()}
    environment = {**old.get(ENVIRONMENT_KEY, {}), "rescored_by": _version()}
    note = (
        f"the answers of {earlier.path.name} were judged anew, without the model: {rule.criterion}"
    )
    defaults = {"task": "vniah", "controls": []}
    return {
        "format_version": FORMAT_VERSION,
        **defaults,
        **{k: v for k, v in old.items() if k not in ("format_version", VERIFICATION_KEY)},
        "derived": derived,
        "protocol": {**old["protocol"], "criterion": rule.criterion},
        "sample_ids": ids,
        ENVIRONMENT_KEY: environment,
        NOTES_KEY: [*old.get(NOTES_KEY, ()), note],
    }


def _version() -> str:
    return f"vniah {importlib.metadata.version('vniah')}"
