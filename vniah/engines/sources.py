"""The source of a function of the user: one SHA-256 over its file and the files that it imports.

The imports are read from the text of the files, so that they are the same in every process,
whatever it has imported already.
"""

import ast
import hashlib
import inspect
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from vniah.errors import InputError

# What a module's file was when the module was first seen, and what it was loaded by: a module that
# is loaded again (`importlib.reload`) is loaded by another spec.
_seen: WeakKeyDictionary[ModuleType, tuple[object, str]] = WeakKeyDictionary()

_OWN = __name__.partition(".")[0]


def source_sha256(function: Callable[..., Any], name: str) -> str:
    """The SHA-256 over the names and contents of the files that a function's code is in.

    These are the file of the function, and what it and they import by import statements: modules of
    the same package, and modules and packages beside it. What lies in ``site-packages`` or in
    Python's library is left out unless it is of the same package, and so is vniah.

    Args:
        function: a function of a module.
        name: ``package.module:function``.

    Raises:
        InputError: its file cannot be read, or one of the files is no longer what it was when its
            module was imported, or first named to vniah, in this process.
    """
    inner: Any = inspect.unwrap(function)
    modules = dict.fromkeys((name.partition(":")[0], str(getattr(inner, "__module__", ""))))
    try:
        contents = {"": Path(inspect.getfile(inner)).read_bytes()}
        for module in modules:
            contents |= _files_of(module)
    except (OSError, TypeError) as error:
        raise InputError(
            f"{name}: its source cannot be read; put the function into a file"
        ) from error
    digests = {one: hashlib.sha256(content).hexdigest() for one, content in contents.items()}
    for module, content in contents.items():
        _require_unchanged(module, content, digests[module], name)
    lines = "".join(f"{one} {digests[one]}\n" for one in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def _require_unchanged(module_name: str, content: bytes, digest: str, name: str) -> None:
    module = sys.modules.get(module_name)
    if module is None:
        return
    spec = getattr(module, "__spec__", None)
    earlier = _seen.get(module)
    is_first = earlier is None or earlier[0] is not spec
    if is_first and _has_code_of(module, content):
        _seen[module] = (spec, digest)
    elif earlier is None or is_first or earlier[1] != digest:
        raise InputError(
            f"{name}: {module.__file__} was changed since it was imported, so that what runs is "
            "not what the file says: start again"
        )


def _has_code_of(module: ModuleType, content: bytes) -> bool:
    """Whether all functions at the top of a module are, with their lines, in the text of a file.

    It is how an edit between the import and the first look is noticed. Modules that were not loaded
    from their text as it is, such as tests whose assertions are rewritten, are taken as they are.
    """
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if type(loader) is not SourceFileLoader:
        return True
    file = str(module.__file__)
    try:
        found = set(_codes(compile(content, file, "exec", dont_inherit=True)))
    except (SyntaxError, ValueError):
        return False
    functions = [inspect.unwrap(one) for one in vars(module).values() if inspect.isfunction(one)]
    codes = [one.__code__ for one in functions if one.__module__ == module.__name__]
    return all(code in found for code in codes if code.co_filename == file)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A code and all that are in it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _files_of(module: str) -> dict[str, bytes]:
    """By their names, the contents of a module's file and of those that it imports."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None:
        return {}
    path = Path(file).resolve()
    found = {module: path.read_bytes()}
    top, depth = module.partition(".")[0], module.count(".")
    if top == _OWN or path.suffix != ".py":
        return found
    is_package = path.name == "__init__.py"
    root = path.parents[depth + is_package]
    is_installed = _is_installed(root)
    waiting = [(module, path)]
    for parent in _parents(module):
        waiting += [(parent, file) for file in _find(root, parent)]
    while waiting:
        module, path = waiting.pop()
        found[module] = content = path.read_bytes()
        for other in _imported(content, module, is_package=path.name == "__init__.py"):
            other_top = other.partition(".")[0]
            if other in found or other_top == _OWN or (is_installed and other_top != top):
                continue
            waiting += [(other, file) for file in _find(root, other)]
    return found


def _is_installed(root: Path) -> bool:
    places = {*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()}
    names = {"site-packages", "dist-packages"}
    return root.name in names or root in {Path(place).resolve() for place in places}


def _parents(module: str) -> Iterator[str]:
    """The packages that a module is in, whose files are run before its own."""
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _find(root: Path, module: str) -> list[Path]:
    """The file of a module below a folder; empty if there is none."""
    place = root.joinpath(*module.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            return [path]
    return []


def _imported(content: bytes, module: str, *, is_package: bool) -> Iterator[str]:
    """The names of all modules that a file may import, at its top or inside functions."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if is_package else module.split(".")[:-1]
            base = parts[: len(parts) - node.level + 1] if node.level else []
            start = ".".join((*base, *filter(None, (node.module,))))
            names = [start, *(f"{start}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in filter(None, names):
            yield name
            yield from _parents(name)
