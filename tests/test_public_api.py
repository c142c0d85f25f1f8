"""What ``import vniah`` offers, and what it does not load."""

import subprocess
import sys

import pytest

import vniah

HEAVY = ("torch", "transformers", "matplotlib", "av", "datasets", "pandas", "numpy", "PIL")
HEAVY += ("scipy", "statsmodels")


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_exported_names():
    assert vniah.__all__ == [
        "Grid",
        "VniahError",
        "assert_no_regression",
        "compare",
        "convert_results",
        "export_samples",
        "generated_haystack",
        "heatmap",
        "import_answers",
        "load_model",
        "load_needles",
        "load_results",
        "open_haystack",
        "rescore",
        "run_sweep",
        "save_heatmaps",
        "save_report",
        "show_sample",
        "summarize",
        "table",
    ]
    for name in vniah.__all__:
        assert callable(getattr(vniah, name))


def test_dir_shows_the_public_names_only():
    vniah.load_needles("cards")  # loads submodules, which Python sets as attributes
    assert hasattr(vniah, "needles") and hasattr(vniah, "errors")
    assert [name for name in dir(vniah) if not name.startswith("__")] == vniah.__all__
    assert {"__all__", "__doc__", "__file__", "__version__"} <= set(dir(vniah))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        vniah.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import vniah",
        "import vniah; vniah.Grid; vniah.load_results; vniah.compare",
        "from vniah.cli.arguments import build_parser; build_parser()",
    ],
)
def test_import_is_light(statement):
    assert loaded_after(statement) == set()


def test_light_import_test_can_fail():
    assert "numpy" in loaded_after("import vniah, numpy")
