"""The options of a command as settings of a TOML file: the command's own parser defines both."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from vniah.errors import InputError, did_you_mean, short_repr

OF_THE_COMMAND = ("output", "quiet", "cache", "device", "context_parallel", "shard_weights")
"""Options that a whole sweep has, by the names that a namespace gives them."""

ONLY_GIVEN = ("config", "overwrite")
"""Options that no file has: with ``overwrite`` a stopped sweep would not go on."""

_OBJECTS = ("rope_scaling",)
"""Options whose values may be JSON objects; a file may write them as tables."""

COMMA_LISTS = (
    *("frames", "tokens", "depths", "positions", "controls"),
    *("rope_theta", "rope_scaling"),
)
"""Options of which one text may hold several values; a file may write them as a list."""


class Settings:
    """The options of a command, which tables of a file may set.

    Args:
        parser: of the command.
        left_out: options, as a namespace names them, that a file cannot set.

    Attributes:
        defaults: all options as they are where nothing is given.
    """

    def __init__(self, parser: argparse.ArgumentParser, left_out: Sequence[str] = ()) -> None:
        self.defaults: Mapping[str, Any] = vars(parser.parse_args([]))
        self._actions = {
            action.option_strings[-1].removeprefix("--"): action
            for action in parser._actions
            if action.option_strings and action.dest not in ("help", *left_out)
        }
        groups = parser._mutually_exclusive_groups
        self._exclusive = [{action.dest for action in group._group_actions} for group in groups]

    @property
    def names(self) -> frozenset[str]:
        """The names of the options, as a namespace has them."""
        return frozenset(action.dest for action in self._actions.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the options, as they are written behind ``--``."""
        return tuple(self._actions)

    def key_of(self, name: str) -> str:
        """The key of an option that a namespace calls ``name``."""
        return next(key for key, action in self._actions.items() if action.dest == name)

    def read(self, table: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The values of a table of settings, as a namespace names and holds them.

        Args:
            table: what TOML holds; ``_`` in a key stands for ``-``.
            where: names the table in errors.

        Raises:
            InputError: a key is unknown or given twice, a value cannot be meant, or two settings
                exclude one another.
        """
        found: dict[str, Any] = {}
        for given, value in table.items():
            key = given.replace("_", "-")
            if key not in self._actions:
                raise InputError(
                    f"{where}: there is no setting {short_repr(given)}; "
                    f"{did_you_mean(key, self.keys, 'settings are the options of vniah run')}"
                )
            action = self._actions[key]
            if action.dest in found:
                raise InputError(f"{where}: {key} is given twice, with - and with _")
            try:
                found[action.dest] = _read(action, value)
            except InputError as error:
                gap = " " if str(error).startswith(("must ", "cannot ")) else ": "
                raise InputError(f"{where}: {key}{gap}{error}") from error
        for names in self._exclusive:
            both = sorted(self.key_of(name) for name in names & found.keys())
            if len(both) > 1:
                raise InputError(
                    f"{where}: {both[0]} cannot be combined with {both[1]}; remove one"
                )
        return found

    def clashing(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
        """The key of the first option that both set, or of which they set two that exclude others.

        None if there is none.
        """
        for name in one:
            if not other.keys().isdisjoint(self._rivals(name)):
                return self.key_of(name)
        return None

    def combined(self, *levels: Mapping[str, Any]) -> argparse.Namespace:
        """All options; later levels replace what earlier ones set, and what that excludes."""
        values = dict(self.defaults)
        for level in levels:
            for name in level:
                values |= {rival: self.defaults.get(rival) for rival in self._rivals(name)}
            values |= level
        return argparse.Namespace(**values)

    def _rivals(self, name: str) -> set[str]:
        """The option itself and those that exclude it."""
        return {name}.union(*(names for names in self._exclusive if name in names))


def _read(action: argparse.Action, value: Any) -> Any:
    """The value of an option, from what TOML holds.

    Raises:
        InputError: it cannot be meant; the message follows the option's name.
    """
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"must be true or false, got {short_repr(value)}")
        return action.const if value else action.default
    if isinstance(action, argparse._AppendAction):
        return [_convert(action, text) for text in _settings_texts(value)]
    if action.nargs is not None:
        return [_convert(action, text) for text in _texts(value)]
    if action.dest in _OBJECTS:
        items = value if isinstance(value, list) else [value]
        value = [_json(item) if isinstance(item, dict) else item for item in items]
    if action.dest in COMMA_LISTS:
        return _convert(action, ",".join(_texts(value)))
    return _convert(action, _text(value))


def _convert(action: argparse.Action, text: str) -> Any:
    convert: Any = action.type or str
    try:
        value = convert(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(str(error)) from error
    if action.choices is not None and value not in action.choices:
        hint = did_you_mean(text, list(map(str, action.choices)))
        raise InputError(f"cannot be {short_repr(text)}; {hint}")
    return value


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InputError("must not be an empty list")
    return list(map(_text, items))


def _settings_texts(value: Any) -> list[str]:
    """NAME=VALUE texts, of a list of them or of a table."""
    if isinstance(value, dict):
        return [f"{name}={','.join(_texts(item))}" for name, item in value.items()]
    return [] if value == [] else _texts(value)


def _text(value: Any) -> str:
    """A value as it would be written on the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"must be text or a number, got {short_repr(value)}")
    return repr(value)


def _json(value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:  # a date, or a number that is not finite
        raise InputError(f"must hold text and numbers, got {short_repr(value)}") from error
