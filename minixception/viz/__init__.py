"""Pictures: the tape behind a tensor, and the figures of the notebooks and of training.

Importing this loads no matplotlib; drawing a figure does. Figures belong to nobody but the caller (no pyplot,
no global state), need no screen, and show themselves as vector graphics in a notebook.
"""

from __future__ import annotations

from .figures import ConvolutionCost, convolution_costs, sample_sheet, spectrum, training_curves
from .prediction import prediction, predictions
from .roofline import RooflinePoint, roofline
from .tape import GraphPicture, graph
from .threads import ThreadPanel, threads

__all__ = [
    "ConvolutionCost",
    "GraphPicture",
    "RooflinePoint",
    "ThreadPanel",
    "convolution_costs",
    "graph",
    "prediction",
    "predictions",
    "roofline",
    "sample_sheet",
    "spectrum",
    "threads",
    "training_curves",
]
