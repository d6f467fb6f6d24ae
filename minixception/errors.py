"""Every error the package raises on purpose: each says what was expected and what came.

All are subclasses of ``ValueError`` (a bad argument) or ``OSError`` (a bad file), so that code which knows
nothing of this package can still catch them.
"""

from __future__ import annotations


class ShapeError(ValueError):
    """An array has the wrong number of dimensions or the wrong size along one of them."""


class DTypeError(ValueError):
    """An array has a dtype that the operator does not take, or two arrays disagree."""


class ArgumentError(ValueError):
    """An argument that is not an array is outside of what it may be (a stride of 0, an unknown padding)."""


class LabelError(ValueError):
    """A class label is outside of 0 .. num_classes - 1, or is not an integer."""


class BackendError(ValueError):
    """The backend asked for does not exist or cannot run here."""


class RecordingError(ValueError):
    """What a function does on the GPU cannot be recorded: it reads or waits for results while nothing runs."""


class DeviceMemoryError(ValueError, MemoryError):
    """The GPU has no memory left for an array, even with nothing kept for later."""


class InteropError(ValueError, BufferError):
    """Memory cannot be shared with another library: only a copy would do."""


class IndexingError(ValueError, IndexError):
    """A tensor does not have the elements that an index names."""


class GraphError(ValueError):
    """backward() was asked for where no gradient can flow: no recorded path, or the tape was already used."""


class TraceError(ValueError):
    """What a model computes cannot be found out from shapes alone: its forward pass asks for values, or is no chain."""


class KernelError(ValueError):
    """A kernel does what no kernel may: a race, an index outside of an array, a barrier that not all threads reach."""


class GradientError(ValueError):
    """gradcheck found an analytic gradient that disagrees with finite differences."""


class NumericError(ValueError):
    """A number that must be finite is not (a loss of NaN)."""


class DataError(OSError):
    """A data set or an image is missing, empty, truncated or corrupt."""


class CheckpointError(OSError):
    """A checkpoint is missing, corrupt, in use, or belongs to another run."""


class WeightsError(OSError):
    """A weight file does not match the model: lists each missing, surplus or misshaped tensor."""


class ClusterError(OSError):
    """The processes of a run cannot work together: MPI is missing, one differs from the others, or one hangs."""
