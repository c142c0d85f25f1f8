"""Pictures of results. Imported only when something is drawn."""

from vniah.analysis.palettes import COLORS
from vniah.analysis.plot.attention import attention_map, save_attention_maps
from vniah.analysis.plot.checkpoints import checkpoint_curves, save_checkpoint_curves
from vniah.analysis.plot.controls import control_names, control_picture
from vniah.analysis.plot.curves import retention_curves
from vniah.analysis.plot.difference import difference_map
from vniah.analysis.plot.files import save_heatmaps
from vniah.analysis.plot.heatmaps import heatmap
from vniah.analysis.plot.lengths import length_curves
from vniah.analysis.plot.needles import needle_map
from vniah.analysis.plot.perplexity import perplexity_curves, save_perplexity_curves
from vniah.analysis.plot.saving import (
    save_controls,
    save_difference_map,
    save_length_curves,
    save_needle_maps,
    save_retention_curves,
)
from vniah.analysis.plot.windows import save_window_curve

__all__ = [
    "COLORS",
    "attention_map",
    "checkpoint_curves",
    "control_names",
    "control_picture",
    "difference_map",
    "heatmap",
    "length_curves",
    "needle_map",
    "perplexity_curves",
    "retention_curves",
    "save_attention_maps",
    "save_checkpoint_curves",
    "save_controls",
    "save_difference_map",
    "save_heatmaps",
    "save_length_curves",
    "save_needle_maps",
    "save_perplexity_curves",
    "save_retention_curves",
    "save_window_curve",
]
