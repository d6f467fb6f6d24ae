"""2. CPU: the loops of depthwise and pointwise in turn, and the two fused."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from ...cpu import memory
from ...cpu.depthwise_forward import WINDOWS, filter_strip, window_of
from ...cpu.gemm import Epilogue, gemm, strip, sums_only
from ...cpu.jit import parallel, pasted, prange
from ...engine.op import Shape
from ..conv2d.products import pack_kernel, packed_shape
from ..depthwise import cpu as depthwise_cpu
from ..pointwise import cpu as pointwise_cpu
from ..window import Padding, extents
from .definition import chain_backward, chain_forward

# Loops --------------------------------------------------------------------------------------------------------------

forward_loops = chain_forward(depthwise_cpu.forward_loops, pointwise_cpu.forward_loops)
backward_loops = chain_backward(depthwise_cpu.forward_loops, depthwise_cpu.backward_loops, pointwise_cpu.backward_loops)

# Fast: forward ------------------------------------------------------------------------------------------------------
# Layer by layer, the depthwise result z of 19x19x728 is a megabyte that is written, and read again by the pointwise
# product. Here a task takes a strip of output pixels, filters them into a scratch buffer that stays in its core's L2
# cache, and multiplies the buffer by the packed weights. x is read once and y written once; a ReLU in front is a
# maximum on load. Inference runs the same kernel with its epilogue: batchnorm is then part of the weights, and
# bias, residual and ReLU are applied to the sums while they are still in registers. What is left is the matrix
# product, limited by the multipliers.


_RESIDENT = 1 << 16  # elements of packed weights that stay in L2 from strip to strip: 256 KiB of float32


@pasted
def read_next(x, packed, panel, panels, first, share):
    """What a strip asks for while it multiplies by a panel, and the next panel or strip will read, flat.

    The next panel, where all of them are too many for L2; otherwise the next strip's pixels of x, a part of them for
    each panel: they are ``share`` of all, from ``first`` on (fractions), but for the row that is there already.
    """
    if packed.size > _RESIDENT:
        size = packed.size // panels
        return packed.reshape(-1)[(panel + 1) * size : (panel + 2) * size]
    size = int(share * x.size) // panels
    begin = int(first * x.size) + x.shape[2] * x.shape[3] + panel * size
    return x.reshape(-1)[begin : begin + size]


def _fused_kernel(window: str) -> Any:
    @parallel
    def fused(x, floor, wd, packed, epilogue, y, scratch, stride, top, left, pixels):
        """y = f(max(x, floor) * wd * packed + bias + residual); scratch: (threads, pixels * ci); strips of ``pixels``.

        packed: the pointwise kernel by ``pack_kernel`` of ops/conv2d/products.py; the epilogue of cpu/gemm.py.
        """
        c = x.shape[3]
        n, ho, wo, co = y.shape
        panels, width = packed.shape[1], packed.shape[3]
        total = n * ho * wo
        ys, residuals = y.reshape(total, co), epilogue.residual.reshape(total, co)
        for task in prange((total + pixels - 1) // pixels):
            p0 = task * pixels
            p1 = min(total, p0 + pixels)
            buffer = scratch[numba.get_thread_id()]
            filter_strip(x, p0, p1, (ho, wo), floor, wd, buffer, (top, left), stride, window)
            z = buffer[: (p1 - p0) * c].reshape(p1 - p0, 1, 1, c)
            z = z[:, :, :, :c]  # of any strides, for Numba, like matrices of other products: ``strip`` compiles once
            for panel in range(panels):
                columns = slice(panel * width, min(co, (panel + 1) * width))
                bias, residual = epilogue.bias[columns], residuals[p0:p1, columns]
                after = Epilogue(residual, epilogue.add_residual, bias, epilogue.relu)
                ahead = read_next(x, packed, panel, panels, p1 / total, (p1 - p0) / total)
                strip(z, packed[0, panel : panel + 1, :c], ys[p0:p1, columns], after, ahead)

    return fused


FUSED = {window: _fused_kernel(window) for window in WINDOWS}

_STRIP = 3 << 15  # elements a task filters before it multiplies them: 384 KiB of float32 of a usual L2 of 1 MiB
_UNEVEN = 0.02  # more work for one thread than for another that strips of whole rows may cause


def strip_pixels(y: Shape, ci: int, threads: int | None = None) -> int:
    """Output pixels of a task: about _STRIP elements of z, and no thread has much more to do than another.

    Strips of whole pairs of rows are filtered fastest; where they would be shared out unevenly, any even number.
    threads: as many as run here, unless it is given.

    >>> 1 < strip_pixels((1, 147, 147, 128), 128) < 147 * 147
    True
    """
    wo, pixels, threads = y[2], math.prod(y[:3]), threads or numba.get_num_threads()
    rounds = max(1, round(pixels * ci / (_STRIP * threads)))
    even = math.ceil(pixels / (threads * rounds) / 2) * 2
    for whole in range(even // (2 * wo) * 2 * wo, even // 2, -2 * wo):
        busiest = math.ceil(math.ceil(pixels / whole) / threads) * whole
        if busiest * threads <= (1 + _UNEVEN) * pixels:
            return whole
    return even


def forward_cpu(
    x: np.ndarray, wd: np.ndarray, wp: np.ndarray, *, stride: int, padding: Padding, relu: bool
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Strip by strip: filter into L2, multiply from there."""
    ci, co = wp.shape
    (ho, top), (wo, left) = extents(x.shape, wd.shape, stride, padding)
    y = memory.empty((len(x), ho, wo, co), x.dtype)
    kernel = wp[None, None]  # (1, 1, ci, co)
    packed = memory.empty(packed_shape(kernel.shape, 1, x.dtype), x.dtype)
    pack_kernel(kernel, packed)
    pixels = strip_pixels(y.shape, ci)
    scratch = memory.empty((numba.get_num_threads(), pixels * ci), x.dtype)
    floor = depthwise_cpu.floor(x.dtype, relu)
    fused = FUSED[window_of(wd.shape, stride)]
    fused(x, floor, wd, packed, sums_only(y, False), y, scratch, stride, top, left, pixels)
    return y, (x, wd, wp, stride, padding, relu)


# Fast: backward -----------------------------------------------------------------------------------------------------
# z from x again, so that it need not be kept; then the two operators' own backward passes.


def backward_cpu(
    dy: np.ndarray, saved: tuple[Any, ...], wanted: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[np.ndarray | None, ...]:
    """The pointwise part's gradients, then the depthwise part's; nothing past the first that nobody wants."""
    x, wd, wp, stride, padding, relu = saved
    want_x, want_wd, want_wp = wanted
    ci, co = wp.shape
    rows = dy.reshape(-1, co)  # (pixels, co)
    dx = dwd = dwp = None
    least, none = depthwise_cpu.floor(x.dtype, relu), depthwise_cpu.floor(x.dtype, False)
    if want_wp:
        z = depthwise_cpu.filter_images(x, wd, stride, padding, least)
        dwp = gemm(z.reshape(-1, ci), rows, memory.empty(wp.shape, wp.dtype), transpose_a=True)
        del z  # its memory is free for dz
    if want_x or want_wd:
        dz = memory.empty((*dy.shape[:3], ci), dy.dtype)
        gemm(rows, wp, dz.reshape(-1, ci), transpose_b=True)
        if want_wd:
            dwd = depthwise_cpu.weight_gradient(dz, x, wd.shape, stride, padding, least)
        if want_x:
            dx = depthwise_cpu.input_gradient(dz, x, wd, stride, padding, none, relu)
    return dx, dwd, dwp
