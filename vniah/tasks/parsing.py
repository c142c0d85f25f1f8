"""Reads the options of tasks, which come as text: ``--task-option distance=200``."""

import re
from collections.abc import Sequence

from vniah.errors import TaskError, short_repr
from vniah.grid import MAX_FRAMES, parse_range

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")

Option = str | int | float | None
"""An option as a task is given it: text from the command line, or a number from Python."""


def whole_numbers(
    value: Option | Sequence[int], what: str, *, at_least: int = 0, at_most: int = MAX_FRAMES
) -> tuple[int, ...]:
    """The whole numbers of a comma list or of ``start:stop:step``, in the order given.

    Args:
        value: text, a number, or a sequence of numbers.
        what: names the option in messages.
        at_least: the smallest number that is allowed.
        at_most: the largest.

    Raises:
        TaskError: it is no such list, is empty, or holds a number twice or one out of bounds.

    >>> whole_numbers("0:6:3", "distractors")
    (0, 3, 6)
    """
    parts = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    try:
        found = [number for part in parts for number in parse_range(str(part), what)]
    except ValueError as error:
        raise TaskError(f"the option {error}") from error
    for number in found:
        if number.denominator != 1 or not at_least <= number <= at_most:
            raise TaskError(
                f"the option {what} must be whole numbers from {at_least:,} to {at_most:,}, got "
                f"{short_repr(value)}"
            )
    if not found or len(set(found)) < len(found):
        raise TaskError(
            f"the option {what} must name each number once, and at least one, got "
            f"{short_repr(value)}"
        )
    return tuple(map(int, found))


def whole_number(value: Option, what: str, *, at_least: int = 0, at_most: int = MAX_FRAMES) -> int:
    """One whole number, as text or as a number; arguments as `whole_numbers`.

    Raises:
        TaskError: it is no whole number, or out of bounds.

    >>> whole_number("3", "needle_frames", at_least=1)
    3
    """
    text = str(value).strip()
    if not _WHOLE_NUMBER.fullmatch(text) or not at_least <= int(text) <= at_most:
        raise TaskError(
            f"the option {what} must be one whole number from {at_least:,} to {at_most:,}, got "
            f"{short_repr(value)}"
        )
    return int(text)


def one_of(value: Option, what: str, known: Sequence[str]) -> str:
    """The text, if it is one of those that are known.

    Raises:
        TaskError: it is not.
    """
    if value not in known:
        raise TaskError(
            f"the option {what} must be one of {', '.join(known)}, got {short_repr(value)}"
        )
    return str(value)
