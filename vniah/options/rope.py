"""How RoPE bases and scalings are written: on the command line, in manifests, in labels.

A scaling is one of

    none, default                    no scaling, whatever the checkpoint has
    yarn:4, linear:2, dynamic:2      a kind and its factor
    {"rope_type": "yarn", ...}       a JSON object with all keys that transformers knows

This module knows no model; `vniah.models.rope` applies a scaling to one.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from vniah.errors import InputError, quoted
from vniah.files import hash_text
from vniah.schema import parse_json

ROPE_KINDS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
OFF = "default"  # the kind without scaling

_REAL_KEYS = (
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
    "mscale",
    "mscale_all_dim",
)
_LIST_KEYS = ("short_factor", "long_factor")
ORIGINAL_KEY = "original_max_position_embeddings"
SCALING_KEYS = frozenset(
    {"rope_type", "type", ORIGINAL_KEY, "truncate", *_REAL_KEYS, *_LIST_KEYS},
)
"""The keys that belong to a scaling; all others that transformers knows belong to the decoder."""

_COMMA_OUTSIDE_BRACES = re.compile(r",(?![^{]*\})")
_TOO_LARGE = 2.0**1000  # whole numbers may be larger than any float
_LARGE = 1e4  # from here on a base is written with an exponent, where that is shorter
_LARGE_IN_NAMES = 1e5  # the same in names of folders

Scaling = dict[str, Any]


def require_theta(theta: float) -> float:
    """The base as a float.

    Raises:
        InputError: the base is not a number above 1.
    """
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 1 < theta < _TOO_LARGE:
        raise InputError(f"rope_theta must be a number above 1, got {theta}")
    return float(theta)


def read_scaling(scaling: Mapping[str, Any] | str) -> Scaling:
    """A scaling as a dictionary with transformers' keys; equal for all ways to write it.

    >>> read_scaling("yarn:4")
    {'rope_type': 'yarn', 'factor': 4.0}
    >>> read_scaling("none")
    {'rope_type': 'default'}

    Raises:
        InputError: the text cannot be read, the kind is unknown, or a value is invalid.
    """
    given = _read_text(scaling) if isinstance(scaling, str) else dict(scaling)
    old_name = given.pop("type", None)
    kind = given.pop("rope_type", old_name)
    if kind not in ROPE_KINDS:
        raise InputError(f"rope_scaling must be of a kind {', '.join(ROPE_KINDS)}, got {kind!r}")
    if "rope_theta" in given:
        raise InputError("rope_scaling has a rope_theta; give the base by itself, as rope_theta")
    values = {key: _plain(key, value) for key, value in given.items() if value is not None}
    if values.get("factor", 1.0) < 1:
        raise InputError(f"the factor of rope_scaling must be at least 1, got {values['factor']:g}")
    return {"rope_type": kind, **values}


def read_scalings(text: str) -> tuple[Scaling, ...]:
    """The scalings in a text that separates them by commas.

    >>> [scaling["rope_type"] for scaling in read_scalings('none,yarn:4,{"type":"linear"}')]
    ['default', 'yarn', 'linear']
    """
    return tuple(read_scaling(part.strip()) for part in _COMMA_OUTSIDE_BRACES.split(text))


def scaling_text(scaling: Mapping[str, Any]) -> str:
    """Compact JSON with sorted keys, as manifests hold it."""
    return json.dumps(scaling, sort_keys=True, separators=(",", ":"))


def as_reals(scaling: Mapping[str, Any]) -> Scaling:
    """The same scaling with all factors as floats, so that 4 and 4.0 give the same text."""
    return {
        key: float(value) if key in _REAL_KEYS and type(value) is int else value
        for key, value in scaling.items()
    }


def theta_label(theta: float) -> str:
    """A base written exactly and in few characters: ``"500"``, ``"3e6"``, ``"2.5e7"``.

    >>> [theta_label(theta) for theta in (150.0, 10000.0, 1e9, 1234567.0, 0.1 + 2)]
    ['150', '1e4', '1e9', '1234567', '2.1']
    """
    plain = _plain_theta(theta)
    if theta < _LARGE:
        return plain
    digits = re.sub(r"\D", "", repr(theta).partition("e")[0].removesuffix(".0")).rstrip("0")
    exponent = int(f"{theta:.17e}".partition("e")[2])
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    short = f"{mantissa}e{exponent}"
    return short if len(short) < len(plain) else plain


def _plain_theta(theta: float) -> str:
    return repr(theta).removesuffix(".0")


def scaling_label(scaling: Mapping[str, Any], *, is_short: bool = False) -> str:
    """A scaling for tables, ``"yarn:4"``; unless ``is_short``, with all other keys it has."""
    if scaling["rope_type"] == OFF:
        return "no scaling"
    head = str(scaling["rope_type"])
    if "factor" in scaling:
        head += f":{scaling['factor']:g}"
    rest = [
        f"{key} {scaling[key]}" for key in sorted(scaling) if key not in ("rope_type", "factor")
    ]
    return head if is_short else ", ".join([head, *rest])


@dataclass(frozen=True)
class RopeChoice:
    """A RoPE to use instead of the checkpoint's.

    Attributes:
        theta: the base; None for the checkpoint's.
        scaling: as `read_scaling` gives it; None for the checkpoint's.
    """

    theta: float | None = None
    scaling: Scaling | None = None

    @property
    def label(self) -> str:
        """The text that stands for it in tables: ``"RoPE base 3e6, yarn:4"``."""
        base = None if self.theta is None else f"RoPE base {theta_label(self.theta)}"
        scaling = None if self.scaling is None else scaling_label(self.scaling)
        return ", ".join(part for part in (base, scaling) if part) or "RoPE of the checkpoint"

    @property
    def folder_name(self) -> str:
        """The name of its run's folder: ``"rope-theta-3e6_rope-scaling-yarn-4"``."""
        parts = []
        if self.theta is not None:
            is_large = self.theta >= _LARGE_IN_NAMES
            parts.append(f"rope-theta-{(theta_label if is_large else _plain_theta)(self.theta)}")
        if self.scaling is not None:
            parts.append(f"rope-scaling-{_file_name(self.scaling)}")
        return "_".join(parts)


def rope_choices(
    thetas: Sequence[float] = (), scalings: Sequence[Scaling] = ()
) -> tuple[RopeChoice, ...]:
    """Every base with every scaling; without any, the one choice that changes nothing.

    Raises:
        InputError: a value is given twice.
    """
    choices = tuple(RopeChoice(*pair) for pair in product(thetas or (None,), scalings or (None,)))
    names = [choice.folder_name for choice in choices]
    for index, choice in enumerate(choices):
        if choice.folder_name in names[:index]:
            raise InputError(
                f"{choice.label} is given twice; name every RoPE once (two spellings of a number, "
                "such as 10000 and 1e4, are one)"
            )
    return choices


def _read_text(text: str) -> Scaling:
    if text in ("none", OFF):
        return {"rope_type": OFF}
    if text.startswith("{"):
        return parse_json(text, dict[str, Any], InputError, f"rope_scaling {quoted(text, 60)}")
    kind, colon, factor = text.partition(":")
    try:
        return {"rope_type": kind, "factor": float(factor)} if colon else {"rope_type": kind}
    except ValueError as error:
        raise InputError(
            f"rope_scaling must be a kind and its factor such as yarn:4, none, or a JSON object, "
            f"got {text!r}"
        ) from error


def _plain(key: str, value: Any) -> Any:
    """A value with the type that transformers expects; it checks the values of other keys."""
    if key in _REAL_KEYS:
        return _positive(key, value)
    if key in _LIST_KEYS:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InputError(f"{key} of rope_scaling must be a list of numbers, got {value!r}")
        return [_positive(key, part) for part in value]
    if key == ORIGINAL_KEY:
        length = _positive(key, value)
        if not length.is_integer():
            raise InputError(f"{key} of rope_scaling must be a whole number, got {value!r}")
        return int(length)
    if key == "truncate" and not isinstance(value, bool):
        raise InputError(f"truncate of rope_scaling must be true or false, got {value!r}")
    return value


def _positive(key: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < _TOO_LARGE:
        raise InputError(f"{key} of rope_scaling must be a number above 0, got {value!r}")
    return float(value)


def _file_name(scaling: Mapping[str, Any]) -> str:
    if scaling["rope_type"] == OFF:
        return "none"
    name = scaling_label(scaling, is_short=True).replace(":", "-")
    if scaling.keys() - {"rope_type", "factor"}:
        name += f"-{hash_text(scaling_text(scaling))[:8]}"
    return name
