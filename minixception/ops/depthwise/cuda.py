"""3. GPU: depthwise convolution in four steps, from a thread per output to blocks of registers.

A GPU runs threads in warps of 32 that execute one instruction together. A load of a warp fetches whole sectors of 32
bytes: if its threads ask for neighbours ("coalesced"), four sectors serve 32 numbers of float32; if they ask for
numbers far apart, each needs a sector of its own, and most of what moves is thrown away. Channels are innermost in
memory, so in every rung but the first the lanes of a warp are 32 neighbouring channels, or nearly. All of them look at
the same pixel: no "is it inside of the image" splits a warp.

A 3x3 kernel does 9 multiply-adds for each 8 bytes that must move. Memory is the limit; the rungs differ in how often
they ask for the same number, in global reads per output for a 3x3 kernel with stride 1:

    cuda_naive      9 + 9 (inputs + weights)  = 18      each a sector for itself
    cuda_coalesced  9 + 9                     = 18      four sectors for 32 of them; many hit the L1 cache
    cuda_tiled      10*10/64 + 9/64           = 1.70    and 9 + 9 reads of shared memory, which now is the limit
    cuda            6*10/32 + 9/32            = 2.16    and no others: what is needed again stays in registers
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...kernels.gpu import THREADS, blocks, cuda, device_function, dtype, empty, kernel
from ...kernels.gpu_strips import LANES, WARPS, Size, correlate_kernel, filter_kernel, flat, sum_of_warps
from ..activation import RELU
from ..window import Padding, extents
from .cpu import floor

Array = Any  # an array of the GPU

# A thread per output ----------------------------------------------------------------------------------------------
# The formula. Naive numbers the threads along a row of the image, as one would in NCHW: neighbours are c numbers apart.
# Coalesced numbers them along the channels. Nothing else differs.


@device_function
def _window_sum(x, w, m, i, j, q, stride, top, left):
    total = dtype(0)
    for a in range(w.shape[0]):
        for b in range(w.shape[1]):
            u, v = i * stride + a - top, j * stride + b - left
            if 0 <= u < x.shape[1] and 0 <= v < x.shape[2]:
                total += x[m, u, v, q] * w[a, b, q]
    return total


@kernel
def _forward_naive(x, w, y, stride, top, left):
    _, ho, wo, c = y.shape
    number = cuda.grid(1)
    if number < y.size:
        j, i, q, m = number % wo, number // wo % ho, number // (wo * ho) % c, number // (wo * ho * c)
        y[m, i, j, q] = _window_sum(x, w, m, i, j, q, stride, top, left)


@kernel
def _forward_coalesced(x, w, y, stride, top, left):
    _, ho, wo, c = y.shape
    number = cuda.grid(1)
    if number < y.size:
        q, j, i, m = number % c, number // c % wo, number // (c * wo) % ho, number // (c * wo * ho)
        y[m, i, j, q] = _window_sum(x, w, m, i, j, q, stride, top, left)


# A tile in shared memory --------------------------------------------------------------------------------------------
# A block of 8 warps makes a square of outputs for 32 channels. Together its threads copy the pixels under the square
# (with the rim that its windows reach over, the "halo") and the weights into shared memory, a small memory beside the
# processors that only the block sees. The barrier waits until all have copied; then every window is read from there.
# 8x8 outputs of a 3x3 kernel need 10x10 pixels: 1.56 global reads per output. The lanes of a warp read 32 neighbouring
# numbers of shared memory, which lie in its 32 banks, one each: no conflicts, and no need to pad rows.
# Two reads for each multiply-add is more than shared memory delivers at the speed of global memory.

_SIDE = 8  # of the square of outputs, where it fits
SHARED = 5632  # numbers: 22 KiB of float32, so that two blocks fit even on the smallest; 44 of at most 48 of float64


@kernel
def _forward_tiled(x, w, y, stride, top, left, side):
    _, h, wd, c = x.shape
    kh, kw, _ = w.shape
    _, ho, wo, _ = y.shape
    shared = cuda.shared.array(SHARED, dtype)
    lane, warp = cuda.threadIdx.x, cuda.threadIdx.y
    q = cuda.blockIdx.y * LANES + lane
    across = (wo + side - 1) // side
    down = (ho + side - 1) // side
    j0, i0 = cuda.blockIdx.x % across * side, cuda.blockIdx.x // across % down * side
    m = cuda.blockIdx.x // (across * down)
    height, width = (side - 1) * stride + kh, (side - 1) * stride + kw
    for p in range(warp, height * width, WARPS):
        u, v = i0 * stride + p // width - top, j0 * stride + p % width - left
        inside = 0 <= u < h and 0 <= v < wd and q < c
        shared[p * LANES + lane] = x[m, u, v, q] if inside else dtype(0)
    weights = height * width * LANES  # they lie behind the pixels
    for tap in range(warp, kh * kw, WARPS):
        shared[weights + tap * LANES + lane] = w[tap // kw, tap % kw, q] if q < c else dtype(0)
    cuda.syncthreads()  # no thread has returned before: all of a block must arrive
    for p in range(warp, side * side, WARPS):
        i, j = p // side, p % side
        if i0 + i < ho and j0 + j < wo and q < c:
            total = dtype(0)
            for a in range(kh):
                for b in range(kw):
                    pixel = (i * stride + a) * width + j * stride + b
                    total += shared[pixel * LANES + lane] * shared[weights + (a * kw + b) * LANES + lane]
            y[m, i0 + i, j0 + j, q] = total


def tile_side(kernel: tuple[int, ...], stride: int) -> int:
    """The largest square of outputs whose pixels and weights fit into shared memory; 0 if none does."""
    kh, kw = kernel[:2]
    for side in (_SIDE, _SIDE // 2, _SIDE // 4, 1):
        if (((side - 1) * stride + kh) * ((side - 1) * stride + kw) + kh * kw) * LANES <= SHARED:
            return side
    return 0


# Strips in registers -----------------------------------------------------------------------------------------------
# kernels/gpu_strips.py; for the kernels that Xception has. Other sizes have the tile above.

_FILTERS: dict[Size, Callable[..., None]] = {
    (3, 3, 1): filter_kernel((3, 3, 1), columns=4, turned=False),
    (3, 3, 2): filter_kernel((3, 3, 2), columns=2, turned=False),
}
# Two columns less: their registers are needed for the gate, the x of a ReLU in front.
_TURNED_FILTERS: dict[Size, Callable[..., None]] = {(3, 3, 1): filter_kernel((3, 3, 1), columns=2, turned=True)}


# Backward: the input ------------------------------------------------------------------------------------------------
# Sending each dy to the pixels it came from would make threads add to one number at the same time, in an order that
# differs from run to run. Instead each pixel gathers from the outputs that it reached: row u reached row i through
# tap a = u + top - i*stride, where that is a row of the kernel. With stride 1 this is a convolution of dy with the
# kernel turned by half a turn, which the strips above do.


@kernel
def _gather(dy, w, dx, gate, gated, stride, top, left):
    """dx, one pixel and channel per thread, coalesced along the channels; where gated, 0 unless gate > 0."""
    _, h, wd, c = dx.shape
    _, ho, wo, _ = dy.shape
    number = cuda.grid(1)
    if number < dx.size:
        q, v, u, m = number % c, number // c % wd, number // (c * wd) % h, number // (c * wd * h)
        total = dtype(0)
        for a in range((u + top) % stride, w.shape[0], stride):
            for b in range((v + left) % stride, w.shape[1], stride):
                i, j = (u + top - a) // stride, (v + left - b) // stride
                if 0 <= i < ho and 0 <= j < wo:
                    total += dy[m, i, j, q] * w[a, b, q]
        dx[m, u, v, q] = total if not gated or gate[m, u, v, q] > dtype(0) else dtype(0)


# Backward: the weights ----------------------------------------------------------------------------------------------
# Each weight's gradient is a sum over all outputs of the batch. First stage: a block sums a share of them, for 32
# channels. Its warps take outputs in turn and lay their sums into shared memory; after the barrier the sums of the 8
# warps are added. Second stage: the same over the blocks' partial sums. Which thread adds what, and in which order,
# follows from the shape alone: the result has the same bits in every run, which atomic additions would not give.
# For 3x3 the first stage has strips as well: for 19 rows of outputs (4 * 21 + 2 * 19) / (2 * 19) = 3.2 reads per output
# instead of 18.

_BLOCKS = 2048  # of the first stage and a tap, at most: enough to fill a GPU
_PER_WARP = 16  # outputs of a warp, at least: few partial sums to write and read


def _shares(outputs: int, c: int) -> int:
    """Among how many blocks to share out so many outputs, for each 32 of c channels.

    >>> _shares(32 * 19 * 19, 728), _shares(9, 728)
    (89, 1)
    """
    return min(blocks(outputs, _PER_WARP * WARPS), max(1, _BLOCKS // blocks(c, LANES)))


@kernel
def _tap_gradient(x, dy, partial, stride, top, left):
    """Any kernel: a block for each tap, so that dy and x are read once per tap."""
    _, h, wd, c = x.shape
    n, ho, wo, _ = dy.shape
    kw = partial.shape[2]
    tile = cuda.shared.array((1, WARPS, LANES), dtype)
    lane, warp = cuda.threadIdx.x, cuda.threadIdx.y
    q, a, b = cuda.blockIdx.y * LANES + lane, cuda.blockIdx.z // kw, cuda.blockIdx.z % kw
    total = dtype(0)
    if q < c:
        for p in range(cuda.blockIdx.x * WARPS + warp, n * ho * wo, cuda.gridDim.x * WARPS):
            m, i, j = p // (wo * ho), p // wo % ho, p % wo
            u, v = i * stride + a - top, j * stride + b - left
            if 0 <= u < h and 0 <= v < wd:
                total += dy[m, i, j, q] * x[m, u, v, q]
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


_CORRELATIONS: dict[Size, Callable[..., Array]] = {
    (3, 3, 1): correlate_kernel((3, 3, 1), columns=2),
    (3, 3, 2): correlate_kernel((3, 3, 2), columns=1),
}


# The rungs ------------------------------------------------------------------------------------------------------------

_Forward = tuple[Array, tuple[Any, ...]]


def forward_cuda_naive(x: Array, w: Array, *, stride: int, padding: Padding) -> _Forward:
    """A thread per output, neighbours along the width."""
    return _per_output(_forward_naive, x, w, stride, padding), (x, w, stride, padding)


def forward_cuda_coalesced(x: Array, w: Array, *, stride: int, padding: Padding) -> _Forward:
    """A thread per output, neighbours along the channels."""
    return _per_output(_forward_coalesced, x, w, stride, padding), (x, w, stride, padding)


def forward_cuda_tiled(x: Array, w: Array, *, stride: int, padding: Padding) -> _Forward:
    """Tiles with their halo in shared memory."""
    return _tiled(x, w, stride, padding), (x, w, stride, padding)


def forward_cuda(x: Array, w: Array, *, stride: int, padding: Padding) -> _Forward:
    """Strips in registers; kernels other than 3x3 and strides above 2 by tiles."""
    return filter_images(x, w, stride, padding, relu=False), (x, w, stride, padding)


def _per_output(kernel: Any, x: Array, w: Array, stride: int, padding: Padding) -> Array:
    y, top, left = _output(x, w, stride, padding)
    kernel[blocks(y.size), THREADS](x, w, y, stride, top, left)
    return y


def _tiled(x: Array, w: Array, stride: int, padding: Padding) -> Array:
    side = tile_side(w.shape, stride)
    if not side:
        return _per_output(_forward_coalesced, x, w, stride, padding)
    y, top, left = _output(x, w, stride, padding)
    n, ho, wo, c = y.shape
    grid = n * blocks(ho, side) * blocks(wo, side), blocks(c, LANES)
    _forward_tiled[grid, (LANES, WARPS)](x, w, y, stride, top, left, side)
    return y


def _output(x: Array, w: Array, stride: int, padding: Padding) -> tuple[Array, int, int]:
    """The array for y, and the padding above and to the left of x."""
    (ho, top), (wo, left) = extents(x.shape, w.shape, stride, padding)
    return empty((x.shape[0], ho, wo, x.shape[3]), x.dtype), top, left


_Wanted = tuple[bool, bool]
_Gradients = tuple[Array | None, Array | None]


def backward_cuda_simple(dy: Array, saved: tuple[Any, ...], wanted: _Wanted = (True, True)) -> _Gradients:
    """For the rungs below the last: a thread per pixel gathers dx; dw is summed tap by tap, in two stages."""
    x, w, stride, padding = saved
    return (
        _gathered(dy, x, w, stride, padding, relu=False) if wanted[0] else None,
        _add(_tap_by_tap(dy, x, w.shape, stride, padding)) if wanted[1] else None,
    )


def backward_cuda(dy: Array, saved: tuple[Any, ...], wanted: _Wanted = (True, True)) -> _Gradients:
    """Strips in registers for both gradients, where there are such."""
    x, w, stride, padding = saved
    return (
        input_gradient(dy, x, w, stride, padding, relu=False) if wanted[0] else None,
        weight_gradient(dy, x, w.shape, stride, padding, relu=False) if wanted[1] else None,
    )


def _gathered(dy: Array, x: Array, w: Array, stride: int, padding: Padding, relu: bool) -> Array:
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    dx = empty(x.shape, x.dtype)
    _gather[blocks(dx.size), THREADS](dy, w, dx, x, relu, stride, top, left)
    return dx


def _tap_by_tap(dy: Array, x: Array, kernel: tuple[int, ...], stride: int, padding: Padding) -> Array:
    n, ho, wo, c = dy.shape
    kh, kw = kernel[:2]
    (_, top), (_, left) = extents(x.shape, kernel, stride, padding)
    partial = empty((_shares(n * ho * wo, c), kh, kw, c), x.dtype)
    grid = partial.shape[0], blocks(c, LANES), kh * kw
    _tap_gradient[grid, (LANES, WARPS)](x, dy, partial, stride, top, left)
    return partial


def _add(partial: Array) -> Array:
    """The second stage: dw (kh, kw, c) from partial sums (shares, kh, kw, c)."""
    dw = empty(partial.shape[1:], partial.dtype)
    _add_partials[blocks(dw.size, LANES), (LANES, WARPS)](partial.reshape(partial.shape[0], dw.size), flat(dw))
    return dw


# The three passes as functions, for separable convolution to use as well; relu: of x, on the way in.


def filter_images(x: Array, w: Array, stride: int, padding: Padding, relu: bool) -> Array:
    """y, the forward pass."""
    fast = _FILTERS.get((w.shape[0], w.shape[1], stride))
    if fast is None:
        return _tiled(_relu(x) if relu else x, w, stride, padding)
    y, top, left = _output(x, w, stride, padding)
    fast(x, floor(x.dtype, relu), w, y, None, (top, left))
    return y


def input_gradient(dy: Array, x: Array, w: Array, stride: int, padding: Padding, relu: bool) -> Array:
    """dx, the gradient of the input; behind a ReLU 0 where x is not positive."""
    fast = _TURNED_FILTERS.get((w.shape[0], w.shape[1], stride))
    if fast is None:
        return _gathered(dy, x, w, stride, padding, relu)
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    dx = empty(x.shape, x.dtype)
    fast(dy, floor(dy.dtype, False), w, dx, x if relu else None, (w.shape[0] - 1 - top, w.shape[1] - 1 - left))
    return dx


def weight_gradient(dy: Array, x: Array, kernel: tuple[int, ...], stride: int, padding: Padding, relu: bool) -> Array:
    """dw (kh, kw, c)."""
    fast = _CORRELATIONS.get((kernel[0], kernel[1], stride))
    if fast is None:
        return _add(_tap_by_tap(dy, _relu(x) if relu else x, kernel, stride, padding))
    (_, top), (_, left) = extents(x.shape, kernel, stride, padding)
    return _add(fast(x, floor(x.dtype, relu), dy, (top, left)))


def _relu(x: Array) -> Array:
    return RELU.rungs["cuda"].forward(x)[0]
