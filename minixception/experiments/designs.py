"""Small Xceptions that differ in the form of their convolutions, in what stands between, in shortcuts and head."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ..errors import ArgumentError
from ..graph.cost import table
from ..nn import Activation, Conv2d, Linear, Module, Residual, SeparableConv2d, Sequential, SpectrumConv2d
from ..training import Recipe

FORMS = ("separable", "pointwise first", "segments", "regular")


@dataclass(frozen=True)
class Design(Recipe):
    """A recipe whose network may differ from mini_xception.

    residual: whether its blocks have shortcuts (figure 9 of Chollet 2017). between: None, "relu" or "elu", inside of
    its separable convolutions (figure 10). form: "separable" (depthwise, then 1x1), "segments" (1x1, then 3x3 in so
    many ``segments`` of the channels: 3 are Inception-style), "pointwise first" (1x1, then depthwise: a segment for
    each channel) or "regular" (3x3 without a 1x1). fc_units: of fully connected layers with ReLU before the logits, as
    the paper's network for JFT has two.
    Raises ArgumentError for another form; ``make_model`` does for widths that the segments do not divide.
    """

    residual: bool = True
    between: str | None = None
    form: str = "separable"
    segments: int = 1
    fc_units: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in FORMS:
            raise ArgumentError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")

    def make_model(self, num_classes: int, image_shape: tuple[int, int, int]) -> Module:
        """The network, with fresh weights from the package's generator: those of mini_xception, where it has them."""
        model = super().make_model(num_classes, image_shape)
        if not self.residual:
            remove_residuals(model)
        activate_between(model, self.between)
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


def remove_residuals(model: Module) -> None:
    """Put the chain of each residual block into its place, in the network itself: the shortcuts are gone.

    >>> from minixception.models import mini_xception
    >>> model = mini_xception(10, widths=(8,), middle_blocks=1, stem=8)
    >>> remove_residuals(model)
    >>> type(model.block2).__name__
    'Sequential'
    """
    for name, block in model.children().items():
        if isinstance(block, Residual):
            setattr(model, name, Sequential(**{layer: getattr(block, layer) for layer in block.chain}))


def activate_between(model: Module, activation: str | None) -> None:
    """Let this activation stand between depthwise and pointwise in each separable convolution, in the network itself.

    >>> from minixception.models import mini_xception
    >>> model = mini_xception(10, widths=(8,), middle_blocks=1, stem=8)
    >>> activate_between(model, "relu")
    >>> model.block2.sepconv1.activation
    'relu'
    """
    for _, module in model.named_modules():
        if isinstance(module, SeparableConv2d):
            module.activation = activation


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
