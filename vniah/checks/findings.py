"""Findings about a model, and calls of its methods that turn every error into a finding."""

import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vniah.engines.agreement import TOLERANCES
from vniah.errors import ModelError, VniahError, first_line


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a model, or worth knowing about it.

    Attributes:
        text: one line: what is wrong, the value, what to do.
        is_fatal: whether there would be no numbers, or wrong ones; else the finding is a note.
    """

    text: str
    is_fatal: bool = True

    def sentence(self) -> str:
        """The line, which begins with ``wrong:`` or ``note:``."""
        return f"{'wrong' if self.is_fatal else 'note'}: {self.text}"


def note(text: str) -> Finding:
    """A finding that is not fatal."""
    return Finding(text, is_fatal=False)


Rule = Callable[[Any], Iterator[Finding]]


class Examination:
    """Applies rules to a model, and keeps their findings.

    A rule is a function of one argument that yields findings. A `VniahError` that it raises counts
    as a fatal finding.

    Attributes:
        findings: in the order in which they were found, each once.
        num_examined: the number of rules that were applied.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.num_examined = 0

    def apply(self, subject: Any, *rules: Rule) -> bool:
        """Applies all rules; returns True if none of them found anything fatal."""
        is_fine = True
        for rule in rules:
            self.num_examined += 1
            found: list[Finding] = []
            try:
                found += rule(subject)
            except VniahError as error:
                found.append(Finding(first_line(error)))
            self.findings = list(dict.fromkeys([*self.findings, *found]))
            is_fine = is_fine and not any(finding.is_fatal for finding in found)
        return is_fine


def call(model: Any, method: str, *arguments: Any) -> Any:
    """The result of a method of the model.

    Raises:
        ModelError: the method raised it; or it raised another error, and the message names that
            error and the line in the model's own module.
    """
    try:
        return getattr(model, method)(*arguments)
    except ModelError:  # its message says what is wrong
        raise
    except Exception as error:  # a user's code may raise anything; the cause stays attached
        raise ModelError(
            f"{method} failed{_where(error, model)} with {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def _where(error: BaseException, model: Any) -> str:
    """The innermost line of the model's own module in the error's traceback, as words."""
    path = getattr(sys.modules.get(type(model).__module__), "__file__", None)
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if path is not None and frame.filename == path
    ]
    return f" in line {lines[-1]} of {Path(path).name}" if path and lines else ""


def relative_change(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors, as a share of their largest magnitude."""
    first, second = (
        tensor.detach().double().cpu().nan_to_num(neginf=0.0) for tensor in (one, other)
    )
    largest = float(torch.maximum(first.abs(), second.abs()).max())
    return float((first - second).abs().max()) / largest if largest else 0.0


def rounding(*values: Tensor) -> float:
    """The largest `relative_change` that rounding explains, by the coarsest dtype."""
    return max(TOLERANCES.get(value.dtype, TOLERANCES[torch.float32]) for value in values)
