"""Decodes lines with the same keys over and over, in a fraction of the time that one line takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints

import msgspec

from vniah.schema import INT_BOUND

_BETWEEN = b'": '  # behind a key
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_MOST_ALIKE = 4
_MOST_DIFFERENT = 64
_PLAIN: Any = (
    None | bool | Annotated[int, msgspec.Meta(ge=-INT_BOUND, le=INT_BOUND - 1)] | float | str
)


@dataclass(frozen=True)
class Layout:
    """The keys of an object, and how a line with exactly these keys is decoded.

    Attributes:
        decode: gives an object whose attributes are the values: those that the declared type names
            by their names, None where the layout lacks them, then those of ``others``.
        others: the keys that the type does not name.
        get_others: gives their values in such an object.
        keys: all keys.
        num_keys: the number of all keys.
    """

    decode: Callable[[bytes], Any]
    others: tuple[str, ...]
    get_others: Callable[[Any], tuple[Any, ...]]
    keys: frozenset[str]
    num_keys: int

    def other_values(self, found: Any) -> dict[str, Any]:
        """The values that the type does not name, by their keys."""
        return dict(zip(self.others, self.get_others(found), strict=True))


class LineDecoder:
    """Decodes lines that have the same keys over and over, such as those of samples.

    The values are those that `vniah.schema.parse_json` gives, in a fraction of the time. Only lines
    with the keys of one that was learned are decoded, and none that is wrong or unusual: there
    `parse_json` has to tell. Values that the type does not name are plain, or lists of plain
    values.

    Args:
        kind: the declared type of a line, a `TypedDict`.
    """

    def __init__(self, kind: type) -> None:
        hints = get_type_hints(kind, include_extras=True)
        self._types = {name: _as_written(hint) for name, hint in hints.items()}
        self._layouts: dict[int, tuple[Layout, ...]] = {}

    def decode(self, line: bytes) -> tuple[Any, Layout] | None:
        """The values of a line as attributes, and its layout; None where `parse_json` has to tell.

        msgspec reads what the standard library reads, and to the same values, but takes the last of
        two equal keys. That there are none is known from the number of colons: most lines have one
        behind each key, and no other.
        """
        num_colons = line.count(b":")
        for layout in self._layouts.get(num_colons, ()):
            if layout.num_keys == num_colons:
                try:
                    return layout.decode(line), layout
                except _UNREADABLE:
                    continue
        for layout in self._layouts.get(line.count(_BETWEEN), ()):
            try:
                found = layout.decode(line)
            except _UNREADABLE:
                continue
            if num_colons == _num_colons(line, found, layout):
                return found, layout
        return None

    def learn(self, line: bytes, value: Mapping[str, Any]) -> None:
        """Learns the keys of a line that `parse_json` has read."""
        number = line.count(_BETWEEN)
        known = self._layouts.get(number, ())
        if any(layout.keys == value.keys() for layout in known):
            return
        if len(known) < _MOST_ALIKE and (known or len(self._layouts) < _MOST_DIFFERENT):
            others = tuple(name for name in value if name not in self._types)
            attributes = tuple(f"other_{place}" for place in range(len(others)))
            decode = self._decoder(value, dict(zip(attributes, others, strict=True)))
            if decode is not None:
                get_others = _getter(attributes)
                layout = Layout(decode, others, get_others, frozenset(value), len(value))
                self._layouts[number] = (*known, layout)

    def _decoder(
        self, value: Mapping[str, Any], others: Mapping[str, str]
    ) -> Callable[[bytes], Any] | None:
        required = [(name, hint) for name, hint in self._types.items() if name in value]
        required += [(attribute, _PLAIN | list[_PLAIN]) for attribute in others]
        # A line that has one of these as well has a colon more.
        absent = [(name, Any, None) for name in self._types if name not in value]
        try:
            kind = msgspec.defstruct(
                "Line", [*required, *absent], rename=others, forbid_unknown_fields=True, gc=False
            )
        except ValueError:  # msgspec takes no quotation marks and no lone surrogates in keys
            return None
        return msgspec.json.Decoder(kind).decode


def _getter(attributes: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Gives the values of some attributes; `attrgetter` gives tuples of two and more only."""
    if len(attributes) > 1:
        return attrgetter(*attributes)
    return lambda found: tuple(getattr(found, name) for name in attributes)


def _num_colons(line: bytes, found: Any, layout: Layout) -> int:
    """How many colons a line has whose keys are those of a layout, each once; -1 if not known.

    If a key were repeated, the line had more: one for the pair that is lost, and those in its text.
    """
    if b"\\u00" in line:  # may be a colon
        return -1
    texts: list[Any] = [*layout.others]
    for name in found.__struct_fields__:
        value = getattr(found, name)
        texts += value if isinstance(value, list) else [value]
    return layout.num_keys + sum(text.count(":") for text in texts if isinstance(text, str))


def _as_written(hint: Any) -> Any:
    """A type that takes what `require_type` takes within `INT_BOUND`, and leaves it as it stands.

    A number may be written as a whole number, and msgspec would make it a float.
    """
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is NotRequired:
        return _as_written(arguments[0])
    if kind in (Union, UnionType):
        return Union[tuple(map(_as_written, arguments))]  # noqa: UP007  # of a list
    if kind is list:
        return list[_as_written(arguments[0])]  # type: ignore[misc]
    base, metas = (arguments[0], arguments[1:]) if kind is Annotated else (hint, ())
    if base not in (int, float):
        return hint
    low = max([-INT_BOUND, *(meta.ge for meta in metas if meta.ge is not None)])
    high = min([INT_BOUND - 1, *(meta.le for meta in metas if meta.le is not None)])
    whole = Annotated[int, msgspec.Meta(ge=low, le=high)]
    return whole if base is int else whole | hint
