"""3. GPU: depthwise convolution with the ReLU in front, then the product of pointwise convolution; and both fused."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.gpu import blocks, cuda, dtype, empty, kernel
from ...kernels.gpu_strips import LANES, WARPS, flat
from ..depthwise import cuda as depthwise_cuda
from ..depthwise.cpu import floor
from ..pointwise import cuda as pointwise_cuda
from ..window import Padding, extents

Array = Any  # an array of the GPU

# In turn --------------------------------------------------------------------------------------------------------------


def forward_cuda(
    x: Array, wd: Array, wp: Array, *, stride: int, padding: Padding, relu: bool
) -> tuple[Array, tuple[Any, ...]]:
    """z through memory, the ReLU in front on the way in: x and z are read once and z and y written once."""
    z = depthwise_cuda.filter_images(x, wd, stride, padding, relu)  # (n, ho, wo, ci)
    y, _ = pointwise_cuda.forward_cuda(z, wp, stride=1)  # (n, ho, wo, co)
    return y, (x, wd, wp, stride, padding, relu)


def backward_cuda(
    dy: Array, saved: tuple[Any, ...], wanted: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[Array | None, ...]:
    """The pointwise part's gradients, then the depthwise part's; z from x again, so that it need not be kept."""
    x, wd, wp, stride, padding, relu = saved
    want_x, want_wd, want_wp = wanted
    if want_wp:
        z = depthwise_cuda.filter_images(x, wd, stride, padding, relu)
    else:
        z = empty((*dy.shape[:3], x.shape[3]), x.dtype)  # only its shape is asked for
    dz, dwp = pointwise_cuda.backward_cuda(dy, (z, wp, 1), (want_x or want_wd, want_wp))
    return (
        depthwise_cuda.input_gradient(dz, x, wd, stride, padding, relu) if want_x else None,
        depthwise_cuda.weight_gradient(dz, x, wd.shape, stride, padding, relu) if want_wd else None,
        dwp,
    )


# Fused: the whole block of Xception at inference ----------------------------------------------------------------------
# ReLU, depthwise, pointwise, the shift that is left of a folded batchnorm, residual: x is read and y written, no more.
# A block makes 64 pixels x 64 output channels of y. It walks over the input channels in slabs of 32. Each of 8 warps
# filters 8 pixels, a channel per lane, and puts these numbers of z into shared memory, while all copy 32x64 weights of
# the product there. After a barrier each thread multiplies 4 pixels by 4 channels: 8 numbers from shared memory make 16
# multiply-adds, and the 16 sums stay in registers. After a second barrier the next slab may overwrite this one.
# The price: z is made again for every 64 output channels. Per number of z that is 9 multiply-adds beside 64, and 9 + 9
# reads, which the L1 cache has; what is saved is writing z and reading it. That pays where channels are few, in the
# first layers; with 728 channels the product takes so long that z costs little either way.
# Rows of z are 33 numbers long: the two halves of a warp read numbers 4 rows apart, and 4 * 32 would be the same bank.

_PIXELS = 64
_OUTPUTS = 64  # channels of y
_SLAB = LANES  # channels of x
_EACH = 4  # pixels, and channels, of a thread's product
_ACROSS = _OUTPUTS // _EACH  # threads side by side
_PER_WARP = _PIXELS // WARPS  # pixels that a warp filters
_PADDED_SLAB = _SLAB + 1
_SUMS = _EACH * _EACH


@kernel
def _fused(x, floor, wd, wp, bias, has_bias, residual, has_residual, y, geometry):
    n, h, w, c, ho, wo, co, kh, kw, stride, top, left = geometry
    z = cuda.shared.array((_PIXELS, _PADDED_SLAB), dtype)
    weights = cuda.shared.array((_SLAB, _OUTPUTS), dtype)
    pixels = cuda.local.array(_EACH, dtype)
    sums = cuda.local.array(_SUMS, dtype)
    lane, warp = cuda.threadIdx.x & (LANES - 1), cuda.threadIdx.y & (WARPS - 1)  # see kernels/gpu_gemm.py, step 4
    thread = warp * LANES + lane
    row, column = thread // _ACROSS * _EACH, thread % _ACROSS  # of the product: 4 rows, and every 16th of 4 columns
    p0, o0 = cuda.blockIdx.x * _PIXELS, cuda.blockIdx.y * _OUTPUTS
    first = p0 + warp * _PER_WARP
    first_m, first_i, first_j = first // (wo * ho), first // wo % ho, first % wo
    for k in range(_SUMS):
        sums[k] = dtype(0)
    for q0 in range(0, c, _SLAB):
        q = q0 + lane
        m, i, j = first_m, first_i, first_j
        for k in range(warp * _PER_WARP, (warp + 1) * _PER_WARP):
            total = dtype(0)
            for a in range(kh if m < n and q < c else 0):
                u, v = i * stride + a - top, j * stride - left
                at = ((m * h + u) * w + v) * c + q
                if 0 <= u < h:
                    for b in range(kw):
                        if 0 <= v + b < w:
                            value = x[np.uint64(at + b * c)]
                            value = floor if value < floor else value  # NaN is not less and stays
                            total += value * wd[np.uint64((a * kw + b) * c + q)]
            z[k, lane] = total
            j += 1
            if j == wo:
                i, j = i + 1, 0
            if i == ho:
                m, i = m + 1, 0
        for k in range(warp, _SLAB, WARPS):
            for o in range(lane, _OUTPUTS, LANES):
                inside = q0 + k < c and o0 + o < co
                weights[k, o] = wp[np.uint64((q0 + k) * co + o0 + o)] if inside else dtype(0)
        cuda.syncthreads()
        for k in range(_SLAB):
            for r in range(_EACH):
                pixels[r] = z[row + r, k]
            for s in range(_EACH):
                weight = weights[k, column + s * _ACROSS]
                for r in range(_EACH):
                    sums[r * _EACH + s] += pixels[r] * weight
        cuda.syncthreads()
    for r in range(_EACH):
        for s in range(_EACH):
            p, o = p0 + row + r, o0 + column + s * _ACROSS
            if p < n * ho * wo and o < co:
                total = sums[r * _EACH + s]
                if has_bias:
                    total += bias[o]
                if has_residual:
                    total += residual[np.uint64(p * co + o)]
                y[np.uint64(p * co + o)] = total


def fused(
    x: Array,
    wd: Array,
    wp: Array,
    stride: int,
    padding: Padding,
    relu: bool,
    bias: Array | None = None,
    residual: Array | None = None,
) -> Array:
    """pointwise(depthwise(x or relu(x))) + bias (co,) + residual (n, ho, wo, co), in one pass; no gradients."""
    (ho, top), (wo, left) = extents(x.shape, wd.shape, stride, padding)
    y = empty((x.shape[0], ho, wo, wp.shape[1]), x.dtype)
    n, _, _, co = y.shape
    _fused[(blocks(n * ho * wo, _PIXELS), blocks(co, _OUTPUTS)), (LANES, WARPS)](
        flat(x), floor(x.dtype, relu), flat(wd), flat(wp),
        flat(y) if bias is None else bias, bias is not None,
        flat(y if residual is None else residual), residual is not None,
        flat(y), (*x.shape, ho, wo, co, *wd.shape[:2], stride, top, left),
    )  # fmt: skip
    return y


def forward_cuda_fused(
    x: Array, wd: Array, wp: Array, *, stride: int, padding: Padding, relu: bool
) -> tuple[Array, tuple[Any, ...]]:
    """Without bias and residual, as an operator."""
    return fused(x, wd, wp, stride, padding, relu), (x, wd, wp, stride, padding, relu)
