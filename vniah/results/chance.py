"""What a guess among the options of a sample gives, by the fields that its task writes."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any


def num_right_options(fields: Mapping[str, Any]) -> int:
    """How many options are right: the field ``num_right_options``; one where it is missing."""
    return _count(fields.get("num_right_options")) or 1


def option_chance(fields: Mapping[str, Any]) -> Fraction | None:
    """The share of right options, in (0, 1]; None if the fields do not say how many options are.

    >>> option_chance({"num_options": 5, "num_right_options": 3})
    Fraction(3, 5)
    """
    num_options = _count(fields.get("num_options"))
    if num_options is None:
        return None
    return Fraction(min(num_right_options(fields), num_options), num_options)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
