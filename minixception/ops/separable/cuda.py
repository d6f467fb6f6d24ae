"""3. GPU: depthwise convolution with the ReLU in front, then the product of pointwise convolution; and both fused."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ...gpu.depthwise import LANES, WARPS
from ...gpu.kernel import Kernel, blocks, cuda, dtype, empty, flat, kernel
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
# ReLU, depthwise, pointwise, the shift that is left of a folded batchnorm, residual, ReLU: x is read and y written, no
# more. A block of 8 warps makes 8 strips of 4 pixels, and of these 128 output channels. It walks over the input
# channels in slabs of 32, and does three things with a slab:
#
# 1. Each warp filters its strip, a channel per lane. A row of pixels under the strip is loaded once, 6 pixels for a 3x3
#    kernel, and adds to all 4 sums: 18 pixels and 9 weights are read for 4 elements of z; one alone would take 9 and 9.
#    They go to shared memory.
# 2. All threads copy 32x128 weights of the product to shared memory. They lie there as in memory: ``pack`` has put the
#    panels of a slab one behind the other and filled them up with zeros, so that a copy needs no index but its own.
# 3. After a barrier each warp multiplies its strip, 4 output channels per lane: 4 elements of z, the same for all
#    lanes, and 4 weights, neighbours for neighbouring lanes, make 16 multiply-adds. The 16 sums stay in registers.
#    After a second barrier the next slab may overwrite this one.
#
# The price: z is made again for every 128 output channels, with 9 multiply-adds beside the 128 of the product. For each
# element of y and input channel that is (18 + 9) / 4 / 128 + 1 / 32 = 0.084 global reads; with z in memory, the product
# of gpu/gemm takes 1 / 64 + 1 / 64 = 0.031. Most of them hit a cache: blocks with neighbouring indices share
# pixels and run at the same time, so that x comes from memory once, and the weights from L2.
#
# The tile weighs this traffic against occupancy. 32 sums for each thread, 8 pixels or 8 channels, would read half as
# many weights or half as many pixels, but take the registers of twice as many warps. With 16 a thread gets by on 64
# registers, and half of the warps that a multiprocessor can hold are there to hide memory latency. Registers are
# the limit, not the 20 KiB of shared memory; on sm_75, which holds fewer warps, it is the other way round, and they are
# three quarters. Of the tiles of 16 sums, 64 pixels by 64 channels would make z twice as often: (18 + 9) / 4 / 64 +
# 1 / 64 = 0.121. What is the same for all slabs takes registers too: so the strip's place in y is worked out before
# them, but its place in x for each row again, although that is a division.

_STRIP = 4  # pixels of a warp, side by side
_EACH = 4  # output channels of a thread
_OUTPUTS = _EACH * LANES  # of a block
_SLAB = LANES  # input channels at a time
_PANEL = _SLAB * _OUTPUTS  # weights of a slab, for the outputs of a block
_THREADS = LANES * WARPS


@kernel
def _pack(wp, panels):
    """A block for each slab and each 128 outputs; neighbours on neighbouring output channels, as in wp."""
    c, co = wp.shape
    slabs = (c + _SLAB - 1) // _SLAB
    q0, o0 = cuda.blockIdx.x % slabs * _SLAB, cuda.blockIdx.x // slabs * _OUTPUTS
    for k in range(cuda.threadIdx.x, _PANEL, _THREADS):
        q, o = q0 + k // _OUTPUTS, o0 + k % _OUTPUTS
        panels[cuda.blockIdx.x * _PANEL + k] = wp[q, o] if q < c and o < co else dtype(0)


def pack(wp: Array) -> Array:
    """The weights (ci, co) as ``fused`` reads them: for each 128 output channels all input channels, zeros behind."""
    ci, co = wp.shape
    panels = blocks(ci, _SLAB) * blocks(co, _OUTPUTS)
    packed = empty((panels * _PANEL,), wp.dtype)
    _pack[panels, _THREADS](wp, packed)
    return packed


@cache
def _strips(kw: int, stride: int) -> Kernel:
    """The kernel for one width and stride: constants, so that the loops over columns are unrolled."""
    columns = (_STRIP - 1) * stride + kw  # under a strip

    @kernel
    def fused_strips(x, wd, panels, shift, residual, y, clamps, given, geometry):
        """clamps: the least value of x and of y that counts. given: whether there are a shift and a residual."""
        (floor, floor_after), (shifted, added) = clamps, given
        n, h, w, c, ho, wo, co, kh, top, left = geometry
        z = cuda.shared.array((WARPS, _STRIP, _SLAB), dtype)
        weights = cuda.shared.array(_PANEL, dtype)
        taps = cuda.local.array(kw, dtype)
        pixels = cuda.local.array(_STRIP, dtype)
        sums = cuda.local.array((_STRIP, _EACH), dtype)
        lane, warp = cuda.threadIdx.x & (LANES - 1), cuda.threadIdx.y & (WARPS - 1)  # see gpu/gemm/register_tiles.py
        across, tiles = (wo + _STRIP - 1) // _STRIP, (co + _OUTPUTS - 1) // _OUTPUTS
        strip, tile = cuda.blockIdx.x // tiles * WARPS + warp, cuda.blockIdx.x % tiles
        line, j0 = strip // across, strip % across * _STRIP  # lines of all images, one below the other
        exists = line < n * ho  # the last warps may have no strip: they filter nothing, but copy weights
        u0, v0 = line % ho * stride - top if exists else h, j0 * stride - left
        made, pixel = min(wo - j0, _STRIP) if exists else 0, line * wo + j0
        thread = warp * LANES + lane
        panel = tile * ((c + _SLAB - 1) // _SLAB) * _PANEL + thread
        for j in range(_STRIP):
            for s in range(_EACH):
                sums[j, s] = dtype(0)
        for q0 in range(0, c, _SLAB):
            q = q0 + lane
            for j in range(_STRIP):
                pixels[j] = dtype(0)
            for a in range(kh):
                if q < c and 0 <= u0 + a < h:
                    for b in range(kw):
                        taps[b] = wd[np.uint64((a * kw + b) * c + q)]
                    at = ((line // ho * h + u0 + a) * w + v0) * c + q
                    for k in range(columns):
                        value = dtype(0)
                        if k % stride < kw and 0 <= v0 + k < w:
                            value = x[np.uint64(at)]
                            value = floor if value < floor else value  # NaN is not less and stays
                        at += c
                        for j in range(_STRIP):
                            if 0 <= k - j * stride < kw:
                                pixels[j] += value * taps[k - j * stride]
            for j in range(_STRIP):
                z[warp, j, lane] = pixels[j]
            for k in range(0, _PANEL, _THREADS):
                weights[np.uint64(k + thread)] = panels[np.uint64(panel + k)]
            panel += _PANEL
            cuda.syncthreads()
            for k in range(min(_SLAB, c - q0)):
                for j in range(_STRIP):
                    pixels[j] = z[warp, j, k]
                for s in range(_EACH):
                    weight = weights[np.uint64(k * _OUTPUTS + s * LANES + lane)]
                    for j in range(_STRIP):
                        sums[j, s] += pixels[j] * weight
            cuda.syncthreads()
        for s in range(_EACH):
            o = tile * _OUTPUTS + s * LANES + lane
            if o < co:
                start = shift[np.uint64(o)] if shifted else dtype(0)
                at = pixel * co + o
                for j in range(_STRIP):
                    if j < made:
                        total = sums[j, s] + start
                        if added:
                            total += residual[np.uint64(at)]
                        y[np.uint64(at)] = floor_after if total < floor_after else total
                    at += co

    return fused_strips


def fused(
    x: Array,
    wd: Array,
    panels: Array,
    y: Array,
    stride: int,
    padding: Padding,
    relu: bool,
    shift: Array | None = None,
    residual: Array | None = None,
    relu_after: bool = False,
) -> Array:
    """y = pointwise(depthwise(x or relu(x))) + shift (co,) + residual, like y, or relu of it: in one pass, into y.

    panels: of the pointwise weights, see ``pack``. No gradients.
    """
    (ho, top), (wo, left) = extents(x.shape, wd.shape, stride, padding)
    n, _, _, co = y.shape
    grid = blocks(n * ho * blocks(wo, _STRIP), WARPS) * blocks(co, _OUTPUTS)
    _strips(wd.shape[1], stride)[grid, (LANES, WARPS)](
        *map(flat, (x, wd, panels, y if shift is None else shift, y if residual is None else residual, y)),
        (floor(x.dtype, relu), floor(x.dtype, relu_after)), (shift is not None, residual is not None),
        (*x.shape, ho, wo, co, wd.shape[0], top, left),
    )  # fmt: skip
    return y


def forward_cuda_fused(
    x: Array, wd: Array, wp: Array, *, stride: int, padding: Padding, relu: bool
) -> tuple[Array, tuple[Any, ...]]:
    """Without shift and residual, as an operator."""
    (ho, _), (wo, _) = extents(x.shape, wd.shape, stride, padding)
    y = empty((x.shape[0], ho, wo, wp.shape[1]), x.dtype)
    return fused(x, wd, pack(wp), y, stride, padding, relu), (x, wd, wp, stride, padding, relu)
