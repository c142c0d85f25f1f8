"""Pictures of results. Imported only when something is drawn."""

from vniah.analysis.palettes import COLORS
from vniah.analysis.plot.curves import retention_curves
from vniah.analysis.plot.files import save_heatmaps, save_retention_curves
from vniah.analysis.plot.heatmaps import heatmap

__all__ = ["COLORS", "heatmap", "retention_curves", "save_heatmaps", "save_retention_curves"]
