"""What has to be right before a folder is watched, for hours or days."""

import argparse
import os
from pathlib import Path

from vniah.cli.sweeps.config import Entry, SweepConfig
from vniah.cli.sweeps.members import Plan
from vniah.errors import InputError
from vniah.sweep.launchers import job_size


def require_watchable(folder: Path, config: SweepConfig, options: argparse.Namespace) -> None:
    """Requires the folder, the options and the file to go together.

    Raises:
        InputError: they do not.
        ResultsError: there is no such baseline.
    """
    if job_size() > 1:
        raise InputError(
            "watch runs in one process; with several, start vniah run for each checkpoint"
        )
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the one in which checkpoints appear")
    if any(entry.values for entry in config.entries["models"]) or "model" in config.shared:
        raise InputError(
            f"{config.path} names models, but watch measures the checkpoints of {folder}; remove "
            "them from the file"
        )
    if options.shard_weights:
        raise InputError(
            "--shard-weights is for vniah run in a job of several processes, and watch runs in "
            "one; leave it out"
        )
    plan = plan_of_any(folder, config)
    if any(member.options.stop_early for member in plan.members):
        raise InputError(
            "--stop-early is for vniah run; watch measures each checkpoint whole, and compares it "
            "with a --baseline"
        )
    if options.context_parallel > 1:
        raise InputError(
            f"--context-parallel {options.context_parallel} is for vniah run in a job of several "
            "processes, and watch runs in one; leave it out"
        )
    if options.baseline is not None and len(plan.members) > 1:
        raise InputError(
            f"--baseline is one run, and there are {len(plan.members)} of each checkpoint; with "
            "--rules alone each is compared with that of the checkpoint before"
        )
    if options.baseline is not None:
        from vniah.results import load_results

        load_results(options.baseline)
    if options.rules is not None:
        from vniah.analysis.compare.rules import make_rules

        make_rules(options.rules, {})


def plan_of_any(folder: Path, config: SweepConfig) -> Plan:
    """The runs of a checkpoint that stands for those that will appear in a folder."""
    return config.plan(Path(), [Entry("checkpoint", {"model": str(folder)})])


def require_writable(output: Path) -> None:
    """Makes the folder of all runs, in which it must be possible to write."""
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK):
        raise InputError(f"{output} cannot be written to; choose another --output")
