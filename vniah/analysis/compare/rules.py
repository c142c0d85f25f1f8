"""The rules of a regression gate, from arguments or from a file in TOML."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from vniah.errors import InputError, did_you_mean, short_repr
from vniah.grid import Cell, format_depth, read_depth
from vniah.paths import user_path
from vniah.schema import read_toml, require_type

SIGNIFICANCE = 0.005
"""How often the default gate alarms by chance at most."""

SIGNIFICANT_DROP = 0.1
"""How far the average of these needles has to fall for that to count as a significant fall."""

_MOST_FRAMES = 10**12


class Thresholds(TypedDict, total=False):
    """The rules by name, as they are written in Python and in TOML (`Rules`)."""

    significance: float
    significant_drop: float
    max_drop: float
    max_mean_drop: float
    min_mean: float
    min_effective_length: Annotated[int, msgspec.Meta(ge=1, le=_MOST_FRAMES)]
    floors: dict[str, float] | dict[int, float]
    keep_cells: list[str]
    allowed_errors: Annotated[int, msgspec.Meta(ge=0, le=10**9)]
    unpaired: bool
    allow_approximate: bool


class _Written(Thresholds, total=False):
    """The same as a file has them."""

    floors: dict[str, float]  # type: ignore[misc]


@dataclass(frozen=True)
class Rules:
    """What a candidate has to hold. Rules that are None or empty are not asked.

    Attributes:
        significance: there is no significant fall; this is how often one is found by chance at
            most, in (0, 0.5].
        significant_drop: a significant fall of the average of these needles is one by more than
            this, in [0, 1].
        max_drop: no cell's score falls by more than this, in [0, 1].
        max_mean_drop: the average of the cells falls by no more than this, in [0, 1].
        min_mean: the average of the candidate is at least this, in [0, 1].
        min_effective_length: the effective length of the candidate (score at least 0.9) is at least
            this number of frames.
        floors: the least score at a number of frames, in [0, 1], by this number.
        keep_cells: cells whose score does not fall at all.
        allowed_errors: how many samples the candidate may have been unable to run that the baseline
            could; they count as wrong.
        unpaired: compares runs with needles of which some are the same, or have the same names, as
            runs with other needles.
        allow_approximate: compares an approximate run with an exact one, or with one that is
            approximate in another way, and says so.
    """

    significance: float | None = None
    significant_drop: float = SIGNIFICANT_DROP
    max_drop: float | None = None
    max_mean_drop: float | None = None
    min_mean: float | None = None
    min_effective_length: int | None = None
    floors: Mapping[int, float] = field(default_factory=dict)
    keep_cells: tuple[Cell, ...] = ()
    allowed_errors: int = 0
    unpaired: bool = False
    allow_approximate: bool = False

    @property
    def asks_something(self) -> bool:
        """True if a candidate can fail; else the default gate is meant."""
        plain = Rules(
            significant_drop=self.significant_drop,
            allowed_errors=self.allowed_errors,
            unpaired=self.unpaired,
            allow_approximate=self.allow_approximate,
        )
        return self != plain

    @property
    def needs_same_samples(self) -> bool:
        """True if single cells are held against each other, which takes the same needles."""
        return self.max_drop is not None or bool(self.keep_cells)


def make_rules(path: str | Path | None, thresholds: Thresholds) -> Rules:
    """Rules from a file, from arguments, or from both; an argument replaces that of the file.

    Without any that a candidate could fail, these are the default gate: no significant fall.

    Raises:
        InputError: the file cannot be read, or a rule cannot be meant; the message names it.
    """
    given = dict(_read(path)) if path is not None else {}
    rules = _parsed({**given, **thresholds})
    return rules if rules.asks_something else replace(rules, significance=SIGNIFICANCE)


def _read(path: str | Path) -> Mapping[str, Any]:
    path = user_path(path, "a file of rules")
    given = read_toml(path, InputError)
    try:
        rules = _parsed(given)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not rules.asks_something:
        raise InputError(
            f"{path} has no rule that a candidate could fail; write for example "
            f"significance = {SIGNIFICANCE}"
        )
    return given


def _parsed(given: Mapping[str, Any]) -> Rules:
    names = [rule.name for rule in fields(Rules)]
    for name in given:
        if name not in names:
            raise InputError(f"there is no rule {short_repr(name)}; {did_you_mean(name, names)}")
    floors = given.get("floors")
    if isinstance(floors, Mapping):
        for key, value in floors.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise InputError(
                    f"the floor of {short_repr(key)} must be a number, got {short_repr(value)}: "
                    "write 512 = 0.9"
                )
        given = {**given, "floors": {str(key): value for key, value in floors.items()}}
    found = require_type(dict(given), _Written, InputError, "the rules")
    significance = found.get("significance")
    if significance is not None and not 0 < significance <= 0.5:
        raise InputError(
            f"significance must be above 0 and at most 0.5, got {significance}: write 0.01 for "
            "false alarms in at most 1 of 100 comparisons"
        )
    significant_drop = _share("significant_drop", found.get("significant_drop"), "0.05 for 5 %")
    return Rules(
        significance=significance,
        significant_drop=SIGNIFICANT_DROP if significant_drop is None else significant_drop,
        max_drop=_share("max_drop", found.get("max_drop"), "0.05 for 5 %"),
        max_mean_drop=_share("max_mean_drop", found.get("max_mean_drop"), "0.05 for 5 %"),
        min_mean=_share("min_mean", found.get("min_mean"), "0.9 for 90 %"),
        min_effective_length=found.get("min_effective_length"),
        floors=_floors(found.get("floors") or {}),
        keep_cells=tuple(map(_cell, found.get("keep_cells", ()))),
        allowed_errors=found.get("allowed_errors", 0),
        unpaired=found.get("unpaired", False),
        allow_approximate=found.get("allow_approximate", False),
    )


def _share(name: str, value: float | None, example: str) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise InputError(f"{name} must be between 0 and 1, got {value}: write {example}")
    return value


def _floors(given: Mapping[Any, float]) -> Mapping[int, float]:
    floors = {}
    for key, value in given.items():
        text = str(key)
        if not (text.isascii() and text.isdigit() and 0 < len(text) <= 12 and int(text)):
            raise InputError(
                "floors must be named by lengths (numbers of frames, pages or tokens), got "
                f"{short_repr(key)}: write 512 = 0.9"
            )
        if int(text) in floors:
            raise InputError(f"floors names the length {int(text)} twice")
        if not isfinite(value) or not 0 <= value <= 1:
            raise InputError(
                f"the floor of the length {text} must be between 0 and 1, got {value}: write 0.9"
            )
        floors[int(text)] = value
    return floors


def _cell(text: str) -> Cell:
    frames, _, depth = text.partition(":")
    if not (frames.isascii() and frames.isdigit() and len(frames) <= 12 and int(frames) and depth):
        raise InputError(
            f"keep_cells must hold cells as LENGTH:DEPTH, such as 512:0.5, got {short_repr(text)}"
        )
    try:
        return Cell(int(frames), read_depth(depth))
    except InputError as error:
        raise InputError(f"keep_cells, {short_repr(text)}: {error}") from error


def cell_text(cell: Cell) -> str:
    """A cell as it is written in ``keep_cells``."""
    return f"{cell.num_frames}:{format_depth(cell.depth)}"
