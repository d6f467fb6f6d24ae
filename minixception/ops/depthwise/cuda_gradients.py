"""3. GPU: the gradients of depthwise convolution, a thread for each pixel and tap by tap: all rungs but the last."""

from __future__ import annotations

from typing import Any

from ...gpu.depthwise import LANES, WARPS, sum_of_warps
from ...gpu.kernel import THREADS, blocks, cuda, device_function, dtype, empty, flat, kernel
from ..window import Padding, extents

Array = Any  # an array of the GPU

# The input ----------------------------------------------------------------------------------------------------------
# Sending each dy to the pixels it came from would make threads add to one element at the same time, in an order that
# differs from run to run. Instead each pixel gathers from the outputs that it reached: row u reached row i through
# tap a = u + top - i*stride, where that is a row of the kernel. With stride 1 this is a convolution of dy with the
# kernel rotated by 180 degrees, which the tiles and the strips in cuda.py do.


@device_function
def _gathered_sum(dy, w, m, u, v, q, stride, top, left):
    total = dtype(0)
    for a in range((u + top) % stride, w.shape[0], stride):
        for b in range((v + left) % stride, w.shape[1], stride):
            i, j = (u + top - a) // stride, (v + left - b) // stride
            if 0 <= i < dy.shape[1] and 0 <= j < dy.shape[2]:
                total += dy[m, i, j, q] * w[a, b, q]
    return total


@kernel
def _gather_naive(dy, w, dx, stride, top, left):
    """dx, one pixel and channel per thread, neighbours along the width."""
    _, h, wd, c = dx.shape
    thread = cuda.grid(1)
    if thread < dx.size:
        v, u, q, m = thread % wd, thread // wd % h, thread // (wd * h) % c, thread // (wd * h * c)
        dx[m, u, v, q] = _gathered_sum(dy, w, m, u, v, q, stride, top, left)


@kernel
def _gather(dy, w, dx, gate, gated, stride, top, left):
    """dx, neighbours along the channels; where gated, 0 unless gate > 0."""
    _, h, wd, c = dx.shape
    thread = cuda.grid(1)
    if thread < dx.size:
        q, v, u, m = thread % c, thread // c % wd, thread // (c * wd) % h, thread // (c * wd * h)
        total = _gathered_sum(dy, w, m, u, v, q, stride, top, left)
        dx[m, u, v, q] = total if not gated or gate[m, u, v, q] > dtype(0) else dtype(0)


# The weights ----------------------------------------------------------------------------------------------------------
# Each weight's gradient is a sum over all outputs of the batch. Naive is a thread for each weight: too few for a GPU,
# each with a long sum, whose rounding error grows with its length. The other rungs have two stages. First stage: a
# block sums a share of the outputs, for 32 channels. Its warps take outputs in turn and write their sums to shared
# memory; after the barrier the sums of the 8 warps are added. Second stage: the same over the blocks' partial sums.
# Which thread adds what, and in which order, follows from the shape alone: the result has the same bits in every run,
# which atomic additions would not give. For 3x3 the first stage has strips as well: for 19 rows of outputs
# (4 * 21 + 2 * 19) / (2 * 19) = 3.2 reads per output instead of 18.

_BLOCKS = 2048  # of the first stage and a tap, at most: enough to fill a GPU
_PER_WARP = 16  # outputs of a warp, at least: few partial sums to write and read


def _shares(outputs: int, c: int) -> int:
    """Among how many blocks to share out so many outputs, for each 32 of c channels.

    >>> _shares(32 * 19 * 19, 728), _shares(9, 728)
    (89, 1)
    """
    return min(blocks(outputs, _PER_WARP * WARPS), max(1, _BLOCKS // blocks(c, LANES)))


@device_function
def _tap_product(x, dy, p, a, b, q, stride, top, left):
    """What output p, in channel q, adds to the gradient of tap (a, b)."""
    _, ho, wo, _ = dy.shape
    m, i, j = p // (wo * ho), p // wo % ho, p % wo
    u, v = i * stride + a - top, j * stride + b - left
    inside = 0 <= u < x.shape[1] and 0 <= v < x.shape[2]
    return dy[m, i, j, q] * x[m, u, v, q] if inside else dtype(0)


@kernel
def _weight_naive(x, dy, dw, stride, top, left):
    """A thread per weight, neighbours on neighbouring taps."""
    kh, kw, _ = dw.shape
    thread = cuda.grid(1)
    if thread < dw.size:
        b, a, q = thread % kw, thread // kw % kh, thread // (kw * kh)
        total = dtype(0)
        for p in range(dy.shape[0] * dy.shape[1] * dy.shape[2]):
            total += _tap_product(x, dy, p, a, b, q, stride, top, left)
        dw[a, b, q] = total


@kernel
def _tap_gradient(x, dy, partial, stride, top, left):
    """Any kernel: a block for each tap, so that dy and x are read once per tap."""
    n, ho, wo, c = dy.shape
    kw = partial.shape[2]
    tile = cuda.shared.array((1, WARPS, LANES), dtype)
    lane, warp = cuda.threadIdx.x, cuda.threadIdx.y
    q, a, b = cuda.blockIdx.y * LANES + lane, cuda.blockIdx.z // kw, cuda.blockIdx.z % kw
    total = dtype(0)
    if q < c:
        for p in range(cuda.blockIdx.x * WARPS + warp, n * ho * wo, cuda.gridDim.x * WARPS):
            total += _tap_product(x, dy, p, a, b, q, stride, top, left)
    tile[0, warp, lane] = total
    cuda.syncthreads()
    if warp == 0 and q < c:
        partial[cuda.blockIdx.x, a, b, q] = sum_of_warps(tile, 0, lane)


@kernel
def _add_partials(partial, dw):
    """partial (shares, kh*kw*c), dw (kh*kw*c): a block adds 32 neighbouring columns."""
    tile = cuda.shared.array((1, WARPS, LANES), dtype)
    lane, warp = cuda.threadIdx.x, cuda.threadIdx.y
    k = cuda.blockIdx.x * LANES + lane
    total = dtype(0)
    if k < dw.size:
        for share in range(warp, partial.shape[0], WARPS):
            total += partial[share, k]
    tile[0, warp, lane] = total
    cuda.syncthreads()
    if warp == 0 and k < dw.size:
        dw[k] = sum_of_warps(tile, 0, lane)


# How they are launched -----------------------------------------------------------------------------------------------


def gathered_naive(dy: Array, x: Array, w: Array, stride: int, padding: Padding) -> Array:
    """dx, neighbours along the width."""
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    dx = empty(x.shape, x.dtype)
    _gather_naive[blocks(dx.size), THREADS](dy, w, dx, stride, top, left)
    return dx


def weights_naive(dy: Array, x: Array, kernel: tuple[int, ...], stride: int, padding: Padding) -> Array:
    """dw, a thread for each."""
    (_, top), (_, left) = extents(x.shape, kernel, stride, padding)
    dw = empty(kernel, x.dtype)
    _weight_naive[blocks(dw.size), THREADS](x, dy, dw, stride, top, left)
    return dw


def gathered(dy: Array, x: Array, w: Array, stride: int, padding: Padding, relu: bool) -> Array:
    """dx, neighbours along the channels; behind a ReLU 0 where x is not positive."""
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    dx = empty(x.shape, x.dtype)
    _gather[blocks(dx.size), THREADS](dy, w, dx, x, relu, stride, top, left)
    return dx


def tap_by_tap(dy: Array, x: Array, kernel: tuple[int, ...], stride: int, padding: Padding) -> Array:
    """The first stage of dw: partial sums (shares, kh, kw, c)."""
    n, ho, wo, c = dy.shape
    kh, kw = kernel[:2]
    (_, top), (_, left) = extents(x.shape, kernel, stride, padding)
    partial = empty((_shares(n * ho * wo, c), kh, kw, c), x.dtype)
    grid = partial.shape[0], blocks(c, LANES), kh * kw
    _tap_gradient[grid, (LANES, WARPS)](x, dy, partial, stride, top, left)
    return partial


def add_shares(partial: Array) -> Array:
    """The second stage: dw (kh, kw, c) from partial sums (shares, kh, kw, c)."""
    dw = empty(partial.shape[1:], partial.dtype)
    _add_partials[blocks(dw.size, LANES), (LANES, WARPS)](partial.reshape(partial.shape[0], dw.size), flat(dw))
    return dw
