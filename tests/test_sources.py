"""The hash of what a function of the user consists of: its file, and what that imports."""

import importlib
import sys
from pathlib import Path

import pytest

from vniah.engines.interventions import Intervention
from vniah.engines.sources import source_sha256
from vniah.errors import InputError
from vniah.interventions import int8_keys_values

FILES = {
    "plain_mine.py": "import math, torch\n\nimport beside\n\ndef change(changes):\n    beside\n",
    "beside.py": "def scale():\n    import later_beside\n",
    "later_beside.py": "",
    "unused_beside.py": "",
    "packed/__init__.py": "",
    "packed/deep/__init__.py": "from ..scales import half\n",
    "packed/deep/mine.py": "from .. import rounding\n\n\ndef change(changes):\n    pass\n",
    "packed/rounding.py": "",
    "packed/scales.py": "half = 0.5\n",
    "packed/unused.py": "",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files that can be imported; what was imported of them is forgotten afterwards."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    forget(tmp_path)


def forget(folder):
    """As if another process began."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(f"{folder}/"):
            del sys.modules[name]
    importlib.invalidate_caches()


def edit(path):
    path.write_text(f"{path.read_text()}\n# another line\n")


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        ("plain_mine", {"plain_mine.py", "beside.py", "later_beside.py"}),
        (
            "packed.deep.mine",
            {
                "packed/__init__.py",
                "packed/deep/__init__.py",
                "packed/deep/mine.py",
                "packed/rounding.py",
                "packed/scales.py",
            },
        ),
    ],
)
def test_the_hash_is_of_a_file_and_of_those_that_it_imports(folder, module, parts):
    def found():
        forget(folder)
        return Intervention.of(f"{module}:change").sha256

    first, changed = found(), set()
    assert found() == first and len(first) == 64
    for name, text in FILES.items():
        edit(folder / name)
        if found() != first:
            changed.add(name)
        (folder / name).write_text(text)
    assert changed == parts and found() == first


@pytest.mark.parametrize("name", ["plain_mine.py", "beside.py"])
def test_a_file_that_was_edited_after_it_was_imported_is_refused(folder, name):
    earlier = Intervention.of("plain_mine:change")
    edit(folder / name)
    for source in ("plain_mine:change", earlier.function):
        with pytest.raises(InputError, match=rf"{name} was changed since it was imported") as error:
            Intervention.of(source)
        assert "start again" in str(error.value) and "\n" not in str(error.value)
    for module in ("beside", "plain_mine"):
        importlib.reload(sys.modules[module])
    assert Intervention.of("plain_mine:change").sha256 != earlier.sha256


@pytest.mark.parametrize("name", ["plain_mine", "beside"])
def test_an_edit_between_the_import_and_the_first_look_is_refused(folder, name):
    module = importlib.import_module("plain_mine")
    text = (folder / f"{name}.py").read_text()
    (folder / f"{name}.py").write_text(f"NUMBER = 2\n{text}")
    for _ in range(2):
        with pytest.raises(InputError, match=rf"{name}.py was changed since it was imported"):
            Intervention.of(module.change)
    importlib.reload(sys.modules[name])
    assert Intervention.of("plain_mine:change").sha256


def test_what_is_installed_is_followed_within_its_package_only(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    (folder / "installed").mkdir(parents=True)
    text = "import beside_it\nfrom installed import part\n\ndef change(changes):\n    pass\n"
    (folder / "installed" / "__init__.py").write_text("")
    (folder / "installed" / "mine.py").write_text(text)
    (folder / "installed" / "part.py").write_text("")
    (folder / "beside_it.py").write_text("")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = Intervention.of("installed.mine:change").sha256
    for name, is_part in (("beside_it.py", False), ("installed/part.py", True)):
        edit(folder / name)
        forget(folder)
        assert (Intervention.of("installed.mine:change").sha256 != first) == is_part
    forget(folder)


def test_functions_of_vniah_do_not_stand_for_all_of_it():
    """Of what comes with vniah only the file itself counts; the manifest has the version."""
    from vniah.engines.sources import _files_of

    assert set(_files_of("vniah.interventions")) == {"vniah.interventions"}
    sha256 = source_sha256(int8_keys_values, "vniah.interventions:int8_keys_values")
    assert sha256 == Intervention.of(int8_keys_values).sha256
    assert Path(sys.modules["vniah.interventions"].__file__).is_file()
