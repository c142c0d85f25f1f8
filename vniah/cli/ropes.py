"""Several RoPE bases or scalings in one command: which ones, their folders, and their table."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vniah.cli.display import format_comparison
from vniah.errors import InputError
from vniah.files import hash_text, slug
from vniah.options.rope import RopeChoice, rope_choices

if TYPE_CHECKING:
    from vniah.protocol import AnyModel
    from vniah.results import Results


def chosen_ropes(options: argparse.Namespace) -> tuple[RopeChoice, ...]:
    """Every --rope-theta with every --rope-scaling; without them, one that changes nothing.

    Raises:
        InputError: one is given twice.
    """
    return rope_choices(options.rope_theta, options.rope_scaling)


def only_rope(options: argparse.Namespace) -> RopeChoice:
    """The RoPE of a command that takes only one.

    Raises:
        InputError: several are given.
    """
    choices = chosen_ropes(options)
    if len(choices) > 1:
        raise InputError(
            f"--rope-theta and --rope-scaling name {len(choices)} RoPEs, and only run takes "
            "several; give one value"
        )
    return choices[0]


def override_rope(model: "AnyModel", choice: RopeChoice) -> None:
    """Gives a loaded model another RoPE."""
    change: Any = getattr(model, "override_rope", None)
    if change is None:
        raise InputError(
            f"{model.name} has no override_rope(theta, scaling), which gives it another RoPE for "
            "the next run; give one value"
        )
    change(choice.theta, choice.scaling)


def require_ropes(model: "AnyModel", choices: Sequence[RopeChoice]) -> None:
    """Raises `InputError`, before anything runs, if the model cannot have one of several RoPEs."""
    if len(choices) > 1:
        for choice in choices:
            override_rope(model, choice)


def rope_folder(output: Path, choice: RopeChoice, *, is_one: bool) -> Path:
    """The folder of a run: that of --output, or a folder inside it if there are several runs."""
    return output if is_one else output / choice.folder_name


def shared_name(output: Path | None, task: str, runs: Sequence["Results"]) -> Path:
    """The folder for the heatmap of several runs: that of --output, or one named after them."""
    if output is not None:
        return output
    key = hash_text("\n".join(str(results.path) for results in runs))[:8]
    return Path("results", f"{slug(runs[0].name)}-{task}-rope-{key}")


def print_ropes(choices: Sequence[RopeChoice], runs: Sequence["Results"], picture: Path) -> int:
    """Prints one line for each RoPE and the path of their heatmaps; returns the exit code."""
    print(f"\n{format_comparison([choice.label for choice in choices], runs)}\n")
    print(f"heatmap: {picture}")
    return 0 if all(results.average is not None for results in runs) else 1
