"""Modules in the working folder: found for ``module:factory``, and for nothing else."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vniah.cli import main
from vniah.errors import ModelError
from vniah.factories import find_factory, local_modules

RUN = Path(__file__).resolve().parents[1] / "results" / "reference-long"


def write(folder, **modules):
    """Modules by name, as files of a folder."""
    for name, source in modules.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source))


@pytest.fixture
def forget(monkeypatch):
    """Modules that a test imports are not there for the next one."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_module_in_the_folder_is_found_while_it_is_searched(tmp_path, forget):
    write(tmp_path, found_once="def factory(): return 1")
    before = list(sys.path), list(sys.meta_path)
    with pytest.raises(ModelError, match="'found_once' cannot be imported"):
        find_factory("found_once:factory", ModelError)
    with local_modules(str(tmp_path)):
        assert find_factory("found_once:factory", ModelError)() == 1
        assert sys.path == before[0], "no package finds anything in the folder"
        with pytest.raises(ImportError):
            import found_by_others  # noqa: F401
    assert (sys.path, sys.meta_path) == before


def test_modules_of_the_folder_find_one_another_also_later(tmp_path, forget):
    write(
        tmp_path,
        one_of_mine="""
            from importlib import import_module
            import two_of_mine
            def factory():
                import three_of_mine
                return three_of_mine.value + import_module("four_of_mine").value
            """,
        two_of_mine="",
        three_of_mine="import package_of_mine.part as part; value = part.value",
        four_of_mine="value = 4",
        package_of_mine__part="from package_of_mine import other; value = other.value",
        package_of_mine__other="value = 30",
    )
    with local_modules(str(tmp_path)):
        assert find_factory("one_of_mine:factory", ModelError)() == 34


def test_what_a_package_imports_is_not_looked_up_in_the_folder(tmp_path, forget, monkeypatch):
    """An optional dependency of an installed package, which is not installed."""
    installed = tmp_path / "site"
    installed.mkdir()
    write(
        installed,
        installed_one="""
            try:
                import optional_one
            except ImportError:
                optional_one = None
            """,
    )
    write(
        tmp_path,
        optional_one="raise SystemExit('was run')",
        mine_one="import installed_one\ndef factory(): return installed_one.optional_one",
        installed_one="raise SystemExit('was run')",
    )
    monkeypatch.syspath_prepend(str(installed))
    with local_modules(str(tmp_path)):
        assert find_factory("mine_one:factory", ModelError)() is None


def test_module_that_imports_what_is_not_there_is_one_line(tmp_path, forget, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, lacking_one="import nothing_of_this_name")
    assert main(["check", "--model", "lacking_one:factory"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'lacking_one' cannot be imported: No module named 'nothing_of_this_name'" in line


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1 / 0", "ZeroDivisionError in PATH, line 1: division by zero"),
        ("def factory(:", "SyntaxError in PATH, line 1: "),
        ("x = {}['a']", "KeyError in PATH, line 1: nothing is called 'a'"),
    ],
)
def test_module_that_fails_is_one_line_with_its_place(tmp_path, forget, source, reason):
    write(tmp_path, failing_one=source)
    with (
        local_modules(str(tmp_path)),
        pytest.raises(ModelError, match="'failing_one' cannot be imported: ") as caught,
    ):
        find_factory("failing_one:factory", ModelError)
    assert reason.replace("PATH", str(tmp_path / "failing_one.py")) in str(caught.value)


TRAPS = ("scipy", "pydot", "json", "typing", "matplotlib", "numpy", "argparse", "statsmodels")


@pytest.mark.parametrize(
    ("way", "arguments"),
    [
        ("module", ("plot", str(RUN), "--output", "a.png")),
        ("script", ("compare", str(RUN), str(RUN))),
    ],
)
def test_files_in_the_working_folder_are_never_run(tmp_path, way, arguments):
    """Neither for ``python -m vniah`` nor for the installed command."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w')")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "vniah"
    script.write_text("import sys\nfrom vniah.cli import main\nsys.exit(main())\n")
    command = ["-m", "vniah"] if way == "module" else [str(script)]
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert list(tmp_path.glob("ran-*")) == []
    assert way == "script" or (tmp_path / "a.png").stat().st_size > 10_000
