"""Finds a user's own model or task by its name, ``package.module:factory``."""

import importlib
import importlib.abc
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from operator import attrgetter
from types import ModuleType
from typing import Any, cast

from vniah.errors import InputError, VniahError, first_line

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class _LocalFinder(importlib.abc.MetaPathFinder):
    """Finds modules in a folder, but only those that `find_factory` imports, and what they import.

    The folder is not on `sys.path`, where every import of every package would find what happens to
    lie there. Whoever imports is told by the frame that the import statement runs in.

    Args:
        folder: where the modules lie.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._packages = {__name__}  # whose imports are looked up in the folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module in the folder, if one of `_packages` imports it and nothing else has it."""
        if path is not None or _package(_importer()) not in self._packages:
            return None
        spec = PathFinder.find_spec(fullname, [self._folder], target)
        if spec is not None:
            self._packages.add(fullname)
        return spec


def _importer() -> str:
    """The name of the module that imports just now."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code is _LocalFinder.find_spec.__code__
        or frame.f_code is _importer.__code__
        or frame.f_globals.get("__name__", "").startswith("importlib.")
        or frame.f_globals.get("__name__") == "importlib"
    ):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


def _package(module: str) -> str:
    return module if module == __name__ else module.partition(".")[0]


@contextmanager
def local_modules(folder: str) -> Iterator[None]:
    """Lets factories lie in a folder: ``my_model:load`` is then found as ``my_model.py`` in it.

    Installed modules of the same name come first. Modules that are found so find one another as
    well, also later, when one of their functions imports something. Nothing else is found there.

    Args:
        folder: the absolute path of the folder.
    """
    finder = _LocalFinder(folder)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


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
    except VniahError:
        raise
    except Exception as cause:  # the module may raise anything; the cause stays attached
        raise error(
            f"{source}: the module {module_name!r} cannot be imported: {type(cause).__name__} in "
            f"{place_of(cause)}: {first_line(cause)}"
        ) from cause
    try:
        factory = attrgetter(factory_name)(module)
    except AttributeError as cause:
        raise error(f"{source}: {module_name} has no {factory_name!r}") from cause
    if not callable(factory):
        raise error(f"{source}: {factory_name} is not callable; give a function or a class")
    return cast("Callable[..., Any]", factory)


def place_of(cause: Exception) -> str:
    """The file and line in which somebody's code failed."""
    if isinstance(cause, SyntaxError):
        return f"{cause.filename}, line {cause.lineno}"
    last = traceback.extract_tb(cause.__traceback__)[-1]
    return f"{last.filename}, line {last.lineno}"


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
