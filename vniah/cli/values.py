"""The values of arguments: from text to what a command works with.

Each function is a ``type`` for argparse, which shows the message of its error beside the argument.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from vniah.errors import InputError, short_repr
from vniah.grid import parse_range
from vniah.haystacks.video.sampling import read_rate
from vniah.options import PICTURE_WIDTHS, PICTURE_WIDTHS_TEXT
from vniah.options.precision import Precision
from vniah.options.rope import Scaling, read_scalings, require_theta
from vniah.paths import page_path, picture_path, user_path

_MOST_DIGITS = 100  # of one number
_MOST_ROPES = 100
_MOST_SECONDS = 10**6
_WIDTH = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}) ?(cm|mm|in)")
_PER_INCH = {"in": Fraction(1), "cm": Fraction("2.54"), "mm": Fraction("25.4")}
_T = TypeVar("_T")


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
    return user_path(text)


@_checked
def picture(text: str) -> Path:
    """The path of a picture, whose suffix is one of those that can be written."""
    return picture_path(text)


@_checked
def page(text: str) -> Path:
    """The path of a page, whose suffix is .html."""
    return page_path(text)


@_checked
def source(text: str) -> str:
    """A path or a name, as a model or a needle set is given."""
    return str(user_path(text, "a name")) if text.startswith("~") or not text.strip() else text


def _number(text: str) -> Fraction:
    if len(text) > _MOST_DIGITS:
        raise InputError(f"must be one number, got a text of {len(text):,} characters")
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
def width(text: str) -> float:
    """The width of a picture in inches, of a text such as ``8cm``, ``80mm`` or ``3.5in``."""
    match = _WIDTH.fullmatch(text)
    if match is None:
        raise InputError(
            "must be a number above 0 with its unit, such as 8cm, 80mm or 3.5in, got "
            f"{text[:_MOST_DIGITS]!r}"
        )
    inches = Fraction(match[1]) / _PER_INCH[match[2]]
    least, most = PICTURE_WIDTHS
    if not least <= inches <= most:
        raise InputError(f"must be {PICTURE_WIDTHS_TEXT}, got {text!r}")
    return float(inches)


def whole(most: int) -> Callable[[str], int]:
    """The type of one whole number of at most ``most``, which may be written like ``1e3``."""

    def convert(text: str) -> int:
        value = _number(text)
        if value.denominator != 1:
            raise InputError(f"must be one whole number, got {text!r}")
        if abs(value) > most:
            raise InputError(f"must be at most {most:,}, got {text!r}")
        return int(value)

    return _checked(convert)


def real(most: float) -> Callable[[str], float]:
    """The type of one number of at most ``most``."""

    def convert(text: str) -> float:
        value = _number(text)
        if abs(value) > most:
            raise InputError(f"must be at most {most:g}, got {text!r}")
        return float(value)

    return _checked(convert)


@_checked
def interval(text: str) -> float:
    """A time in seconds between two things that are done again and again."""
    value = _number(text)
    if not 0 < value <= _MOST_SECONDS:
        raise InputError(f"must be above 0 and at most {_MOST_SECONDS:,} seconds, got {text!r}")
    return float(value)


@_checked
def rope_thetas(text: str) -> tuple[float, ...]:
    """One RoPE base, or several separated by commas."""
    return tuple(require_theta(float(_number(part))) for part in _few(text.split(",")))


rate = _checked(read_rate)
precision = _checked(Precision.read)


@_checked
def rope_scalings(text: str) -> tuple[Scaling, ...]:
    """One RoPE scaling, or several separated by commas."""
    return tuple(_few(read_scalings(text)))


def setting(text: str) -> tuple[str, str]:
    """(name, value) of a text such as ``distance=200``; a ``-`` in the name stands for ``_``."""
    name, equals, value = text.partition("=")
    if not equals or not name.replace("-", "_").isidentifier() or not value.strip():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name.replace("-", "_"), value.strip()


@_checked
def accepted(text: str) -> tuple[str, str]:
    """(answer, another answer that counts as it) of a text such as ``7=seven``."""
    answer, _, other = text.partition("=")
    if not answer.strip() or not other.strip():
        raise InputError(f"must be ANSWER=TEXT, such as 7=seven, got {text[:_MOST_DIGITS]!r}")
    return answer.strip(), other.strip()


@_checked
def setting_of_length(text: str) -> tuple[str, float]:
    """(number of frames, value) of a text such as ``512=0.9``."""
    frames, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"must be LENGTH=X, such as 512=0.9, got {text[:_MOST_DIGITS]!r}")
    return frames.strip(), float(_number(value))


def _few(values: Sequence[_T]) -> Sequence[_T]:
    """The values, each of which is a run of its own."""
    if len(values) > _MOST_ROPES:
        raise InputError(f"names {len(values):,} values, at most {_MOST_ROPES} are possible")
    return values


@_checked
def windows(text: str) -> list[int]:
    """Windows behind needles of a text such as ``0,1,4,16``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise InputError(
            "must be whole numbers from 0 with commas between them, such as 0,1,4,16, got "
            f"{short_repr(text)}"
        )
    return [*map(int, parts)]
