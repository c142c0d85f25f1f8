"""The file of a sweep: models x haystacks x tasks x RoPEs, with settings of their own.

frames = [64, 256, 1024]              # settings of all runs, named as on the command line

[models.base]
model = "checkpoints/base"
rope-theta = [1e6, 1e9]               # a run for each

[[tasks]]
task = "vniah"
"""

import argparse
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vniah.cli.inputs import check_options
from vniah.cli.sweeps.members import Member, Plan
from vniah.errors import InputError, did_you_mean, short_repr
from vniah.files import slug
from vniah.options.rope import rope_choices
from vniah.schema import read_toml

if TYPE_CHECKING:
    from vniah.cli.arguments.settings import Settings

AXES = {"models": "model", "haystacks": "haystack", "tasks": "task"}
"""What is combined, by the names of the tables, with the option that each is about."""

SEPARATOR = "__"
"""Between the names of model, haystack, task and RoPE, in the name of a run's folder."""

_MOST_RUNS = 1000
_MOST_IN_A_NAME = 60
_MOST_BYTES = 255  # of a folder's name
_NAME = re.compile(r"(?!.*__)\w[\w.-]*")


@dataclass(frozen=True)
class Entry:
    """A model, a haystack or a task of a sweep.

    Attributes:
        name: in the names of folders; None for one that is named after what it is.
        values: its settings, as a namespace names and holds them.
        where: names it in errors.
    """

    name: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class SweepConfig:
    """What a file says, and what the command line adds.

    Attributes:
        path: the file; None if there is none.
        settings: the options that can be set.
        shared: settings of all runs.
        given: options of the command line, which replace all others.
        entries: those of each axis; an axis that is not there has one entry without settings.
        exclusions: for each rule, the names on each axis whose combinations are left out.
    """

    path: Path | None
    settings: "Settings"
    shared: Mapping[str, Any]
    given: Mapping[str, Any]
    entries: Mapping[str, tuple[Entry, ...]]
    exclusions: tuple[Mapping[str, Sequence[str]], ...] = ()

    @property
    def of_the_command(self) -> argparse.Namespace:
        """The options of the whole sweep."""
        return self.settings.combined(self.shared, self.given)

    @property
    def _source(self) -> str:
        """What names the runs, for errors."""
        return "the options" if self.path is None else str(self.path)

    def plan(self, output: Path, models: Sequence[Entry] = ()) -> Plan:
        """All runs, in the order of the file.

        Args:
            output: the folder for them.
            models: in place of those of the file.

        Raises:
            InputError: two runs would have one name, settings contradict one another, a rule
                excludes nothing or everything, or there are too many runs.
        """
        entries = {**self.entries, **({"models": tuple(models)} if models else {})}
        named = [self._named(axis, entries[axis]) for axis in AXES]
        members = list(self._members(named))
        if not members:
            raise InputError(f"{self.path}: all runs are excluded")
        return Plan(tuple(_labelled(members)), output, self.path, is_isolated=True)

    def _named(self, axis: str, entries: Sequence[Entry]) -> list[Entry]:
        """The entries of an axis, each with a name that no other has."""
        found: list[Entry] = []
        for entry in entries:
            name = entry.name
            if name is None:
                options = self.settings.combined(self.shared, entry.values, self.given)
                name = _default_name(axis, options)
            if any(name.casefold() == str(other.name).casefold() for other in found):
                raise InputError(
                    f"{entry.where}: another of the {axis} is called {name!r} too; give each a "
                    "name of its own, as name = ..."
                )
            found.append(replace(entry, name=name))
        return found

    def _members(self, entries: Sequence[Sequence[Entry]]) -> Iterator[Member]:
        rules = [self._rule(entries, rule) for rule in self.exclusions]
        hits = [0] * len(rules)
        num_members = 0
        for combination in product(*entries):
            names = tuple(str(entry.name) for entry in combination)
            matching = [number for number, rule in enumerate(rules) if rule(names)]
            for number in matching:
                hits[number] += 1
            if matching:
                continue
            for member in self._runs_of(combination, names):
                num_members += 1
                if num_members > _MOST_RUNS:
                    raise InputError(f"{self._source}: these are more than {_MOST_RUNS:,} runs")
                yield member
        for number, count in enumerate(hits, 1):
            if not count:
                raise InputError(f"{self.path}, exclude {number}: no run is excluded by this")

    def _runs_of(self, entries: Sequence[Entry], names: tuple[str, ...]) -> Iterator[Member]:
        """One run for each RoPE of a combination."""
        for place, entry in enumerate(entries):
            for other in entries[:place]:
                if (key := self.settings.clashing(entry.values, other.values)) is not None:
                    raise InputError(
                        f"{key} is set by {other.where} and by {entry.where}, which are combined; "
                        "set it in one of them, or exclude the combination"
                    )
        values = dict(chain.from_iterable(entry.values.items() for entry in entries))
        options = self.settings.combined(self.shared, values, self.given)
        try:
            check_options(options)
            choices = rope_choices(options.rope_theta, options.rope_scaling)
        except InputError as error:
            if self.path is None:
                raise
            raise InputError(f"{self.path}, {SEPARATOR.join(names)}: {error}") from error
        for rope in choices:
            own = names if self.path is not None else names[:1]
            name = SEPARATOR.join(filter(None, (*own, rope.folder_name)))
            if len(os.fsencode(name)) > _MOST_BYTES:
                raise InputError(
                    f"{self._source}: the folder {short_repr(name)} would have a name of more "
                    f"than {_MOST_BYTES} bytes; give shorter names, as name = ..."
                )
            parts = tuple(zip(AXES.values(), names, strict=True))
            yield Member(name, rope.label, options, rope, parts)

    def _rule(
        self, entries: Sequence[Sequence[Entry]], rule: Mapping[str, Sequence[str]]
    ) -> Callable[[Sequence[str]], bool]:
        """Whether a rule leaves out a combination of names."""
        wanted: list[Sequence[str] | None] = []
        for (axis, key), some in zip(AXES.items(), entries, strict=True):
            known = [str(entry.name) for entry in some]
            for name in rule.get(key, ()):
                if name not in known:
                    raise InputError(
                        f"{self.path}, exclude: none of the {axis} is called {short_repr(name)}; "
                        f"{did_you_mean(name, known)}"
                    )
            wanted.append(rule.get(key))
        return lambda names: all(
            some is None or name in some for name, some in zip(names, wanted, strict=True)
        )


def read_config(path: Path | None, settings: "Settings", given: Mapping[str, Any]) -> SweepConfig:
    """What a file of a sweep says.

    Args:
        path: the file; None for one that says nothing.
        settings: the options that can be set.
        given: options of the command line.

    Raises:
        InputError: the file cannot be read, or a key or a value in it cannot be meant; the message
            names both.
    """
    from vniah.cli.arguments.settings import OF_THE_COMMAND

    content = {} if path is None else read_toml(path, InputError)
    inside = {name: content.pop(name) for name in (*AXES, "exclude") if name in content}
    for name, value in content.items():
        if _holds_tables(value) and name.replace("_", "-") not in settings.keys:
            hint = did_you_mean(name, (*AXES, "exclude"))
            raise InputError(f"{path}: there are no tables {short_repr(name)}; {hint}")
    shared = settings.read(content, str(path))
    entries = {
        axis: tuple(_entries(path, axis, inside[axis], settings)) if axis in inside else (Entry(),)
        for axis in AXES
    }
    for entry in chain.from_iterable(entries.values()):
        for name in OF_THE_COMMAND:
            if name in entry.values:
                key = settings.key_of(name)
                raise InputError(
                    f"{entry.where}: {key} is of the whole sweep; write it above all tables"
                )
        for name in AXES.values():
            if name in entry.values and name in given:
                raise InputError(
                    f"{entry.where} has a {name} of its own, so --{name} cannot be given as well"
                )
    exclusions = tuple(_exclusions(path, inside.get("exclude", [])))
    return SweepConfig(path, settings, shared, given, entries, exclusions)


def _holds_tables(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(item, dict) for item in value)
    )


def _entries(path: Path | None, axis: str, content: Any, settings: "Settings") -> Iterator[Entry]:
    """The entries of an axis: tables with names, a list of tables, or a list of what is meant."""
    if isinstance(content, dict):
        named: list[tuple[Any, Any]] = list(content.items())
    elif isinstance(content, list):
        named = [(None, item) for item in content]
    else:
        raise InputError(f"{path}: {axis} must be tables or a list, got {short_repr(content)}")
    if not named:
        raise InputError(f"{path}: {axis} must not be empty")
    for number, (key, item) in enumerate(named, 1):
        where = f"{path}, {axis} {number if key is None else short_repr(key)}"
        if isinstance(item, str):
            item = {AXES[axis]: item}
        if not isinstance(item, dict):
            raise InputError(f"{where} must be a table or text, got {short_repr(item)}")
        table = dict(item)
        name = table.pop("name", key)
        if name is not None:
            _require_name(name, where)
        yield Entry(name, settings.read(table, where), where)


def is_name(text: str) -> bool:
    """Whether a text can be a part of the name of a run's folder as it stands."""
    return len(text) <= _MOST_IN_A_NAME and _NAME.fullmatch(text) is not None


def _require_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not is_name(name):
        raise InputError(
            f"{where}: the name must be at most {_MOST_IN_A_NAME} letters, digits, '.', '-' or "
            f"single '_', as it is a part of a folder's name, got {short_repr(name)}"
        )


def _exclusions(path: Path | None, content: Any) -> Iterator[Mapping[str, Sequence[str]]]:
    """The rules of ``[[exclude]]``: names by ``model``, ``haystack`` and ``task``."""
    rules = [content] if isinstance(content, dict) else content
    for number, rule in enumerate(rules if isinstance(rules, list) else [rules], 1):
        where = f"{path}, exclude {number}"
        if not isinstance(rule, dict) or not rule:
            raise InputError(
                f"{where} must be a table such as model = 'base', got {short_repr(rule)}"
            )
        found: dict[str, Sequence[str]] = {}
        for key, value in rule.items():
            if key not in AXES.values():
                hint = did_you_mean(key, tuple(AXES.values()))
                raise InputError(f"{where}: there is no {short_repr(key)} in a rule; {hint}")
            names = value if isinstance(value, list) else [value]
            if not names or not all(isinstance(name, str) for name in names):
                raise InputError(f"{where}: {key} must be a name or names, got {short_repr(value)}")
            found[key] = names
        yield found


def _default_name(axis: str, options: argparse.Namespace) -> str:
    """What a model, a haystack or a task is called that has no name of its own."""
    if axis == "models":
        return plain_name(options.model.rstrip("/").rpartition("#")[2].rpartition("/")[2])
    if axis == "tasks":
        return plain_name(options.task)
    if options.haystack is None:
        return "generated"
    first, *others = options.haystack
    return plain_name(first.stem) + (f"-and-{len(others)}-more" if others else "")


def plain_name(text: str) -> str:
    """A text as a part of the name of a run's folder; the separator of the parts is not in it."""
    return re.sub(r"__+", "_", slug(text))[:_MOST_IN_A_NAME].strip("_.-") or "unnamed"


def _labelled(members: Sequence[Member]) -> Iterator[Member]:
    """The members with labels that say in what they differ."""
    names = [dict(member.parts) for member in members]
    differing = [key for key in AXES.values() if len({parts[key] for parts in names}) > 1]
    has_ropes = len({member.label for member in members}) > 1
    for member, parts in zip(members, names, strict=True):
        words = [parts[key] for key in differing or ("model",)]
        yield replace(member, label=", ".join([*words, *([member.label] if has_ropes else [])]))
