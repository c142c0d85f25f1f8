"""The floor table: a module imports only from floors below its own, or from its own room."""

import ast
import re
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from syntax import last_name, parse

import vniah

PACKAGE_DIR = Path(vniah.__file__).parent

# Rooms by floor. A folder is one room: its modules may import each other.
FLOORS = {
    8: ("cli",),
    7: ("sweep", "checks", "show", "interventions"),
    6: ("engines", "analysis"),
    5: ("models", "tasks", "embeddings"),
    4: ("forward", "needles", "results"),
    3: ("haystacks", "grid", "protocol", "scoring"),
    2: ("options", "factories", "answers", "paths"),
    1: ("errors", "files", "schema"),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# The package's own front: names only, and the entry point.
FRONT = ("__init__", "__main__")


@pytest.fixture(scope="module", autouse=True)
def cleared():
    """The trees of all modules are kept for the tests of this file only."""
    yield
    parse.cache_clear()


def modules() -> list[Path]:
    """All modules with a floor."""
    return [path for path in sorted(PACKAGE_DIR.rglob("*.py")) if room_of(path) in FLOOR_OF]


def room_of(path: Path) -> str:
    return Path(path.relative_to(PACKAGE_DIR).parts[0]).stem


def imported_rooms(source: str) -> set[str]:
    """Rooms of vniah that a module's text names, at its top or inside functions."""
    names = set()
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "vniah":
                names |= {f"vniah.{alias.name}" for alias in node.names}
            elif node.module is not None:
                names.add(node.module)
    return {name.split(".")[1] for name in names if name.startswith("vniah.")}


def forbidden(room: str, imported: set[str]) -> set[str]:
    """Those of the imported rooms that do not lie below."""
    return {
        other
        for other in imported
        if other in FLOOR_OF and other != room and FLOOR_OF[other] >= FLOOR_OF[room]
    }


def test_every_module_has_a_floor():
    rooms = {room_of(path) for path in PACKAGE_DIR.rglob("*.py")} - {"data", *FRONT}
    assert rooms <= FLOOR_OF.keys()


def test_modules_import_only_from_below():
    wrong = {
        path.relative_to(PACKAGE_DIR).as_posix(): rooms
        for path in modules()
        if (rooms := forbidden(room_of(path), imported_rooms(path.read_text())))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("room", "source", "expected"),
    [
        ("grid", "from vniah.results import SampleResult", {"results"}),
        ("grid", "def f():\n    import vniah.analysis.plot", {"analysis"}),
        ("results", "from vniah.tasks.vniah import Question", {"tasks"}),
        ("results", "from vniah import sweep", {"sweep"}),
        ("results", "from vniah.grid import Cell\nimport json", set()),
    ],
)
def test_the_check_can_fail(room, source, expected):
    assert forbidden(room, imported_rooms(source)) == expected


def test_forward_knows_nothing_of_needles():
    for path in (PACKAGE_DIR / "forward").glob("*.py"):
        assert "needle" not in path.read_text().lower(), path.name


def test_only_the_command_line_prints():
    texts = {path: path.read_text() for path in modules()}
    for path in (path for path, text in texts.items() if re.search(r"\bprint\b", text)):
        calls = [
            node
            for node in ast.walk(parse(texts[path]))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ]
        assert not calls or room_of(path) == "cli", path


def imported_modules(source: str, known: Collection[str]) -> set[str]:
    """Known modules that a text imports when it runs, at its top or inside functions."""
    nodes = list(ast.walk(parse(source)))
    for_types = [
        inner
        for node in nodes
        if isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    ]
    names = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node not in for_types:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                names.add(module if module in known else str(node.module))
    return names & set(known)


def circle_among(sources: Mapping[str, str]) -> list[str]:
    """Modules that import one another, the first again at the end; empty if there are none."""
    graph = {name: imported_modules(text, sources) - {name} for name, text in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_modules_do_not_import_one_another_in_a_circle():
    sources = {}
    for path in modules():
        parts = path.relative_to(PACKAGE_DIR.parent).with_suffix("").parts
        sources[".".join(parts).removesuffix(".__init__")] = path.read_text()
    assert circle_among(sources) == []


def test_the_search_for_circles_can_fail():
    """An import inside a function counts, one for types only does not."""
    one, other = "from vniah.b import f", "def f():\n    from vniah.a import g"
    assert set(circle_among({"vniah.a": one, "vniah.b": other})) == {"vniah.a", "vniah.b"}
    typed = "if TYPE_CHECKING:\n    from vniah.a import G"
    assert circle_among({"vniah.a": one, "vniah.b": typed}) == []
