"""Finds a user's own model or task by its name, ``package.module:factory``."""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, cast

from vniah.errors import InputError, VniahError

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_factory(source: str) -> bool:
    """True if the text has the form ``package.module:factory``."""
    return _FACTORY.fullmatch(source) is not None


def find_factory(source: str, error: type[VniahError]) -> Callable[..., Any]:
    """The function or class that ``package.module:factory`` names.

    Args:
        source: the name; ``package.module:Class.method`` is also possible.
        error: the class of the error that is raised if there is no such factory.
    """
    module_name, _, factory_name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as cause:
        raise error(f"{source}: the module {module_name!r} cannot be imported: {cause}") from cause
    try:
        factory = attrgetter(factory_name)(module)
    except AttributeError as cause:
        raise error(f"{source}: {module_name} has no {factory_name!r}") from cause
    if not callable(factory):
        raise error(f"{source}: {factory_name} is not callable; give a function or a class")
    return cast("Callable[..., Any]", factory)


def call_factory(source: str, options: Mapping[str, Any], error: type[VniahError]) -> Any:
    """What the factory returns.

    Args:
        source: ``package.module:factory``.
        options: keyword arguments; those with the value None are not passed.
        error: the class of the error that is raised if there is no such factory, or it fails.

    Raises:
        InputError: the factory does not take an option that was given.
    """
    factory = find_factory(source, error)
    given = {name: value for name, value in options.items() if value is not None}
    if refused := [name for name in given if not accepts(factory, name)]:
        raise InputError(
            f"{source} takes no {' and no '.join(refused)}, so it decides that itself: leave it "
            "out, or give the factory a keyword argument of that name"
        )
    try:
        return factory(**given)
    except VniahError:
        raise
    except Exception as cause:  # the factory may raise anything; the cause stays attached
        raise error(f"{source} failed: {type(cause).__name__}: {cause}") from cause


def accepts(factory: Callable[..., Any], name: str) -> bool:
    """True if the factory takes a keyword argument of that name."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some functions written in C have no signature
        return False
    return any(
        parameter.kind is parameter.VAR_KEYWORD
        or (
            parameter.name == name
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        )
        for parameter in parameters
    )
