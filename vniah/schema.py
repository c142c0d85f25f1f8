"""JSON and TOML from outside, read in one place: bounded, every key once, and of the declared type.

Manifests, lines of samples, needle metadata, checkpoint configurations and server replies may hold
anything. Each room declares what it expects as types, with bounds (`typing.TypedDict`,
`msgspec.Meta`); this module reads a text by such a type, or says in one line what is wrong with it:

    >>> from typing import Annotated, TypedDict
    >>> class Film(TypedDict):
    ...     name: str
    ...     seconds: Annotated[int, msgspec.Meta(ge=1, le=10**6)]
    >>> parse_json('{"name": "sea", "seconds": "1"}', Film, ValueError, "film.json")
    Traceback (most recent call last):
    ValueError: film.json: seconds must be a whole number, got '1'
"""

import json
import re
import reprlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")

MOST_BYTES = 64 * 2**20
"""How large a file of JSON may be, unless its reader says otherwise."""

_MOST_TOML_BYTES = 2**20

INT_BOUND = 2**63
"""Whole numbers must be smaller, unless a reader says otherwise: what 64 bits hold."""

_MOST_NESTED = 64

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxlevel = 2

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object in braces",
    "null": "null",
}
_AT = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)
_GOT = re.compile(r", got `.*`")
_NAMED = re.compile(r"`([^`]*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_MANY_DIGITS = re.compile(r"Exceeds the limit \(")
_INDEX = re.compile(r"\[([0-9]+)\]")


def read_json(
    path: Path,
    kind: type[T],
    error: type[Exception],
    *,
    most_bytes: int = MOST_BYTES,
    int_bound: int = INT_BOUND,
) -> T:
    """The content of a JSON file.

    Args:
        path: the file.
        kind: the declared type; keys that it does not name are kept.
        error: the class of the error that is raised, with one line that begins with the path.
        most_bytes: a larger file is refused before it is read.
        int_bound: whole numbers must be smaller, for files whose authors write huge ones.
    """
    text = _read_bytes(path, error, most_bytes)
    return parse_json(text, kind, error, str(path), int_bound=int_bound)


def read_toml(path: Path, error: type[Exception]) -> dict[str, Any]:
    """The content of a file in TOML.

    Args:
        path: the file.
        error: the class of the error that is raised, with one line that begins with the path.
    """
    text = _read_bytes(path, error, _MOST_TOML_BYTES)
    try:
        return tomllib.loads(text.decode("utf-8-sig"))
    except RecursionError as cause:
        raise error(f"{path} is nested too deeply to be read as TOML") from cause
    except ValueError as cause:
        reason = "a number in it has thousands of digits" if _is_huge(cause) else str(cause)
        raise error(f"{path} cannot be read as TOML: {reason}") from cause


def _read_bytes(path: Path, error: type[Exception], most_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(most_bytes + 1)
    except (OSError, ValueError) as cause:  # ValueError: a zero byte in the path
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{str(path)!r} cannot be read: {reason}") from cause
    if len(text) > most_bytes:
        raise error(f"{path} is larger than {most_bytes:,} bytes, which is no file of this kind")
    return text


def parse_json(
    text: str | bytes,
    kind: type[T],
    error: type[Exception],
    where: str,
    *,
    int_bound: int = INT_BOUND,
) -> T:
    """What a JSON text holds.

    Args:
        text: the text; bytes are UTF-8, with or without a byte order mark.
        kind: the declared type; keys that it does not name are kept.
        error: the class of the error that is raised, with one line that begins with ``where``.
        where: names the text in that line, such as a path or ``"metadata.jsonl line 3"``.
        int_bound: whole numbers must be smaller.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = _DECODER.decode(text)
        _require_bounded(value, int_bound)
    except RecursionError as cause:
        raise error(f"{where} is nested too deeply to be read as JSON") from cause
    except ValueError as cause:
        reason = str(cause)
        if _is_huge(cause):
            reason = "a number in it has thousands of digits"
        raise error(f"{where} cannot be read as JSON: {reason}") from cause
    return require_type(value, kind, error, where)


def _is_huge(cause: ValueError) -> bool:
    """Whether Python refused a number for its digits, in words that are for its programmers."""
    return _MANY_DIGITS.match(str(cause)) is not None


def require_type(value: object, kind: type[T], error: type[Exception], where: str) -> T:
    """The value itself, if it is of the declared type; keys that the type does not name stay.

    Args:
        value: what `json.loads` gives.
        kind: the declared type.
        error: the class of the error that is raised otherwise, with one line that begins with
            ``where`` and names the field, what it must be and what it is.
        where: names the value in that line.
    """
    try:
        try:
            msgspec.convert(value, kind)
        except UnicodeEncodeError:  # msgspec takes no lone surrogates, which JSON may hold
            msgspec.convert(_without_surrogates(value), kind)
    except msgspec.ValidationError as cause:
        raise error(f"{where}: {_explain(str(cause), value)}") from cause
    return cast("T", value)


def _without_surrogates(value: object) -> object:
    """A copy with other characters in the place of lone surrogates: of the same types."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    return value


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_SHORT.repr(repeated)} is given twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_refuse_constant)


def _require_bounded(value: object, int_bound: int) -> None:
    """Raises ValueError for deep nesting, and for numbers that no computation can hold."""
    level: list[object] = [value]
    for _ in range(_MOST_NESTED):
        inner: list[object] = []
        for item in level:
            kind = type(item)
            if kind is str or kind is bool or item is None:  # the most common ones first
                continue
            if kind is dict:
                inner.extend(cast("dict[str, object]", item).values())
            elif kind is list:
                inner.extend(cast("list[object]", item))
            elif kind is int and not -int_bound <= cast("int", item) < int_bound:
                raise ValueError(f"the number {_SHORT.repr(item)} is too large")
            elif kind is float and abs(cast("float", item)) == float("inf"):
                raise ValueError("a number is too large")
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested more than {_MOST_NESTED} levels deep")


def _explain(message: str, value: object) -> str:
    """A message of msgspec in the words of this package, with the value that was found."""
    match = _AT.fullmatch(message)
    assert match is not None
    what, steps = match[1], match[2] or ""
    name, found = _follow(steps, value)
    if missing := _MISSING.fullmatch(what):
        return f"the field {'.'.join(filter(None, (name, missing[1])))!r} is missing"
    what = _GOT.sub("", what)
    if what.startswith("Expected "):
        words = _NAMED.sub(lambda kinds: _in_words(kinds[1]), what)
        what = "must be " + words.removeprefix("Expected ")
    elif what.startswith("Invalid enum value"):
        what = "has an unknown value"
    return f"{name or 'the content'} {what}{found}"


def _in_words(kinds: str) -> str:
    """The name that msgspec gives a type, or several: ``"str | null"`` is ``"text or null"``."""
    return " or ".join(_WORDS.get(kind, kind) for kind in kinds.split(" | "))


def _follow(steps: str, value: object) -> tuple[str, str]:
    """The name of the place that msgspec's path leads to, and ``", got ..."`` where it is known."""
    name, rest, known = steps.lstrip("."), steps, value
    while rest:
        if isinstance(known, dict):  # a key may itself hold a dot
            keys = [key for key in known if re.match(rf"\.{re.escape(key)}(?=[.\[]|$)", rest)]
            if not keys:
                return name, ""
            key = max(keys, key=len)
            known, rest = known[key], rest[1 + len(key) :]
        elif isinstance(known, list) and (index := _INDEX.match(rest)):
            known, rest = known[int(index[1])], rest[index.end() :]
        else:
            return name, ""
    return name, f", got {_SHORT.repr(known)}"
