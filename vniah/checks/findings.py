"""What is found of a model, and how its methods are tried: nothing that they raise gets through."""

import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vniah.engines.equivalence import TOLERANCES
from vniah.errors import ModelError, VniahError, first_line


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a model, or worth knowing of it.

    Attributes:
        text: one line: what, the value, what to do.
        is_fatal: whether there would be no numbers, or wrong ones; else it is a note.
    """

    text: str
    is_fatal: bool = True

    def sentence(self) -> str:
        """The line with its weight before it."""
        return f"{'wrong' if self.is_fatal else 'note'}: {self.text}"


def note(text: str) -> Finding:
    """A finding that is not fatal."""
    return Finding(text, is_fatal=False)


Rule = Callable[[Any], Iterator[Finding]]


class Examination:
    """Applies rules to a model, and keeps what they find.

    A rule is a function of one argument that yields findings; a `VniahError` in it is one as well.

    Attributes:
        findings: in the order in which they were found, none twice.
        num_examined: rules that were applied.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.num_examined = 0

    def apply(self, subject: Any, *rules: Rule) -> bool:
        """Applies all rules; whether none of them found anything fatal."""
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
    """What a method of the model gives.

    Raises:
        ModelError: it raised that; or something else, and the message says what, and in which line
            of the model's own module.
    """
    try:
        return getattr(model, method)(*arguments)
    except ModelError:  # says by itself what is wrong
        raise
    except Exception as error:  # somebody else's code; the cause stays attached
        raise ModelError(
            f"{method} failed{_where(error, model)} with {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def _where(error: BaseException, model: Any) -> str:
    """The last line of the model's own module that the error went through."""
    path = getattr(sys.modules.get(type(model).__module__), "__file__", None)
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if path is not None and frame.filename == path
    ]
    return f" in line {lines[-1]} of {Path(path).name}" if path and lines else ""


def change(one: Tensor, other: Tensor) -> float:
    """Largest difference of two tensors, as a share of their largest value by magnitude."""
    first, second = (
        tensor.detach().double().cpu().nan_to_num(neginf=0.0) for tensor in (one, other)
    )
    largest = float(torch.maximum(first.abs(), second.abs()).max())
    return float((first - second).abs().max()) / largest if largest else 0.0


def rounding(*values: Tensor) -> float:
    """The `change` that rounding may explain, by the coarsest dtype."""
    return max(TOLERANCES.get(value.dtype, TOLERANCES[torch.float32]) for value in values)
