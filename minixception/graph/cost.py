"""What a network costs, layer by layer, from its shapes alone: nothing is computed.

MACs are multiply-accumulates of convolutions and matrix products, as is usual; batchnorm, activations and additions
count as none. Bytes are what a layer on its own must move: its inputs and parameters read once, its output
written once. MACs per byte (arithmetic intensity) say what limits a layer: below the machine's own ratio of peak
arithmetic to memory bandwidth it waits for memory, above for arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..engine.op import Shape
from ..nn import Module, SeparableConv2d
from ..tables import Table
from .trace import Layer, trace

_ITEM = 4  # bytes of a float32


@dataclass(frozen=True)
class Row:
    """One layer's cost for one image; output_shape is without the batch, bytes are for float32."""

    name: str
    kind: str
    output_shape: Shape
    params: int
    trainable: int
    macs: int
    bytes_read: int
    bytes_written: int

    @property
    def macs_per_byte(self) -> float:
        """Arithmetic intensity of the layer on its own."""
        moved = self.bytes_read + self.bytes_written
        return self.macs / moved if moved else 0.0


class CostTable:
    """The rows of ``table`` and their totals; prints as text, shows as HTML in a notebook."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    @property
    def params(self) -> int:
        """All parameters, batchnorm's running statistics included."""
        return sum(row.params for row in self.rows)

    @property
    def trainable(self) -> int:
        """Parameters that training changes."""
        return sum(row.trainable for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(row.macs for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain data: rows and totals."""
        rows = [asdict(row) | {"macs_per_byte": row.macs_per_byte} for row in self.rows]
        return {"layers": rows, "params": self.params, "trainable": self.trainable, "macs": self.macs}

    def _table(self) -> Table:
        header = ("layer", "kind", "output", "params", "MACs", "bytes read", "bytes written", "MACs/byte")
        rows = [
            (r.name, r.kind, "x".join(map(str, r.output_shape)), r.params, r.macs, r.bytes_read, r.bytes_written,
             r.macs_per_byte)
            for r in self.rows
        ]  # fmt: skip
        read, written = sum(r.bytes_read for r in self.rows), sum(r.bytes_written for r in self.rows)
        intensity = self.macs / (read + written)
        trained = f"{self.trainable:,} trainable"
        total = (f"{len(rows)} layers", "", trained, self.params, self.macs, read, written, intensity)
        return Table(header, rows, total)

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def layers(model: Module, input_shape: tuple[int, ...]) -> list[Layer]:
    """Every layer of the network with the shapes it sees for one image of input_shape (h, w, c)."""
    return trace(model, (1, *input_shape)).layers


def table(model: Module, input_shape: tuple[int, ...]) -> CostTable:
    """Parameters, MACs, bytes and arithmetic intensity per layer, for one image of input_shape (h, w, c).

    Takes milliseconds and no memory: operators only work out shapes. Raises ShapeError where a layer would.

    >>> import minixception as mx
    >>> mx.cost.table(mx.models.Xception(), (299, 299, 3)).macs
    8357403496
    """
    rows = [Row("input", "Input", tuple(input_shape), 0, 0, 0, 0, 0)]
    for layer in layers(model, input_shape):
        params = sum(t.data.size for t in layer.tensors)
        rows.append(
            Row(
                name=layer.path,
                kind=layer.kind,
                output_shape=layer.output[1:],
                params=params,
                trainable=sum(t.data.size for t in layer.tensors if t.requires_grad),
                macs=layer.macs,
                bytes_read=_ITEM * (params + sum(math.prod(shape) for shape in layer.inputs)),
                bytes_written=_ITEM * math.prod(layer.output),
            )
        )
    return CostTable(rows)


@dataclass(frozen=True)
class Alternative:
    """The network's separable convolutions replaced by another form: their own cost and the whole network's."""

    form: str
    params: int
    macs: int
    network_params: int
    network_macs: int


def regular_params(kernel: tuple[int, int], ci: int, co: int) -> int:
    """Parameters of a regular convolution, kh*kw*ci*co; times output pixels, its MACs."""
    return kernel[0] * kernel[1] * ci * co


def inception_params(kernel: tuple[int, int], ci: int, co: int, segments: int = 3) -> int:
    """Parameters of a 1x1 convolution to co channels and a spatial one on segments of them, as equal as they can be.

    Times output pixels: its MACs. Chollet 2017, figure 3.

    >>> inception_params((3, 3), 12, 12), inception_params((3, 3), 10, 10)
    (576, 406)
    """
    sizes = [co // segments + (i < co % segments) for i in range(segments)]
    return ci * co + kernel[0] * kernel[1] * sum(size * size for size in sizes)


def alternatives(model: Module, input_shape: tuple[int, ...]) -> list[Alternative]:
    """What the network would cost if its separable convolutions were regular or Inception-style (3 segments) ones.

    No rows for a network that has none.
    """
    all_layers = table(model, input_shape)
    separable = [layer for layer in layers(model, input_shape) if isinstance(layer.module, SeparableConv2d)]
    if not separable:
        return []
    own_params = sum(layer.module.num_parameters() for layer in separable if layer.module)
    own_macs = sum(layer.macs for layer in separable)
    result = [Alternative("separable (as built)", own_params, own_macs, all_layers.params, all_layers.macs)]
    forms = {"regular": regular_params, "Inception-style, 3 segments": inception_params}
    for form, count in forms.items():
        params = macs = 0
        for layer in separable:
            assert isinstance(layer.module, SeparableConv2d)
            (kh, kw, ci), co = layer.module.depthwise.shape, layer.output[3]
            params += count((kh, kw), ci, co)
            macs += count((kh, kw), ci, co) * layer.output[1] * layer.output[2]
        network = all_layers.params - own_params + params, all_layers.macs - own_macs + macs
        result.append(Alternative(form, params, macs, *network))
    return result


def alternatives_table(rows: Sequence[Alternative]) -> Table:
    """``alternatives`` as a table, with each form's factor over the separable one."""
    base = rows[0]
    header = ("form", "params", "x", "MACs", "x", "network params", "network MACs")
    cells = [
        (
            r.form,
            r.params,
            r.params / base.params,
            r.macs,
            r.macs / base.macs,
            r.network_params,
            r.network_macs,
        )
        for r in rows
    ]
    return Table(header, cells)
