"""Pictures of results. Imported only when something is drawn."""

from vniah.analysis.plot.files import save_heatmaps
from vniah.analysis.plot.heatmaps import heatmap
from vniah.analysis.plot.style import COLORS

__all__ = ["COLORS", "heatmap", "save_heatmaps"]
