"""vniah: how far can a long-context multimodal model see?

V-NIAH (Visual Needle-In-A-Haystack) inserts a needle frame at swept depths into a long video
sampled at 1 FPS, asks the question that only the needle answers, and draws accuracy over depth and
number of frames.

>>> import vniah
>>> model = vniah.load_model("reference-long")
>>> grid = vniah.Grid.parse("16,64", "0:1:0.5")
>>> haystack = vniah.generated_haystack(grid.max_frames)
>>> results = vniah.run_sweep(model, haystack, vniah.load_needles(), grid, output="results/first")
"""

from importlib import import_module

# Not from typing: `python -m vniah` runs this while the working folder is still searched first.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vniah.analysis.compare import assert_no_regression, compare
    from vniah.analysis.convert import convert_results
    from vniah.analysis.plot import heatmap, save_heatmaps
    from vniah.analysis.report import save_report
    from vniah.analysis.statistics.summary import summarize
    from vniah.analysis.table_rows import table
    from vniah.errors import VniahError
    from vniah.grid import Grid
    from vniah.haystacks.haystack import generated_haystack, open_haystack
    from vniah.models.loading import load_model
    from vniah.needles import load_needles
    from vniah.results import load_results
    from vniah.show.sample import show_sample
    from vniah.sweep.exchange.export import export_samples
    from vniah.sweep.exchange.importing import import_answers
    from vniah.sweep.rescoring.rescoring import rescore
    from vniah.sweep.run import run_sweep

__version__ = "0.1.0"

_HOMES = {
    "Grid": "vniah.grid",
    "VniahError": "vniah.errors",
    "assert_no_regression": "vniah.analysis.compare",
    "compare": "vniah.analysis.compare",
    "convert_results": "vniah.analysis.convert",
    "export_samples": "vniah.sweep.exchange.export",
    "generated_haystack": "vniah.haystacks.haystack",
    "heatmap": "vniah.analysis.plot",
    "import_answers": "vniah.sweep.exchange.importing",
    "load_model": "vniah.models.loading",
    "load_needles": "vniah.needles",
    "load_results": "vniah.results",
    "open_haystack": "vniah.haystacks.haystack",
    "rescore": "vniah.sweep.rescoring.rescoring",
    "run_sweep": "vniah.sweep.run",
    "save_heatmaps": "vniah.analysis.plot",
    "save_report": "vniah.analysis.report",
    "show_sample": "vniah.show.sample",
    "summarize": "vniah.analysis.statistics.summary",
    "table": "vniah.analysis.table_rows",
}

__all__ = [
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


def __getattr__(name: str) -> "Any":
    """Looks a public name up when it is first used, so that ``import vniah`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vniah' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, and what Python keeps in every module; not the submodules."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
