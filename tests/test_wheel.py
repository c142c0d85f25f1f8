"""The wheel is whole: installed elsewhere it finds its needles and its model inside the package.

An editable install is a plain path.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def source(tmp_path):
    """A copy of what an installation is made from; links stay links."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("vniah", "needles"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    return source


@pytest.mark.slow
@pytest.mark.usefixtures("film")
def test_wheel_runs_in_an_empty_folder(source, tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    for path in (ROOT / "needles").rglob("*"):
        installed = tmp_path / "installed" / "vniah" / "data" / path.relative_to(ROOT)
        assert path.is_dir() or installed.read_bytes() == path.read_bytes(), path
    shutil.rmtree(source)

    empty = tmp_path / "empty"
    empty.mkdir()
    code = (
        "import sys, vniah, vniah.cli\n"
        f"assert vniah.__file__.startswith({str(tmp_path / 'installed')!r}), vniah.__file__\n"
        "sys.exit(vniah.cli.main(['run', '--frames', '8', '--depths', '0,1', '--output', 'out']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "over 2 cells" in done.stdout
    assert (empty / "out" / "heatmap.png").exists()
    for package in ("training", "tests", "benchmarks"):
        assert not (tmp_path / "installed" / package).exists()


def test_editable_install_is_a_path_that_type_checkers_follow(source, tmp_path):
    code = f"import setuptools.build_meta as build; build.build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = map(zipfile.ZipFile, tmp_path.glob("*.whl"))
    files = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert [Path(name).suffix for name in files] == [".pth"]
    assert wheel.read(files[0]).decode().split() == [str(source.resolve())]
    assert (source / "vniah" / "py.typed").is_file()
