"""Colours and sizes of all pictures."""

from typing import Any

from matplotlib.colors import LinearSegmentedColormap

COLORS = ("#F0496E", "#EBB839", "#9ad5b3")
"""Of scores of 0, 0.5 and 1, as published."""

INK = "#333333"
FAINT = "#777777"
LABEL_SIZE = 10.0  # points
SMALL_SIZE = 8.0
COLORBAR: dict[str, Any] = {"pad": 0.02, "aspect": 22}


def score_colors() -> LinearSegmentedColormap:
    """The colours of scores from 0 to 1."""
    return LinearSegmentedColormap.from_list("vniah", COLORS)
