"""The wheel is whole: installed elsewhere it finds its needles and its model inside the package."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_runs_in_an_empty_folder(tmp_path, own_cache):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("vniah", "needles"):
        shutil.copytree(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
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
