"""Several RoPE bases or scalings in one command: which, where their runs lie, what is shown."""

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


def asked_ropes(options: argparse.Namespace) -> tuple[RopeChoice, ...]:
    """Every --rope-theta with every --rope-scaling; one that changes nothing without them.

    Raises:
        InputError: one is named twice.
    """
    return rope_choices(options.rope_theta, options.rope_scaling)


def only_rope(options: argparse.Namespace) -> RopeChoice:
    """The one RoPE that is asked for.

    Raises:
        InputError: there are several.
    """
    choices = asked_ropes(options)
    if len(choices) > 1:
        raise InputError(
            f"--rope-theta and --rope-scaling name {len(choices)} RoPEs, and only run takes "
            "several; give one value"
        )
    return choices[0]


def override_rope(model: "AnyModel", choice: RopeChoice) -> None:
    """Gives a model another RoPE; its weights stay where they are."""
    change: Any = getattr(model, "override_rope", None)
    if change is None:
        raise InputError(
            f"{model.name} has no override_rope(theta, scaling), which gives it another RoPE for "
            "the next run; give one value"
        )
    change(choice.theta, choice.scaling)


def refuse_impossible(model: "AnyModel", choices: Sequence[RopeChoice]) -> None:
    """Raises `InputError` before anything runs, if one of several RoPEs is not for this model."""
    if len(choices) > 1:
        for choice in choices:
            override_rope(model, choice)


def rope_folder(output: Path, choice: RopeChoice, *, is_one: bool) -> Path:
    """Where a run lies in the folder that --output names: of several, each in its own."""
    return output if is_one else output / choice.folder_name


def shared_name(output: Path | None, task: str, runs: Sequence["Results"]) -> Path:
    """The path, without a file's name, that belongs to several runs together."""
    if output is not None:
        return output
    key = hash_text("\n".join(str(results.path) for results in runs))[:8]
    return Path("results", f"{slug(runs[0].name)}-{task}-rope-{key}")


def print_ropes(choices: Sequence[RopeChoice], runs: Sequence["Results"], picture: Path) -> int:
    """One line for each RoPE, and where they are drawn side by side; the exit code."""
    print(f"\n{format_comparison([choice.label for choice in choices], runs)}\n")
    print(f"heatmap: {picture}")
    return 0 if all(results.average is not None for results in runs) else 1
