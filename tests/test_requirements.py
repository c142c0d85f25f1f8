"""setup.cfg asks for what the package imports, and for nothing else."""

import ast
import configparser
import re
import sys
from pathlib import Path

import pytest
from syntax import last_name, parse

import vniah

ROOT = Path(__file__).parent.parent
MODULES = sorted(Path(vniah.__file__).parent.rglob("*.py"))

# Where the name that is imported is not the name of the distribution.
DISTRIBUTIONS = {"PIL": "pillow"}
# A kernel for Hopper cards is built from source; it is used where it is there.
NOT_ON_PYPI = {"flash_attn_interface"}
# bitsandbytes needs accelerate when transformers loads with it; `Results.to_pandas` gives pandas.
USED_BY_OTHERS = {"accelerate", "pandas"}


@pytest.fixture(scope="module", autouse=True)
def cleared():
    """The trees of all modules are kept for the tests of this file only."""
    yield
    parse.cache_clear()


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*, with_extras: bool) -> set[str]:
    """The distributions that setup.cfg names; of the extras all but those for developers.

    An extra that names others, such as ``vniah[server]``, adds none of its own.
    """
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    groups = [config["options"]["install_requires"]]
    if with_extras:
        extras = config["options.extras_require"]
        groups += [text for extra, text in extras.items() if extra not in ("dev", "docs")]
    lines = [line for group in groups for line in group.split("\n") if line.strip()]
    names = {normalized(re.split(r"[<>=!~;\[ ]", line.strip())[0]) for line in lines}
    return names - {"vniah"}


def imported(source: str, *, at_import: bool = False) -> set[str]:
    """The distributions whose modules a text imports, by a statement or by a literal name.

    Args:
        source: of a module.
        at_import: only those that importing the module loads.
    """
    found = set()
    waiting: list[ast.AST] = [parse(source)]
    while waiting:
        node = waiting.pop()
        if at_import and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            or (isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING")
        ):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and last_name(node.func) in ("import_module", "find_spec"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    tops = {name.partition(".")[0] for name in found}
    tops -= sys.stdlib_module_names | {"vniah"} | NOT_ON_PYPI
    return {normalized(DISTRIBUTIONS.get(name, name)) for name in tops}


def named(source: str) -> set[str]:
    """What a text imports, and what it names in a string: some modules are looked up by name."""
    strings = {
        node.value
        for node in ast.walk(parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return imported(source) | {normalized(text) for text in strings if text.isidentifier()}


def lacking(*, at_import: bool) -> dict[str, set[str]]:
    """For every module what it imports and setup.cfg does not name."""
    known = declared(with_extras=not at_import)
    found = {
        path.relative_to(ROOT).as_posix(): imported(path.read_text("utf-8"), at_import=at_import)
        for path in MODULES
    }
    return {path: names - known for path, names in found.items() if names - known}


def test_what_is_imported_is_declared():
    assert lacking(at_import=False) == {}


def test_extras_are_not_needed_to_import_the_package():
    assert lacking(at_import=True) == {}


def test_what_is_declared_is_imported():
    used = set().union(*(named(path.read_text(encoding="utf-8")) for path in MODULES))
    assert declared(with_extras=True) - USED_BY_OTHERS <= used


@pytest.mark.parametrize(
    ("source", "at_import", "expected"),
    [
        ("import torch.nn, os", True, {"torch"}),
        ("from PIL import Image", True, {"pillow"}),
        ("def f():\n    import openai", True, set()),
        ("def f():\n    import openai", False, {"openai"}),
        ("if TYPE_CHECKING:\n    import pandas", True, set()),
        ("from importlib import import_module\nimport_module('flash_attn')", False, {"flash-attn"}),
    ],
)
def test_the_check_can_fail(source, at_import, expected):
    assert imported(source, at_import=at_import) == expected


def test_families_are_verified_with_the_version_that_is_pinned():
    from vniah.models.families import VERIFIED_WITH

    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"transformers=={VERIFIED_WITH}" in pins
