"""The command ``vniah watch``: measures checkpoints as a training run writes them."""

import argparse
import gc
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vniah.cli.environment import load_plot
from vniah.cli.inputs import load_libraries
from vniah.cli.outcomes import failed_samples
from vniah.cli.printing import comment, show, tell
from vniah.cli.run import run_members
from vniah.cli.sweeps.config import SEPARATOR, Entry, SweepConfig, is_name, plain_name
from vniah.cli.sweeps.index import COMPLETE, Index
from vniah.cli.sweeps.material import require_material
from vniah.cli.sweeps.members import Member, Plan
from vniah.cli.sweeps.watchable import plan_of_any, require_watchable, require_writable
from vniah.errors import InputError, ModelError, VniahError
from vniah.files import hash_text, slug

if TYPE_CHECKING:
    from vniah.results import Results

CURVE_NAME = "curve.png"


def watch(options: argparse.Namespace) -> int:
    """Measures each checkpoint of a folder once, and says how it compares."""
    folder, config = options.folder, options.sweep
    require_watchable(folder, config, options)
    output = options.output or Path("results", slug(folder.resolve().name))
    load_libraries()
    require_material(plan_of_any(folder, config))
    require_writable(output)
    watcher = _Watcher(options, config, output)
    comment(f"checkpoints of {folder} -> {output}")
    watcher.look()
    while True:
        # A checkpoint is whole only if its files are the same at two moments.
        time.sleep(options.interval)
        watcher.look()
        if options.once:
            return watcher.finish()


class _Watcher:
    """What is known of the checkpoints of a folder.

    Args:
        options: of the command.
        config: what each checkpoint is measured with.
        output: the folder of all runs.
    """

    def __init__(self, options: argparse.Namespace, config: SweepConfig, output: Path) -> None:
        self._code = 0
        self._options = options
        self._config = config
        self._output = output
        self._index = Index(output, config.path, keeps_all=True)
        self._seen: dict[str, str] = {}  # the state of the files when they were last looked at
        self._done: dict[str, str] = {}  # the same, of checkpoints that are dealt with
        self._said: dict[str, str] = {}
        self._lines: dict[str, dict[str, Results]] = {}

    def look(self) -> None:
        """Measures the checkpoints that are whole, and have not changed since the last look."""
        from vniah.models.appearing import files_key, find_checkpoints, why_unfinished

        try:
            found = find_checkpoints(self._options.folder)
        except OSError as error:  # a network file system that is gone for a moment
            if self._options.once:
                raise
            self._say("", f"{self._options.folder} cannot be listed: {error.strerror or error}")
            return
        for name in self._seen.keys() - {checkpoint.name for checkpoint in found}:
            del self._seen[name]
        has_new = False
        for checkpoint in found:
            name, key = checkpoint.name, files_key(checkpoint)
            before, self._seen[name] = self._seen.get(name), key
            if self._done.get(name) == key or before != key:
                continue
            if (why := why_unfinished(checkpoint)) is not None:
                self._say(name, f"waiting, as it is not whole: {why}")
                continue
            self._done[name] = key
            self._measure(checkpoint, key)
            has_new = True
        if has_new:
            self._draw()

    def finish(self) -> int:
        """Says what was not measured, and returns the exit code."""
        waiting = sorted(self._seen.keys() - self._done.keys())
        if not self._seen:
            self._say("", f"there is no checkpoint in {self._options.folder}")
        for name in waiting:
            if name not in self._said:
                self._say(name, "not measured, as its files were still changing")
        return 2 if waiting or not self._seen else self._code

    def _say(self, name: str, text: str) -> None:
        """A remark about a checkpoint, once."""
        if self._said.get(name) != text:
            self._said[name] = text
            tell(": ".join(filter(None, (name, text))))

    def _measure(self, checkpoint: Path, key: str) -> None:
        """Runs what is not there yet of a checkpoint, and prints a line for each of its runs."""
        entry = Entry(_run_name(checkpoint.name), {"model": str(checkpoint)}, str(checkpoint))
        plan = self._config.plan(self._output, [entry])
        self._index.add(plan)
        found = {member.name: self._earlier(plan, member, key) for member in plan.members}
        missing = tuple(member for member in plan.members if found[member.name] is None)
        failures: Mapping[str, str] = {}
        if missing:

            def require_same(member: Member) -> None:
                _require_same_files(checkpoint, key)

            runs = run_members(
                replace(plan, members=missing), self._options, check=require_same, is_brief=True
            )
            _free_memory(self._options.device)  # the training may need it until the next look
            failures = runs.failures
            found |= {name: outcome.results for name, outcome in runs.outcomes.items()}
        for member in plan.members:
            failure = failures.get(member.name)
            self._conclude(checkpoint.name, member, found[member.name], failure, key)
        self._index.write()

    def _earlier(self, plan: Plan, member: Member, key: str) -> "Results | None":
        """What an earlier start measured of these files; None if that is not all."""
        from vniah.results import load_results

        record, folder = self._index.record(member.name), plan.folder_of(member)
        same = {"state": COMPLETE, "files": key, "settings": member.settings}
        if folder is None or self._options.overwrite:
            return None
        if any(record.get(name) != value for name, value in same.items()):
            return None
        try:
            results = load_results(folder)
        except VniahError:
            return None
        return results if results.is_complete else None

    def _draw(self) -> None:
        """Draws the accuracy over the checkpoints, if there are several."""
        from vniah.results import load_results

        if not any(len(line) > 1 for line in self._lines.values()):
            return
        baseline = self._options.baseline
        lines = {
            kind.replace(SEPARATOR, ", ") or "checkpoints": [*line.items()]
            for kind, line in self._lines.items()
        }
        try:
            picture = load_plot().save_checkpoint_curves(
                lines,
                self._output / CURVE_NAME,
                baseline=None if baseline is None else load_results(baseline),
            )
        except InputError as error:  # too many lines
            self._say("", f"no curve: {error}")
        else:
            comment(f"curve: {picture}")

    def _conclude(
        self,
        checkpoint: str,
        member: Member,
        results: "Results | None",
        failure: str | None,
        key: str,
    ) -> None:
        """Prints the line of a run, and records it."""
        if results is None:
            self._code = 2
            self._index.has_failed(member, failure or "it was not run")
            return
        if results.average is None or failed_samples(results):
            self._code = max(self._code, 1)
        self._lines.setdefault(_kind_of(member), {})[checkpoint] = results
        parts = [_in_short(results)]
        verdict = self._verdict(checkpoint, member, results)
        if verdict is not None:
            parts.append(str(verdict["text"]))
        self._index.has_ended(member, results, files=key, settings=member.settings, verdict=verdict)
        show(f"{member.name}: {'; '.join(parts)}")

    def _verdict(
        self, checkpoint: str, member: Member, results: "Results"
    ) -> dict[str, Any] | None:
        """How a run compares with the baseline, or with that of the checkpoint before."""
        baseline = self._options.baseline
        if baseline is None and self._options.rules is None:
            return None
        baseline = baseline or self._before(checkpoint, member)
        if baseline is None:
            return {"passed": None, "text": "not compared, as no checkpoint comes before it"}
        from vniah.analysis.compare.comparison import compare_by
        from vniah.analysis.compare.rules import make_rules

        try:
            comparison = compare_by(baseline, results, make_rules(self._options.rules, {}))
        except VniahError as error:
            self._code = 2
            return {"passed": None, "text": f"not compared: {error}"}
        if not comparison.passed:
            self._code = max(self._code, 1)
        warning = f". Warning: {comparison.warning}" if comparison.warning else ""
        return {"passed": comparison.passed, "text": comparison.summary() + warning}

    def _before(self, checkpoint: str, member: Member) -> "Results | None":
        """The same run of the checkpoint before this one, by the numbers in their names."""
        from vniah.models.appearing import natural_key

        line = self._lines[_kind_of(member)]
        earlier = [name for name in line if natural_key(name) < natural_key(checkpoint)]
        return line[max(earlier, key=natural_key)] if earlier else None


def _kind_of(member: Member) -> str:
    """What distinguishes the runs of one checkpoint: the rest of their names."""
    return member.name.partition(SEPARATOR)[2]


def _in_short(results: "Results") -> str:
    from vniah.analysis.statistics.effective import find_effective_length
    from vniah.analysis.statistics.intervention import intervention_effect

    length = find_effective_length(results).short_with_unit
    if results.average is None:
        return "no average, as no sample could be scored"
    average = f"average {results.average:.4f} over {results.coverage}"
    if (effect := intervention_effect(results)) is not None:
        average = f"{average}, {effect.short}"
    if (found := results.approximation) is not None:
        average = f"approximate ({found.how}): {average}"
    return f"{average}, effective length {length}"


def _run_name(name: str) -> str:
    """The name of a checkpoint's runs: that of its folder, or one like it that a folder can have
    beside the names of haystacks and tasks.
    """
    return name if is_name(name) else f"{plain_name(name)[:50]}-{hash_text(name)[:8]}"


def _free_memory(device: str | None) -> None:
    """Gives back what a model took that is measured."""
    from vniah.forward.devices import give_back_unused
    from vniah.models.checkpoints import find_device

    gc.collect()
    give_back_unused(find_device(device))


def _require_same_files(checkpoint: Path, key: str) -> None:
    from vniah.models.appearing import files_key

    if files_key(checkpoint) != key:
        raise ModelError(f"the files of {checkpoint} changed while it was loaded")
