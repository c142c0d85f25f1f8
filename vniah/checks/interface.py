"""Attributes and methods: what a model of each level has, of which kind, with which parameters."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from vniah.checks.findings import Examination, Finding, note

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
_OF_READERS = ("frame_shape", "encode_frames", "compose")
_OF_LEVEL: Mapping[Level, tuple[str, ...]] = {
    "answer_logits": (*_OF_READERS, "answer_logits"),
    "decoder": (*_OF_READERS, "position_ids"),
    "answer": ("answer",),
}
_OPTIONAL = ("decode", "encoding", "settings", "shares_prefixes", "stop_ids")


def find_level(model: Any) -> Level | None:
    """At which level the model is meant to be run, by the method that makes it one."""
    has_decoder = hasattr(model, "decoder")
    if has_decoder and (hasattr(model, "position_ids") or not hasattr(model, "answer_logits")):
        return "decoder"
    if hasattr(model, "answer_logits"):
        return "answer_logits"
    return "answer" if hasattr(model, "answer") else None


@dataclass(frozen=True)
class Interface:
    """What may be used of a model.

    Attributes:
        level: at which it is run; None where that cannot be told.
        usable: the attributes with which nothing is wrong.
    """

    level: Level | None
    usable: frozenset[str]

    def has(self, *names: str) -> bool:
        """Whether all of these may be used."""
        return self.usable.issuperset(names)


def examine_interface(examination: Examination, model: Any) -> Interface:
    """Looks at all attributes that a model of its level has to have or may have."""
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
    """What is wrong with one attribute, whatever it has to be."""
    if not hasattr(model, name):
        what = f"attribute {name}"
        if name in _PARAMETERS:
            what = f"method {name}({', '.join(_PARAMETERS[name])})"
        yield Finding(f"{type(model).__name__} lacks the {what}")
        return
    value = getattr(model, name)
    if name in _PARAMETERS:
        yield from _method(name, value)
    elif name == "frame_shape":
        is_shape = isinstance(value, tuple) and len(value) > 0
        if not is_shape or not all(type(size) is int and size >= 1 for size in value):
            yield Finding(
                f"frame_shape is {value!r}; it must be a tuple of whole numbers from 1, such as "
                "(144, 3584): tokens of a frame, hidden size"
            )
    elif name in _OF_EVERY_MODEL:
        if not isinstance(value, str) or not value:
            yield Finding(f"{name} is {value!r}; it must be text")
    elif name == "shares_prefixes":
        if not isinstance(value, bool):
            yield Finding(f"shares_prefixes is {value!r}; it must be True or False")
    elif name == "stop_ids":
        if not isinstance(value, tuple) or not all(type(token) is int for token in value):
            yield Finding(f"stop_ids is {value!r}; it must be a tuple of token ids")
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
    except ValueError:  # some functions of C do not say
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        yield Finding(f"{name}{signature} cannot be called as {asked}: {error}")
