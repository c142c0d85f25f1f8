"""The values of arguments: from text to what a command works with.

Each function is a ``type`` for argparse, which shows the message of its error beside the argument.
"""

import argparse
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from vniah.errors import InputError
from vniah.grid import parse_range
from vniah.options.rope import read_scalings, require_theta


def _checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type for argparse that shows the message of an `InputError`."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


@_checked
def path(text: str) -> Path:
    """A path; a tilde at its beginning is the user's folder."""
    if not text:
        raise InputError("a path is needed, got an empty text")
    return Path(text).expanduser()


def _number(text: str) -> Fraction:
    try:
        (value,) = parse_range(text, "it")
    except ValueError as error:  # not a number, or several
        raise InputError(f"must be one number, got {text!r}") from error
    return value


@_checked
def size(text: str) -> tuple[int, int]:
    """(width, height) of a text such as ``96x96``."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if match is None:
        raise InputError(f"must be WIDTHxHEIGHT in pixels, such as 96x96, got {text!r}")
    return int(match[1]), int(match[2])


@_checked
def whole(text: str) -> int:
    """One whole number, which may be written like ``1e3``."""
    value = _number(text)
    if value.denominator != 1:
        raise InputError(f"must be one whole number, got {text!r}")
    return int(value)


@_checked
def real(text: str) -> float:
    """One number."""
    return float(_number(text))


@_checked
def rope_thetas(text: str) -> tuple[float, ...]:
    """One RoPE base, or several separated by commas."""
    return tuple(require_theta(float(_number(part))) for part in text.split(","))


rope_scalings = _checked(read_scalings)
