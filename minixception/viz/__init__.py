"""Pictures: the tape behind a tensor, and the figures of the notebooks and of training.

Importing this loads no matplotlib; drawing a figure does. Figures belong to nobody but the caller (no pyplot,
no global state), need no screen, show themselves in a notebook, and are saved as vector graphics.
"""

from __future__ import annotations

from .accuracy import TrainedPoint, ZooPoint, accuracy_bands, accuracy_costs, zoo_points
from .activations import feature_maps
from .convolution_windows import padding_strips, window_frames
from .costs import (
    ConvolutionCost,
    LayerCost,
    SpectrumCost,
    convolution_costs,
    layer_costs,
    layer_rows,
    spectrum_costs,
    spectrum_rows,
)
from .cuda_threads import ThreadPanel, threads
from .curves import training_bands, training_curves
from .growth import GrowthPoint, growth
from .images import predictions, sample_sheet
from .modules import architecture, module
from .roofline import RooflinePoint, ladder_points, roofline
from .scaling import ScalingPoint, scaling
from .spectrum import SpectrumTime, spectrum_times
from .tape import graph

__all__ = [
    "ConvolutionCost",
    "GrowthPoint",
    "LayerCost",
    "RooflinePoint",
    "ScalingPoint",
    "SpectrumCost",
    "SpectrumTime",
    "ThreadPanel",
    "TrainedPoint",
    "ZooPoint",
    "accuracy_bands",
    "accuracy_costs",
    "architecture",
    "convolution_costs",
    "feature_maps",
    "graph",
    "growth",
    "ladder_points",
    "layer_costs",
    "layer_rows",
    "module",
    "padding_strips",
    "predictions",
    "roofline",
    "sample_sheet",
    "scaling",
    "spectrum_costs",
    "spectrum_rows",
    "spectrum_times",
    "threads",
    "training_bands",
    "training_curves",
    "window_frames",
    "zoo_points",
]
