"""3. GPU: pointwise convolution as matrix products, on each step of the ladder in gpu/gemm.

In NHWC each pixel is a row of a matrix, so nothing has to be moved: forward is the product (P, ci) (ci, co); the
gradient of the input is (P, co) (co, ci), with w read as its transpose; the gradient of the kernel is (ci, P) (P, co),
with x read as its transpose. With a stride, the pixels that count are first gathered, as on the CPU: a copy of
1/stride^2 of x beside a product that reads each row co times.
"""

from __future__ import annotations

from typing import Any

from ...engine.op import Rung
from ...gpu.gemm import (
    MATRIX_A,
    MATRIX_B,
    MATRIX_C,
    TRANSPOSED_A,
    TRANSPOSED_B,
    Step,
    coalesced,
    naive,
    register_tiled,
    tiled,
)
from ...gpu.kernel import THREADS, blocks, cuda, dtype, empty, kernel

# The pixels that a stride visits: a thread per element, neighbours on neighbouring channels --------------------------


@kernel
def _gather(x, stride, ho, wo, rows):
    t, c = cuda.grid(1), x.shape[3]
    if t < rows.size:
        pixel = t // c
        rows[t] = x[pixel // wo // ho, pixel // wo % ho * stride, pixel % wo * stride, t % c]


@kernel
def _spread(rows, stride, ho, wo, dx):
    t, c = cuda.grid(1), dx.shape[3]
    if t < dx.size:
        pixel = t // c
        m, u, v = pixel // dx.shape[2] // dx.shape[1], pixel // dx.shape[2] % dx.shape[1], pixel % dx.shape[2]
        visited = u % stride == 0 and v % stride == 0
        row = (m * ho + u // stride) * wo + v // stride
        dx[m, u, v, t % c] = rows[row * c + t % c] if visited else dtype(0)


# The three products --------------------------------------------------------------------------------------------------


def rung(step: Step) -> Rung:
    """The operator on one step of the ladder."""
    product = step(MATRIX_A, MATRIX_B, MATRIX_C)
    input_product = step(MATRIX_A, TRANSPOSED_B, MATRIX_C)
    weight_product = step(TRANSPOSED_A, MATRIX_B, MATRIX_C)

    def forward(x: Any, w: Any, *, stride: int) -> tuple[Any, tuple[Any, ...]]:
        """One matrix product (P, ci) (ci, co)."""
        n, h, wd, _ = x.shape
        ci, co = w.shape
        y = empty((n, -(-h // stride), -(-wd // stride), co), x.dtype)
        return product(_pixels(x, y, stride), w, y, (y.size // co, co, ci)), (x, w, stride)

    def backward(
        dy: Any, saved: tuple[Any, ...], wanted: tuple[bool, bool] = (True, True)
    ) -> tuple[Any | None, Any | None]:
        """dx = dy w^T and dw = x^T dy, each only if it is wanted."""
        x, w, stride = saved
        return (
            input_gradient(dy, x, w, stride) if wanted[0] else None,
            weight_gradient(dy, x, w, stride) if wanted[1] else None,
        )

    def input_gradient(dy: Any, x: Any, w: Any, stride: int) -> Any:
        ci, co = w.shape
        pixels = dy.size // co
        dx = empty(x.shape, x.dtype)
        rows = dx if stride == 1 else empty((pixels * ci,), x.dtype)
        input_product(dy, w, rows, (pixels, ci, co))
        if stride > 1:
            _spread[blocks(dx.size), THREADS](rows, stride, *dy.shape[1:3], dx)
        return dx

    def weight_gradient(dy: Any, x: Any, w: Any, stride: int) -> Any:
        ci, co = w.shape
        shape = (ci, co, dy.size // co)
        return weight_product(_pixels(x, dy, stride), dy, empty(w.shape, w.dtype), shape, split=True)

    return Rung(forward, backward, selective=True)


def _pixels(x: Any, y: Any, stride: int) -> Any:
    """The pixels of x that y was made of, one after the other."""
    if stride == 1:
        return x
    _, ho, wo, _ = y.shape
    rows = empty((y.shape[0] * ho * wo * x.shape[3],), x.dtype)
    _gather[blocks(rows.size), THREADS](x, stride, ho, wo, rows)
    return rows


NAIVE, COALESCED, TILED, FAST = rung(naive), rung(coalesced), rung(tiled), rung(register_tiled)
forward_cuda, backward_cuda = FAST.forward, FAST.backward
