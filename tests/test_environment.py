"""Variables and files that were meant for other programs do not decide how a command runs."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from vniah.cli.environment import explained_imports, own_environment
from vniah.errors import InputError
from vniah.files import cache_dir
from vniah.results import load_results

RUN = Path(__file__).resolve().parents[1] / "results" / "reference-long"

ODD = {
    "MPLBACKEND": "module://not_installed",
    "MPLCONFIGDIR": "/dev/null/none",
    "MATPLOTLIBRC": "matplotlibrc",
    "QT_QPA_PLATFORM": "none",
    "DISPLAY": ":99",
    "PYTHONWARNINGS": "error",
    "PYTHONIOENCODING": "ascii",
    "LANG": "C",
    "TERM": "dumb",
    "COLUMNS": "0",
    "NO_COLOR": "1",
    "TQDM_MININTERVAL": "often",
    "TMPDIR": "/nowhere",
    "HOME": "/nowhere",
    "XDG_CACHE_HOME": "relative",
    "VNIAH_CACHE": "",
    "OMP_NUM_THREADS": "many",
    "CUDA_VISIBLE_DEVICES": "all of them",
}


def test_picture_is_the_same_in_an_odd_environment(tmp_path):
    from vniah.analysis.plot import save_heatmaps

    (tmp_path / "matplotlibrc").write_bytes(
        b"font.size: 30\nbackend: none\nfont.family: \xff\xfe\n"
    )
    name = "Modell – 東京.png"
    done = subprocess.run(
        [sys.executable, "-m", "vniah", "plot", str(RUN), "--output", name],
        cwd=tmp_path,
        env={**os.environ, **ODD},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode("ascii")
    assert rb"heatmap: Modell \u2013 \u6771\u4eac.png" in done.stdout
    assert b"Traceback" not in done.stderr
    expected = save_heatmaps([load_results(RUN)], tmp_path / "usual.png")
    assert (tmp_path / name).read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_picture_does_not_depend_on_the_settings_of_the_user(suffix, tmp_path):
    import matplotlib

    from vniah.analysis.plot import save_heatmaps

    run = load_results(RUN)
    usual = save_heatmaps([run], tmp_path / f"usual{suffix}").read_bytes()
    mine = {
        "font.size": 30,
        "axes.grid": True,
        "savefig.bbox": "tight",
        "savefig.transparent": True,
        "figure.dpi": 30,
        "svg.fonttype": "none",
        "pdf.compression": 0,
    }
    with matplotlib.rc_context(mine):
        assert save_heatmaps([run], tmp_path / f"mine{suffix}").read_bytes() == usual
        assert {name: matplotlib.rcParams[name] for name in mine} == mine


def test_variables_of_other_programs_are_back_afterwards(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "none")
    monkeypatch.setenv("TQDM_NCOLS", "x")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    before = dict(os.environ)
    with own_environment():
        assert "MPLBACKEND" not in os.environ and "TQDM_NCOLS" not in os.environ
        assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1", "stderr is no terminal here"
    assert dict(os.environ) == before


def test_warnings_are_errors_only_where_somebody_asked_this_program(monkeypatch):
    with own_environment(), pytest.raises(UserWarning):
        warnings.warn("as pytest was told", stacklevel=1)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    with own_environment(), warnings.catch_warnings(record=True) as seen:
        warnings.warn("a remark", stacklevel=1)
        warnings.warn("an old name", DeprecationWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["a remark"]


@pytest.mark.parametrize("cause", [ValueError("invalid literal 'x'"), ImportError("no torch")])
def test_package_that_cannot_be_imported_is_one_line(cause):
    with pytest.raises(InputError, match=f"cannot be imported: {cause}.*HF_"), explained_imports():
        raise cause


def test_cache_lies_where_the_variables_say(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    for chosen, common, expected in (
        ("/mine", "/common", "/mine"),
        ("", "/common", "/common/vniah"),
        ("  ", "relative", "/home/me/.cache/vniah"),
        ("", "", "/home/me/.cache/vniah"),
    ):
        monkeypatch.setenv("VNIAH_CACHE", chosen)
        monkeypatch.setenv("XDG_CACHE_HOME", common)
        assert cache_dir() == Path(expected)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_dir().name.startswith("vniah-")
