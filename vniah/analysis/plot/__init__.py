"""Pictures of results. Imported only when something is drawn."""

from vniah.analysis.palettes import COLORS
from vniah.analysis.plot.curves import retention_curves
from vniah.analysis.plot.files import save_heatmaps, save_retention_curves
from vniah.analysis.plot.heatmaps import heatmap
from vniah.analysis.plot.lengths import length_curves
from vniah.analysis.plot.saving import save_length_curves

__all__ = [
    "COLORS",
    "heatmap",
    "length_curves",
    "retention_curves",
    "save_heatmaps",
    "save_length_curves",
    "save_retention_curves",
]
