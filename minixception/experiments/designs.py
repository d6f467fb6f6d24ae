"""Small Xceptions whose convolutions have another form."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ..bench.records.variants import Variant
from ..errors import ArgumentError
from ..graph.cost import table
from ..nn import Activation, Conv2d, Linear, Module, SeparableConv2d, Sequential, SpectrumConv2d

FORMS = ("separable", "pointwise first", "segments", "regular")


@dataclass(frozen=True)
class Design(Variant):
    """A recipe whose network differs from mini_xception in the form of its convolutions, and in its head.

    form: "separable" (depthwise, then 1x1), "segments" (1x1, then 3x3 in so many ``segments`` of the channels: 3 are
    Inception-style), "pointwise first" (1x1, then depthwise: a segment for each channel) or "regular" (3x3 without a
    1x1). fc_units: of fully connected layers with ReLU before the logits, as the paper's network for JFT has two.
    Raises ArgumentError for another form; ``make_model`` does for widths that the segments do not divide.
    """

    form: str = "separable"
    segments: int = 1
    fc_units: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in FORMS:
            raise ArgumentError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")

    def make_model(self, num_classes: int, image_shape: tuple[int, int, int]) -> Module:
        """The network, with fresh weights from the package's generator."""
        model = super().make_model(num_classes, image_shape)
        if self.form != "separable":
            self._reform(model)
        if self.fc_units:
            model.predictions = self._head(num_classes)
        return model

    def _head(self, num_classes: int) -> Module:
        """Fully connected layers, and the logits."""
        layers: dict[str, Module] = {}
        for number, (units, more) in enumerate(pairwise((self.widths[-1], *self.fc_units)), start=1):
            layers |= {f"fc{number}": Linear(units, more), f"fc{number}_act": Activation("relu")}
        return Sequential(**layers, logits=Linear(self.fc_units[-1], num_classes))

    def _reform(self, module: Module) -> None:
        """Put a unit of this form into the place of each separable convolution."""
        for name, child in module.children().items():
            if isinstance(child, SeparableConv2d):
                unit = self._unit(*child.pointwise.shape)
                setattr(module, name, Sequential(act=Activation("relu"), conv=unit) if child.relu else unit)
            else:
                self._reform(child)

    def _unit(self, in_channels: int, out_channels: int) -> Module:
        if self.form == "regular":
            return Conv2d(in_channels, out_channels, 3)
        segments = out_channels if self.form == "pointwise first" else self.segments
        return SpectrumConv2d(in_channels, out_channels, 3, segments)


@dataclass(frozen=True)
class Cost:
    """What a design costs: trainable parameters, and multiply-accumulates for one image."""

    parameters: int
    macs: int


def cost(design: Design, num_classes: int = 10, image_shape: tuple[int, int, int] = (32, 32, 3)) -> Cost:
    """Count a design's network.

    >>> cost(Design(widths=(8,), middle_blocks=0, stem=8)).parameters
    706
    """
    model = design.make_model(num_classes, image_shape)
    return Cost(model.num_parameters(trainable=True), table(model, image_shape).macs)
