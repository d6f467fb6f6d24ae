"""3. GPU: depthwise convolution in four steps, from a thread per output to blocks of registers.

A GPU runs threads in warps of 32 that execute one instruction together. A load of a warp fetches whole sectors of 32
bytes: if its threads ask for neighbours ("coalesced"), four sectors serve 32 values of float32; if they ask for
values far apart, each needs a sector of its own, and most of what moves is thrown away. Channels are innermost in
memory, so in every rung but the first the lanes of a warp are 32 neighbouring channels, or nearly. All of them look at
the same pixel: no "is it inside of the image" splits a warp.

A 3x3 kernel does 9 multiply-adds for each 8 bytes that must move. Memory is the limit; the rungs differ in how often
they ask for the same value, in global reads per output for a 3x3 kernel with stride 1:

    cuda_naive      9 + 9 (inputs + weights)  = 18      each a sector for itself
    cuda_coalesced  9 + 9                     = 18      four sectors for 32 of them; many hit the L1 cache
    cuda_tiled      10*10/64 + 9/64           = 1.70    and 9 + 9 reads of shared memory: see below
    cuda            6*10/32 + 9/32            = 2.16    and no others: what is needed again stays in registers

The backward pass has the same steps: for the gradient of the input with stride 1 it is the same convolution, of dy with
the kernel rotated by 180 degrees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...gpu.depthwise import LANES, WARPS, Size, correlate_kernel, filter_kernel
from ...gpu.kernel import THREADS, blocks, cuda, device_function, dtype, empty, kernel
from ..activation import RELU
from ..window import Padding, extents
from .cpu import floor
from .cuda_gradients import add_shares, gathered, gathered_naive, tap_by_tap, weights_naive

Array = Any  # an array of the GPU

# A thread per output ----------------------------------------------------------------------------------------------
# The formula. Naive counts the threads along a row of the image, as one would in NCHW: neighbours are c elements apart.
# Coalesced counts them along the channels. Nothing else differs.


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
    thread = cuda.grid(1)
    if thread < y.size:
        j, i, q, m = thread % wo, thread // wo % ho, thread // (wo * ho) % c, thread // (wo * ho * c)
        y[m, i, j, q] = _window_sum(x, w, m, i, j, q, stride, top, left)


@kernel
def _forward_coalesced(x, w, y, stride, top, left):
    _, ho, wo, c = y.shape
    thread = cuda.grid(1)
    if thread < y.size:
        q, j, i, m = thread % c, thread // c % wo, thread // (c * wo) % ho, thread // (c * wo * ho)
        y[m, i, j, q] = _window_sum(x, w, m, i, j, q, stride, top, left)


# A tile in shared memory --------------------------------------------------------------------------------------------
# A block of 8 warps makes a square of outputs for 32 channels. Together its threads copy the pixels under the square
# (with the rim that its windows reach over, the "halo") and the weights into shared memory, a small memory beside the
# processors that only the block sees. The barrier waits until all have copied; then every window is read from there.
# 8x8 outputs of a 3x3 kernel need 10x10 pixels: 1.56 global reads per output. The lanes of a warp read 32 neighbouring
# values in shared memory, which lie in its 32 banks, one each: no conflicts, and no need to pad rows.
# Two reads for each multiply-add is more than shared memory delivers at the speed of global memory. This rung does not
# come that far: read as machine code, most of its instructions compute indices of 64 bits, and those limit it first.

_SIDE = 8  # of the square of outputs, where it fits
SHARED = 5632  # elements: 22 KiB of float32, so that two blocks fit even on the smallest; 44 of at most 48 of float64


@kernel
def _forward_tiled(x, w, y, stride, top, left, side, rotated):
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
        from_tap = kh * kw - 1 - tap if rotated else tap
        shared[weights + tap * LANES + lane] = w[from_tap // kw, from_tap % kw, q] if q < c else dtype(0)
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
# gpu/depthwise.py; for the kernels that Xception has. Other sizes have the tile above.

_FILTERS: dict[Size, Callable[..., None]] = {
    (3, 3, 1): filter_kernel((3, 3, 1), columns=4, rotated=False),
    (3, 3, 2): filter_kernel((3, 3, 2), columns=2, rotated=False),
}
# For the backward pass; that of the rungs below is in cuda_gradients.py. Two columns less: their registers are needed
# for the gate, the x of a ReLU in front.
_ROTATED_FILTERS: dict[Size, Callable[..., None]] = {(3, 3, 1): filter_kernel((3, 3, 1), columns=2, rotated=True)}
CORRELATIONS: dict[Size, Callable[..., Array]] = {
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
    if not tile_side(w.shape, stride):
        return _per_output(_forward_coalesced, x, w, stride, padding)
    y, top, left = _output(x, w, stride, padding)
    return _by_tiles(x, w, y, stride, top, left, rotated=False)


def _by_tiles(x: Array, w: Array, y: Array, stride: int, top: int, left: int, rotated: bool) -> Array:
    """y, written; rotated: with the kernel rotated by 180 degrees."""
    side = tile_side(w.shape, stride)
    n, ho, wo, c = y.shape
    grid = n * blocks(ho, side) * blocks(wo, side), blocks(c, LANES)
    _forward_tiled[grid, (LANES, WARPS)](x, w, y, stride, top, left, side, rotated)
    return y


def _output(x: Array, w: Array, stride: int, padding: Padding) -> tuple[Array, int, int]:
    """The array for y, and the padding above and to the left of x."""
    (ho, top), (wo, left) = extents(x.shape, w.shape, stride, padding)
    return empty((x.shape[0], ho, wo, x.shape[3]), x.dtype), top, left


_Wanted = tuple[bool, bool]
_Gradients = tuple[Array | None, Array | None]


def backward_cuda_naive(dy: Array, saved: tuple[Any, ...], wanted: _Wanted = (True, True)) -> _Gradients:
    """A thread per pixel, neighbours along the width; a thread per weight."""
    x, w, stride, padding = saved
    return (
        gathered_naive(dy, x, w, stride, padding) if wanted[0] else None,
        weights_naive(dy, x, w.shape, stride, padding) if wanted[1] else None,
    )


def backward_cuda_coalesced(dy: Array, saved: tuple[Any, ...], wanted: _Wanted = (True, True)) -> _Gradients:
    """A thread per pixel, neighbours along the channels; sums tap by tap, in two stages."""
    x, w, stride, padding = saved
    return (
        gathered(dy, x, w, stride, padding, relu=False) if wanted[0] else None,
        add_shares(tap_by_tap(dy, x, w.shape, stride, padding)) if wanted[1] else None,
    )


def backward_cuda_tiled(dy: Array, saved: tuple[Any, ...], wanted: _Wanted = (True, True)) -> _Gradients:
    """Tiles of dy with their halo in shared memory, with stride 1; the weights as in the rung before."""
    x, w, stride, padding = saved
    if stride > 1 or not tile_side(w.shape, stride):
        return backward_cuda_coalesced(dy, saved, wanted)
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    above, before = w.shape[0] - 1 - top, w.shape[1] - 1 - left
    dx = _by_tiles(dy, w, empty(x.shape, x.dtype), 1, above, before, rotated=True) if wanted[0] else None
    return dx, backward_cuda_coalesced(dy, saved, (False, wanted[1]))[1]


def backward_cuda(dy: Array, saved: tuple[Any, ...], wanted: _Wanted = (True, True)) -> _Gradients:
    """Strips in registers for both gradients, where there are such."""
    x, w, stride, padding = saved
    return (
        input_gradient(dy, x, w, stride, padding, relu=False) if wanted[0] else None,
        weight_gradient(dy, x, w.shape, stride, padding, relu=False) if wanted[1] else None,
    )


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
    fast = _ROTATED_FILTERS.get((w.shape[0], w.shape[1], stride))
    if fast is None:
        return gathered(dy, x, w, stride, padding, relu)
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    dx = empty(x.shape, x.dtype)
    fast(dy, floor(dy.dtype, False), w, dx, x if relu else None, (w.shape[0] - 1 - top, w.shape[1] - 1 - left))
    return dx


def weight_gradient(dy: Array, x: Array, kernel: tuple[int, ...], stride: int, padding: Padding, relu: bool) -> Array:
    """dw (kh, kw, c)."""
    fast = CORRELATIONS.get((kernel[0], kernel[1], stride))
    if fast is None:
        return add_shares(tap_by_tap(dy, _relu(x) if relu else x, kernel, stride, padding))
    (_, top), (_, left) = extents(x.shape, kernel, stride, padding)
    return add_shares(fast(x, floor(x.dtype, relu), dy, (top, left))).reshape(kernel)


def _relu(x: Array) -> Array:
    return RELU.rungs["cuda"].forward(x)[0]
