"""Rules for attributes and methods: which of them a model needs, of which type and parameters."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from vniah.checks.findings import Examination, Finding, note
from vniah.protocol import needed_form

Level = Literal["answer_logits", "decoder", "answer"]

_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "encode_frames": ("frames",),
    "compose": ("frames", "question", "answer"),
    "answer_logits": ("sequence", "embeds"),
    "position_ids": ("sequence",),
    "answer": ("frames", "question"),
    "decode": ("token_ids",),
}
_OF_EVERY_MODEL = ("name", "revision")
_EXAMPLES = {"frame_shape": ", such as (144, 3584): tokens of a frame, hidden size"}
_OF_READERS = ("frame_shape", "encode_frames", "compose")
_OF_LEVEL: Mapping[Level, tuple[str, ...]] = {
    "answer_logits": (*_OF_READERS, "answer_logits"),
    "decoder": (*_OF_READERS, "position_ids"),
    "answer": ("answer",),
}
_OPTIONAL = (
    "decode",
    "encoding",
    "has_causal_positions",
    "max_new_tokens",
    "settings",
    "shares_prefixes",
    "stop_ids",
)


def find_level(model: Any) -> Level | None:
    """The level at which the model would be run, named by its main attribute; None if unclear."""
    has_decoder = hasattr(model, "decoder")
    if has_decoder and (hasattr(model, "position_ids") or not hasattr(model, "answer_logits")):
        return "decoder"
    if hasattr(model, "answer_logits"):
        return "answer_logits"
    return "answer" if hasattr(model, "answer") else None


@dataclass(frozen=True)
class Interface:
    """The attributes of a model that can be used.

    Attributes:
        level: the level at which the model would be run; None if that is unclear.
        usable: the attributes that are as they should be.
    """

    level: Level | None
    usable: frozenset[str]

    def has(self, *names: str) -> bool:
        """True if all of these attributes can be used."""
        return self.usable.issuperset(names)


def examine_interface(examination: Examination, model: Any) -> Interface:
    """Examines all attributes that a model of its level needs or may have."""
    if not examination.apply(model, _is_an_instance):
        return Interface(None, frozenset())
    level = find_level(model)
    examination.apply(model, _has_a_level)
    names = [*_OF_EVERY_MODEL]
    if level is not None:
        names += _OF_LEVEL[level]
    elif any(hasattr(model, name) for name in _OF_READERS):
        names += _OF_READERS
    names += [name for name in _OPTIONAL if hasattr(model, name)]
    usable = [name for name in names if examination.apply(model, partial(_attribute, name=name))]
    return Interface(level, frozenset(usable))


def _is_an_instance(model: Any) -> Iterator[Finding]:
    if isinstance(model, type):
        name = model.__name__
        yield Finding(f"the factory gave the class {name} itself, not a model; give {name}()")


def _has_a_level(model: Any) -> Iterator[Finding]:
    level = find_level(model)
    if level is None:
        yield Finding(
            f"{type(model).__name__} has neither answer_logits(sequence, embeds), nor decoder and "
            "position_ids(sequence), nor answer(frames, question); give it one of the three"
        )
    elif level == "answer_logits" and hasattr(model, "decoder"):
        yield note(
            "decoder is not used, as there is no position_ids(sequence); every cell runs by itself "
            "through answer_logits"
        )


def _attribute(model: Any, name: str) -> Iterator[Finding]:
    """What is wrong with one attribute or method."""
    if not hasattr(model, name):
        what = f"attribute {name}"
        if name in _PARAMETERS:
            what = f"method {name}({', '.join(_PARAMETERS[name])})"
        yield Finding(f"{type(model).__name__} lacks the {what}")
        return
    value = getattr(model, name)
    if name in _PARAMETERS:
        yield from _method(name, value)
    elif name in (*_OF_EVERY_MODEL, "frame_shape", "max_new_tokens", "stop_ids"):
        form = needed_form(name, value)
        if form is None and value == "":
            form = "text"
        if form is not None:
            yield Finding(f"{name} is {value!r}; it must be {form}{_EXAMPLES.get(name, '')}")
    elif name in ("shares_prefixes", "has_causal_positions"):
        if not isinstance(value, bool):
            yield Finding(f"{name} is {value!r}; it must be True or False")
    elif not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        yield Finding(f"{name} is {value!r}; it must be a dictionary with names as keys")


def _method(name: str, value: Any) -> Iterator[Finding]:
    parameters = _PARAMETERS[name]
    asked = f"{name}({', '.join(parameters)})"
    if not callable(value):
        yield Finding(f"{name} is {value!r}; it must be a method, called as {asked}")
        return
    try:
        signature = inspect.signature(value)
    except ValueError:  # some functions written in C do not tell
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        yield Finding(f"{name}{signature} cannot be called as {asked}: {error}")
