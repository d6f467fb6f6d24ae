"""Modules made of layers: chains, residual connections, and the paper's way from Inception to Xception."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, overload

from ..engine.tensor import Tensor
from ..errors import ArgumentError
from .layers import Activation, Add, AvgPool2d, BatchNorm2d, Concat, Conv2d, PointwiseConv2d
from .module import Module


class ModuleList(Module):
    """Layers in a row, numbered or named, which a forward pass of your own calls as it likes.

    Their parameters are those of the module that it is set in; a plain list of layers is refused there. Takes modules
    one by one or in a list. Has a length, is iterated over, and ``layers[i]`` is a layer, ``layers[1:3]`` some of them.
    Raises ArgumentError for what is no module.

    >>> layers = ModuleList([PointwiseConv2d(3, 8), BatchNorm2d(8)])
    >>> len(layers), type(layers[-1]).__name__, [name for name, _ in layers.named_parameters()]
    (2, 'BatchNorm2d', ['0.weight', '1.gamma', '1.beta'])
    """

    def __init__(self, *layers: Module | Iterable[Module], **named: Module) -> None:
        flat = [one for layer in layers for one in ([layer] if isinstance(layer, Module) else _several(layer))]
        self.chain = [str(i) for i in range(len(flat))] + list(named)  # attribute names, in order
        for name, layer in zip(self.chain, [*flat, *named.values()], strict=True):
            if not isinstance(layer, Module):
                raise ArgumentError(
                    f"{type(self).__name__} takes modules, got {layer!r:.80} as layer {name!r}: functions have layers "
                    'of their own, such as Activation("relu")'
                )
            vars(self)[name] = layer

    def __len__(self) -> int:
        return len(self.chain)

    def __iter__(self) -> Iterator[Module]:
        return (vars(self)[name] for name in self.chain)

    @overload
    def __getitem__(self, index: int) -> Module: ...

    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...

    def __getitem__(self, index: int | slice) -> Module:
        layers = list(self)[index]
        return layers if isinstance(layers, Module) else type(self)(*layers)

    def __bool__(self) -> bool:
        return True  # also without layers: what asks whether there is a module means this one


class Sequential(ModuleList):
    """Layers one after the other, numbered or named; otherwise like ``ModuleList``.

    >>> model = Sequential(conv=PointwiseConv2d(3, 8), bn=BatchNorm2d(8))
    >>> list(model.children()), model[0] is model.conv
    (['conv', 'bn'], True)
    """

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


def _several(layers: Any) -> Iterable[Any]:
    return layers if isinstance(layers, Iterable) and not isinstance(layers, str | Mapping) else [layers]


class Residual(Sequential):
    """A chain of layers and a way around it: y = chain(x) + shortcut(x).

    shortcut: None for the identity. It reads x as it comes in, before any activation that the chain starts with.
    Source: He et al. 2015; Chollet 2017, section 4.6 ("essential in helping with convergence").
    """

    def __init__(self, *layers: Module, shortcut: Module | None = None, **named: Module) -> None:
        super().__init__(*layers, **named)
        self.shortcut = shortcut
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        return self.add(super().forward(x), x if self.shortcut is None else self.shortcut(x))


class Branches(Module):
    """Modules side by side on one input, their channels joined: (n, h, w, c) -> (n, h, w, sum of their channels).

    trunk: modules, by name, through which the input goes first, one after the other.

    >>> Branches({"1": PointwiseConv2d(3, 8)}, across=Conv2d(8, 2, (1, 3)), down=Conv2d(8, 4, (3, 1))).children().keys()
    dict_keys(['1', 'across', 'down', 'concat'])
    """

    def __init__(self, trunk: Mapping[str, Module] | None = None, **branches: Module) -> None:
        self.trunk_names, self.branch_names = list(trunk or ()), list(branches)  # attributes, in order
        vars(self).update({**(trunk or {}), **branches})
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        for name in self.trunk_names:
            x = getattr(self, name)(x)
        return self.concat(*[getattr(self, name)(x) for name in self.branch_names])


def _conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int) -> Sequential:
    """The unit Inception is made of: convolution, batchnorm, ReLU."""
    conv: Module = (
        PointwiseConv2d(in_channels, out_channels)
        if kernel_size == 1
        else Conv2d(in_channels, out_channels, kernel_size)
    )
    return Sequential(conv=conv, bn=BatchNorm2d(out_channels), act=Activation("relu"))


class InceptionModule(Module):
    """The paper's Inception module in one of three forms, (n, h, w, in_channels) -> (n, h, w, out_channels).

    form 1 (figure 1, canonical): towers 1x1 | 1x1 -> 3x3 | 1x1 -> 3x3 -> 3x3 | average pool -> 1x1, each making a
    quarter of the output.
    form 2 (figure 2, simplified): three towers 1x1 -> 3x3, a third of the output each.
    form 3 (figure 3, equivalent to form 2): one 1x1 over all channels, then 3x3 on three separate segments of it.
    Each convolution is followed by batchnorm and ReLU. Raises ArgumentError unless the output divides evenly.
    Source: Chollet 2017, section 1.1, figures 1 to 3.
    """

    def __init__(self, in_channels: int, out_channels: int, form: int = 1) -> None:
        towers = {1: 4, 2: 3, 3: 3}.get(form)
        if towers is None:
            raise ArgumentError(f"InceptionModule: form must be 1, 2 or 3 (the paper's figures), got {form!r}")
        if out_channels % towers:
            raise ArgumentError(
                f"InceptionModule: form {form} needs out_channels in {towers} equal parts, got {out_channels}"
            )
        part = out_channels // towers
        if form == 1:
            self.tower1 = _conv_bn_relu(in_channels, part, 1)
            self.tower2 = Sequential(_conv_bn_relu(in_channels, part, 1), _conv_bn_relu(part, part, 3))
            self.tower3 = Sequential(
                _conv_bn_relu(in_channels, part, 1),
                _conv_bn_relu(part, part, 3),
                _conv_bn_relu(part, part, 3),
            )
            self.tower4 = Sequential(AvgPool2d(3, 1, "same"), _conv_bn_relu(in_channels, part, 1))
        elif form == 2:
            for number in range(1, 4):
                tower = Sequential(_conv_bn_relu(in_channels, part, 1), _conv_bn_relu(part, part, 3))
                setattr(self, f"tower{number}", tower)
        else:
            self.tower1 = Sequential(
                _conv_bn_relu(in_channels, out_channels, 1),
                Conv2d(out_channels, out_channels, 3, groups=3),
                BatchNorm2d(out_channels),
                Activation("relu"),
            )
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        towers = [child(x) for name, child in self.children().items() if name.startswith("tower")]
        return self.concat(*towers) if len(towers) > 1 else towers[0]


class SpectrumConv2d(Module):
    """A 1x1 convolution, then a spatial one on ``segments`` independent segments of the channels.

    segments = 1 is a regular convolution behind a 1x1, 3 or 4 is Inception, out_channels is the "extreme" Inception:
    a spatial convolution per channel. Linear throughout, so that only the convolutions differ.
    Raises ArgumentError unless segments divides out_channels. Parameters: in*out + k*k*out*out/segments.
    Source: Chollet 2017, section 1.2 ("a discrete spectrum").

    >>> [SpectrumConv2d(12, 12, segments=g).num_parameters() for g in (1, 3, 12)]
    [1440, 576, 252]
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, segments: int = 1) -> None:
        self.pointwise = PointwiseConv2d(in_channels, out_channels)
        self.spatial = Conv2d(out_channels, out_channels, kernel_size, groups=segments)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial(self.pointwise(x))
