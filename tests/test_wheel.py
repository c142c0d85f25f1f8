"""What is built is whole: the source distribution holds what git tracks, and the wheel runs.

An editable install is a plain path.
"""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EGG_INFO = "vniah.egg-info"


def tracked() -> list[str]:
    """The files of the repository, as git knows them, or as a source distribution lists them."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = done.stdout.split("\0") if done.returncode == 0 else []
    if not any(names):
        lines = (ROOT / EGG_INFO / "SOURCES.txt").read_text(encoding="utf-8").splitlines()
        names = [Path(line).as_posix() for line in lines if line]  # some begin with ./
    return [name for name in names if name and os.path.lexists(ROOT / name)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the repository; links stay links."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        if not name.startswith(EGG_INFO):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    return source


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    """The unpacked source distribution, beside what a run and an installation leave behind."""
    for name in ("results/demo/samples.jsonl", "training/work/seed-0/text.npy", ".venv/x.py"):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_text("")
    folder = tmp_path_factory.mktemp("sdist")
    code = f"import setuptools.build_meta as build; build.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


def files_below(folder: Path) -> set[str]:
    """Their paths; those of bytecode, which Python leaves wherever it runs, are none of them."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix() for path in paths}


def test_source_distribution_holds_what_git_tracks(sdist):
    expected = {"PKG-INFO"}
    for name in tracked():
        inside = ROOT / name
        linked = files_below(inside) if inside.is_dir() else {""}  # vniah/data/needles is a link
        expected |= {f"{name}/{file}".rstrip("/") for file in linked}
    found = {name for name in files_below(sdist) if not name.startswith(EGG_INFO)}
    assert found == {name for name in expected if not name.startswith(EGG_INFO)}


@pytest.mark.slow
def test_tests_run_from_the_source_distribution(sdist):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(sdist)}
    done = subprocess.run(
        [*command, "tests/test_docs.py"],  # asks for files of all folders, and loads little
        cwd=sdist,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_metadata_is_complete(sdist):
    metadata = email.message_from_string((sdist / "PKG-INFO").read_text(encoding="utf-8"))
    assert metadata["Name"] == "vniah"
    assert metadata["Author"] == "The vniah developers"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Keywords"]
    labels = {line.split(",")[0] for line in metadata.get_all("Project-URL")}
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= labels
    versions = [
        line.rpartition(":: ")[2]
        for line in metadata.get_all("Classifier")
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert versions == ["3.11", "3.12", "3.13"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload().lstrip().startswith("# vniah")


@pytest.mark.slow
@pytest.mark.usefixtures("film")
def test_wheel_of_the_source_distribution_runs_in_an_empty_folder(sdist, tmp_path):
    source = shutil.copytree(sdist, tmp_path / "source")
    code = f"import setuptools.build_meta as build; build.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    in_package = {name for name in files_below(sdist) if name.startswith("vniah/")}
    assert {name for name in files_below(tmp_path / "installed") if "dist-info" not in name} == (
        in_package
    )
    for name in files_below(ROOT / "needles"):
        installed = tmp_path / "installed" / "vniah" / "data" / "needles" / name
        assert installed.read_bytes() == (ROOT / "needles" / name).read_bytes(), name
    shutil.rmtree(source)

    empty = tmp_path / "empty"
    empty.mkdir()
    command = ["run", "--frames", "4", "--depths", "0,1", "--controls", "none", "--output", "out"]
    code = (
        "import sys, vniah, vniah.cli\n"
        f"assert vniah.__file__.startswith({str(tmp_path / 'installed')!r}), vniah.__file__\n"
        f"sys.exit(vniah.cli.main({command}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "over 2 cells" in done.stdout
    assert (empty / "out" / "heatmap.png").exists()
    for package in ("training", "tests", "benchmarks", "docs"):
        assert not (tmp_path / "installed" / package).exists()


def test_editable_install_is_a_path_that_type_checkers_follow(source, tmp_path):
    code = f"import setuptools.build_meta as build; build.build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = map(zipfile.ZipFile, tmp_path.glob("*.whl"))
    files = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert [Path(name).suffix for name in files] == [".pth"]
    assert wheel.read(files[0]).decode().split() == [str(source.resolve())]
    assert (source / "vniah" / "py.typed").is_file()
