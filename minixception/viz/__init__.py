"""Pictures: the tape behind a tensor, and the figures of the notebooks and of training.

Importing this loads no matplotlib; drawing a figure does. Figures belong to nobody but the caller (no pyplot,
no global state), need no screen, show themselves in a notebook, and are saved as vector graphics.
"""

from __future__ import annotations

from .costs import LayerCost, SpectrumCost, layer_costs, layer_rows, spectrum_costs, spectrum_rows
from .curves import training_bands
from .figures import ConvolutionCost, convolution_costs, sample_sheet, training_curves
from .maps import feature_maps
from .modules import architecture, module
from .prediction import predictions
from .roofline import RooflinePoint, ladder_points, roofline
from .tape import graph
from .threads import ThreadPanel, threads
from .windows import padding_strips, window_frames
from .zoo import ZooPoint, accuracy_costs, zoo_points

__all__ = [
    "ConvolutionCost",
    "LayerCost",
    "RooflinePoint",
    "SpectrumCost",
    "ThreadPanel",
    "ZooPoint",
    "accuracy_costs",
    "architecture",
    "convolution_costs",
    "feature_maps",
    "graph",
    "ladder_points",
    "layer_costs",
    "layer_rows",
    "module",
    "padding_strips",
    "predictions",
    "roofline",
    "sample_sheet",
    "spectrum_costs",
    "spectrum_rows",
    "threads",
    "training_bands",
    "training_curves",
    "window_frames",
    "zoo_points",
]
