"""3. GPU: convolution as matrix products whose left matrix is the image itself, read window by window.

    y[pixel, o]    =  sum over (a,b,c)  x[window of pixel, (a,b,c)]  w[(a,b,c), o]
    dw[(a,b,c), o] =  sum over pixels   x[window of pixel, (a,b,c)]  dy[pixel, o]
    dx[pixel, c]   =  sum over (a,b,o)  dy[output whose tap (a,b) is pixel, o]  w[a,b,c,o]

The matrix of windows, kh*kw times as large as x, is never written. In an image with a border of zeros, an element of it
lies where its window begins plus where its tap lies in a window: that is all that the fast step of the ladder in
gpu/gemm has to be told. Each group of channels is a product of its own, at index z.
"""

from __future__ import annotations

from typing import Any

from ...gpu.gemm import Layout, divided, register_tiled
from ...gpu.kernel import THREADS, blocks, cuda, device_function, dtype, empty, kernel
from ..window import Padding, extents
from . import cuda_segments

# Places in images and kernels ----------------------------------------------------------------------------------------
# Behind m, n, k, shape holds:  3, 4  the lines and columns of the grid of pixels that the product is about
#                               5, 6  the taps across a window, and the channels under each
#                               7-10  in A, from one image, line and column to the next, and where the first pixel is
#                               11-12 in A, from one tap to the next, down and across
#                               13    the output channels of all groups
# and for the input's gradient: 14-16 in w, from one tap to the next, down and across, and where the first tap is
#                               17-20 in dx, as 7-10 in A


@device_function
def _pixel(index, z, shape):
    line, column = divided(index, shape[4])
    image, line = divided(line, shape[3])
    return image * shape[7] + line * shape[8] + column * shape[9] + shape[10] + z * shape[6]


@device_function
def _tap(index, z, shape):
    tap, channel = divided(index, shape[6])
    down, across = divided(tap, shape[5])
    return down * shape[11] + across * shape[12] + channel


@device_function
def _row(index, z, shape):
    return index * shape[13]


@device_function
def _column(index, z, shape):
    return z * shape[1] + index


@device_function
def _weight_row(index, z, shape):
    return index * shape[13] + shape[16] + z * shape[6]


@device_function
def _weight_tap(index, z, shape):
    tap, channel = divided(index, shape[6])
    down, across = divided(tap, shape[5])
    return down * shape[14] + across * shape[15] + channel


@device_function
def _input_pixel(index, z, shape):
    line, column = divided(index, shape[4])
    image, line = divided(line, shape[3])
    return image * shape[17] + line * shape[18] + column * shape[19] + shape[20]


_COLUMNS = Layout(_column, _row, along_k=False, run=1)  # of w (kh*kw*ci, co) and of dy (pixels, co), for one group
PRODUCT_LAYOUTS = Layout(_pixel, _tap, run=6), _COLUMNS, Layout(_row, _column, run=1)
_PRODUCT = register_tiled(*PRODUCT_LAYOUTS)
_WEIGHT_PRODUCT = register_tiled(Layout(_tap, _pixel, along_k=False), _COLUMNS, Layout(_row, _column))
_INPUT_PRODUCT = register_tiled(Layout(_pixel, _tap), Layout(_weight_row, _weight_tap), Layout(_input_pixel, _column))


# The border: a thread per element, neighbours on neighbouring channels ------------------------------------------------


@kernel
def _pad(x, top, left, padded):
    t = cuda.grid(1)
    if t < padded.size:
        _, h, w, c = x.shape
        line, v = t // c // padded.shape[2], t // c % padded.shape[2] - left
        m, u = line // padded.shape[1], line % padded.shape[1] - top
        padded[m, u + top, v + left, t % c] = x[m, u, v, t % c] if 0 <= u < h and 0 <= v < w else dtype(0)


def _padded(x: Any, top: int, left: int, h: int, w: int) -> Any:
    """x with a border of zeros, h lines and w columns at least; x itself if it needs none."""
    n, lines, columns, c = x.shape
    h, w = max(h, top + lines), max(w, left + columns)
    if (h, w) == (lines, columns):
        return x
    padded = empty((n, h, w, c), x.dtype)
    _pad[blocks(padded.size), THREADS](x, top, left, padded)
    return padded


# The three products --------------------------------------------------------------------------------------------------


def forward_cuda(x: Any, w: Any, *, stride: int, padding: Padding, groups: int) -> tuple[Any, tuple[Any, ...]]:
    """One product (pixels, kh*kw*ci) (kh*kw*ci, co/G) for each group; narrow segments without one."""
    (ho, _), (wo, _) = extents(x.shape, w.shape, stride, padding)
    n, co = x.shape[0], w.shape[3]
    y = empty((n, ho, wo, co), x.dtype)
    if cuda_segments.suits(w.shape, stride, groups):
        return cuda_segments.filter_images(x, w, y, stride, padding, groups), (x, w, stride, padding, groups)
    windows, places = read_windows(x, y, w, stride, padding)
    shape = (n * ho * wo, co // groups, w.size // co, *places)
    return _PRODUCT(windows, w, y, shape, batch=groups), (x, w, stride, padding, groups)


def backward_cuda(
    dy: Any, saved: tuple[Any, ...], wanted: tuple[bool, bool] = (True, True)
) -> tuple[Any | None, Any | None]:
    """The two gradients, each only if it is wanted."""
    _, w, stride, _, groups = saved
    narrow = cuda_segments.suits(w.shape, stride, groups)
    of_input = cuda_segments.input_gradient if narrow and stride == 1 else _input_gradient
    of_weights = cuda_segments.weight_gradient if narrow else _weight_gradient
    return of_input(dy, *saved) if wanted[0] else None, of_weights(dy, *saved) if wanted[1] else None


def _weight_gradient(dy: Any, x: Any, w: Any, stride: int, padding: Padding, groups: int) -> Any:
    co = w.shape[3]
    windows, places = read_windows(x, dy, w, stride, padding)
    shape = (w.size // co, co // groups, dy.size // co, *places)
    return _WEIGHT_PRODUCT(windows, dy, empty(w.shape, w.dtype), shape, batch=groups, split=True)


def read_windows(x: Any, y: Any, w: Any, stride: int, padding: Padding) -> tuple[Any, tuple[int, ...]]:
    """x with its border, and where the windows of y lie in it: shape[3:14]."""
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    _, ho, wo, co = y.shape
    kh, kw, ci, _ = w.shape
    xp = _padded(x, top, left, (ho - 1) * stride + kh, (wo - 1) * stride + kw)
    _, hp, wp, c = xp.shape
    return xp, (ho, wo, kw, ci, hp * wp * c, stride * wp * c, stride * c, 0, wp * c, c, co)


# Line u of the input receives from output line i by kernel row a if u + top = i * stride + a. So the remainder of
# u + top says which kernel rows it meets, every stride-th, and the same holds across: pixels with the same two
# remainders are a product of their own, none of whose multiplications is wasted. With q = (u + top) // stride and
# a = a' * stride + remainder the output is i = q - a': in dy, a tap lies before its pixel.


def _input_gradient(dy: Any, x: Any, w: Any, stride: int, padding: Padding, groups: int) -> Any:
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    n, h, wd, c = x.shape
    kh, kw, ci, co = w.shape
    above, before = (kh - 1) // stride, (kw - 1) // stride  # the border that the first pixels' taps lie in
    dyp = _padded(dy, above, before, above + (h - 1 + top) // stride + 1, before + (wd - 1 + left) // stride + 1)
    _, hp, wp, _ = dyp.shape
    dx = empty(x.shape, x.dtype)
    for a in range(stride):
        for b in range(stride):
            u, v = (a - top) % stride, (b - left) % stride  # the first pixel with these remainders
            lines, columns = -(-(h - u) // stride), -(-(wd - v) // stride)
            taps_down, taps_across = -(-(kh - a) // stride), -(-(kw - b) // stride)
            if min(lines, columns) < 1:
                continue
            depth = co // groups
            first = ((u + top) // stride + above) * wp + (v + left) // stride + before
            shape = (
                *(n * lines * columns, ci, max(taps_down, 0) * max(taps_across, 0) * depth),
                *(lines, columns, max(taps_across, 1), depth),
                *(hp * wp * co, wp * co, co, first * co),
                *(-wp * co, -co, co),
                *(stride * kw * ci * co, stride * ci * co, (a * kw + b) * ci * co),
                *(h * wd * c, stride * wd * c, stride * c, (u * wd + v) * c),
            )
            _INPUT_PRODUCT(dyp, w, dx, shape, batch=groups)
    return dx
