"""The matrix product every dense operator stands on: C = A B, near the machine's peak.

Four ideas, from the inside out:

1. **Register tile** (``tile``). A block of ROWS x VECTORS registers of C stays in registers while k runs. Each step of
   k loads VECTORS registers of B once and one number of A per row, broadcast: ROWS * VECTORS fused multiply-adds for
   ROWS + VECTORS loads. 6 x 4 accumulators + 4 of B + 1 broadcast = 29 of AVX-512's 32 registers; more, and the
   compiler spills to memory, which costs half the speed. With 16 registers (AVX2, SSE) the tile is 6 x 2.
2. **Packing** (``pack_panel``). B is copied into panels one tile wide, so that the tile reads it as one straight
   stream; the panel's last columns are padded with zeros, the store leaves them out. A is read in place: a tile
   touches six of its rows, or six neighbours of each row when A is transposed (weight gradients).
3. **Cache blocking** (``_product``). k is cut into blocks of at most K_BLOCK: a panel of B (768 x 64 floats, 192 KiB)
   then stays in L2 for all rows of a task, and a tile's rows of A (18 KiB) in L1.
4. **Prefetching** (``strip``). All panels together are often larger than L2. While its tiles work on one panel, a strip
   asks for the lines of the next, a few at a time, so that they have come from L3 or memory when their turn comes.

Every element of C is summed over k in one fixed order, so the result does not depend on the number of threads.
"""

from __future__ import annotations

import platform

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import memory
from .jit import get_num_threads, inline, parallel, prange
from .simd import (
    REGISTER_BYTES,
    element_pointer,
    emit_fma,
    emit_load,
    emit_maximum,
    emit_prefetch,
    emit_splat,
    emit_store,
    emit_whole_load,
    lanes,
    load,
    store,
    vector_type,
)

ROWS = 6
VECTORS = 4 if REGISTER_BYTES == 64 or platform.machine() in ("arm64", "aarch64") else 2  # 32 or 16 registers
K_BLOCK = 768
ROW_BLOCK = 360  # rows of A, about, that a task multiplies with a panel while that panel is in L2
LONG_PARTS = 16  # tasks of a product with a very long k
LONG_K_BLOCK = 256  # and its block: a panel of B is 64 KiB, and the rows of A beside it stay in L2
TASKS = 8  # groups of panels that few rows are multiplied with, and pieces of B that are packed at once
_FEW_ROWS = 24  # for a thread: with less, threads share the columns of C, not its rows


def panel_width(dtype: np.dtype) -> int:
    """Columns of C in one tile.

    >>> panel_width(np.dtype(np.float32)) == 2 * panel_width(np.dtype(np.float64))
    True
    """
    return VECTORS * lanes(dtype.type)


@intrinsic(prefer_literal=True)
def tile(
    typing_context,
    rows,
    a,
    ia,
    row_stride,
    k_stride,
    b,
    ib,
    k,
    segments,
    segment_stride,
    c,
    ic,
    ldc,
    n,
    start,
    add_start,
    bias,
    jb,
    add_bias,
    relu,
    a_ahead,
    fetched,
    ahead,
    ahead_step,
):
    """C[:rows, :n] = f(A[:rows] B[:, :n] + start + bias) with C in registers throughout; n <= panel_width.

    A has ``segments`` times k columns, and A[i, s * k + p] is a.flat[ia + i * row_stride + s * segment_stride + p *
    k_stride]: the rows of a convolution's window lie apart. B is a packed panel at b.flat[ib], C[i, j] is
    c.flat[ic + i * ldc + j]. The sums start from ``start``, laid out like C (C itself to accumulate, a residual), and
    from bias.flat[jb + j], each only if asked for; f is ReLU or nothing. A tile of all ROWS also asks for cache lines
    that come next: those of C below, ROWS numbers of a from a.flat[a_ahead] on with each k, and ahead_step numbers from
    fetched.flat[ahead] on.
    """
    dtype = c.dtype
    width = lanes(dtype)

    def codegen(context, builder, signature, args):
        _, a_, ia_, row_stride_, k_stride_, b_, ib_, k_, segments_, segment_stride_, c_, ic_, ldc_, n_, *others = args
        start_, add_start_, bias_, jb_, add_bias_, relu_, a_ahead_, fetched_, ahead_, ahead_step_ = others
        a_at = element_pointer(context, builder, signature.args[1], a_, ia_)
        b_at = element_pointer(context, builder, signature.args[5], b_, ib_)
        c_at = element_pointer(context, builder, signature.args[10], c_, ic_)
        start_at = element_pointer(context, builder, signature.args[14], start_, ic_)
        bias_at = element_pointer(context, builder, signature.args[16], bias_, jb_)
        a_ahead_at = element_pointer(context, builder, signature.args[1], a_, a_ahead_)
        ahead_at = element_pointer(context, builder, signature.args[21], fetched_, ahead_)

        def number(value):
            return ir.Constant(ir.IntType(64), value)

        def emit(vectors):
            last = builder.sub(n_, number((vectors - 1) * width))
            valid = [number(width)] * (vectors - 1) + [last]
            cells = [(i, j) for i in range(rows.literal_value) for j in range(vectors)]

            def where(first, i, j):
                return builder.gep(first, [builder.add(builder.mul(ldc_, number(i)), number(j * width))])

            zero = ir.Constant(vector_type(dtype), [0.0] * width)
            sums = {cell: cgutils.alloca_once_value(builder, zero) for cell in cells}  # LLVM keeps these in registers
            for cell in cells:
                builder.store(zero, sums[cell])
            with builder.if_then(add_start_):
                for i, j in cells:
                    builder.store(emit_load(builder, dtype, where(start_at, i, j), valid[j]), sums[i, j])
            with builder.if_then(add_bias_):
                added = [emit_load(builder, dtype, where(bias_at, 0, j), valid[j]) for j in range(vectors)]
                for i, j in cells:
                    builder.store(builder.fadd(builder.load(sums[i, j]), added[j]), sums[i, j])
            if rows.literal_value == ROWS:
                for i, j in cells:
                    emit_prefetch(builder, where(c_at, ROWS + i, j), write=True)
            with cgutils.for_range(builder, segments_) as segment, cgutils.for_range(builder, k_) as loop:
                step = builder.add(builder.mul(segment.index, k_), loop.index)
                segment_at = builder.mul(segment.index, segment_stride_)
                b_row = builder.gep(b_at, [builder.mul(step, number(VECTORS * width))])
                b_vectors = [
                    emit_whole_load(builder, dtype, builder.gep(b_row, [number(j * width)])) for j in range(vectors)
                ]
                if rows.literal_value == ROWS:
                    a_next = builder.add(segment_at, builder.mul(loop.index, number(ROWS)))
                    emit_prefetch(builder, builder.gep(a_ahead_at, [a_next]))
                    emit_prefetch(builder, builder.gep(ahead_at, [builder.mul(step, ahead_step_)]))
                a_column = builder.gep(a_at, [builder.add(segment_at, builder.mul(loop.index, k_stride_))])
                for i in range(rows.literal_value):
                    scalar = builder.load(builder.gep(a_column, [builder.mul(row_stride_, number(i))]))
                    a_vector = emit_splat(builder, dtype, scalar)
                    for j in range(vectors):
                        total = emit_fma(builder, a_vector, b_vectors[j], builder.load(sums[i, j]))
                        builder.store(total, sums[i, j])
            with builder.if_then(relu_):
                for cell in cells:
                    builder.store(emit_maximum(builder, builder.load(sums[cell]), zero), sums[cell])
            for i, j in cells:
                emit_store(builder, dtype, where(c_at, i, j), builder.load(sums[i, j]), valid[j])

        vectors_needed = builder.sdiv(builder.add(n_, number(width - 1)), number(width))
        done = builder.append_basic_block("tile.done")
        choice = builder.switch(vectors_needed, done)
        for vectors in range(1, VECTORS + 1):
            block = builder.append_basic_block(f"tile.{vectors}")
            choice.add_case(number(vectors), block)
            builder.position_at_end(block)
            emit(vectors)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    i, flag = types.intp, types.boolean
    arrays = (rows, a, i, i, i, b, i, i, i, i, c, i, i, i, start, flag, bias, i, flag, flag)
    return types.void(*arrays, i, fetched, i, i), codegen


@inline
def strip(
    a, ia, row_stride, k_stride, m, b, ib, k, segments, segment_stride, c, ic, ldc, n,
    start, add_start, bias, jb, add_bias, relu, fetched, ahead
):  # fmt: skip
    """``tile`` down m rows of A against one packed panel of B; meanwhile what comes next is asked for.

    That is the next rows of A, or, if A is transposed, its next block of k; and as many numbers as a panel has from
    fetched.flat[ahead] on.
    """
    width = VECTORS * REGISTER_BYTES // b.itemsize
    step = width * ROWS // m + 1  # numbers for each k of a tile: k * width in all, spread over m / ROWS tiles
    transposed = row_stride == 1
    i = 0
    while i + ROWS <= m:
        tile(
            ROWS, a, ia + i * row_stride, row_stride, k_stride, b, ib, k, segments, segment_stride,
            c, ic + i * ldc, ldc, n, start, add_start, bias, jb, add_bias, relu,
            ia + (k * k_stride + i * k if transposed else (i + ROWS) * row_stride), fetched, ahead, step,
        )  # fmt: skip
        i += ROWS
        ahead += segments * k * step
    while i + 2 <= m:
        tile(
            2, a, ia + i * row_stride, row_stride, k_stride, b, ib, k, segments, segment_stride,
            c, ic + i * ldc, ldc, n, start, add_start, bias, jb, add_bias, relu, 0, fetched, 0, 0,
        )  # fmt: skip
        i += 2
    if i < m:
        tile(
            1, a, ia + i * row_stride, row_stride, k_stride, b, ib, k, segments, segment_stride,
            c, ic + i * ldc, ldc, n, start, add_start, bias, jb, add_bias, relu, 0, fetched, 0, 0,
        )  # fmt: skip


@inline
def strip_sum(a, ia, row_stride, k_stride, m, b, ib, k, c, ic, ldc, n, accumulate, fetched, ahead):
    """``strip`` without an epilogue: c (+)= the product."""
    strip(
        a, ia, row_stride, k_stride, m, b, ib, k, 1, 0, c, ic, ldc, n, c, accumulate, c, 0, False, False, fetched, ahead
    )  # fmt: skip


@inline
def pack_panel(b, ib, k_stride, column_stride, k, n, width, packed, ip):
    """Copy B[:k, :n] to packed.flat[ip:], row after row, each padded with zeros to the panel's width."""
    lanes = width // VECTORS
    for p in range(k):
        source = ib + p * k_stride
        target = ip + p * width
        if column_stride == 1:
            for j in range(0, width, lanes):
                store(packed, target + j, load(b, source + j, max(0, min(lanes, n - j))), lanes)
        else:
            for j in range(n):
                packed[target + j] = b[source + j * column_stride]
            for j in range(n, width):
                packed[target + j] = 0


@parallel
def _product(a, a_row, a_k, b, b_k, b_column, c, m, n, k, width, packed, accumulate, rows, groups):
    panels = (n + width - 1) // width
    row_blocks = (m + rows - 1) // rows
    k_blocks = (k + K_BLOCK - 1) // K_BLOCK
    k_step = (k + k_blocks - 1) // k_blocks
    for k0 in range(0, k, k_step):
        depth = min(k_step, k - k0)
        for piece in prange(TASKS):
            first = piece * depth // TASKS
            last = (piece + 1) * depth // TASKS
            for panel in range(panels):
                j = panel * width
                pack_panel(
                    b, (k0 + first) * b_k + j * b_column, b_k, b_column, last - first, min(width, n - j), width,
                    packed, (panel * k_step + first) * width,
                )  # fmt: skip
        for task in prange(row_blocks * groups):
            i0 = task // groups * rows
            height = min(rows, m - i0)
            first = task % groups * panels // groups
            end = (task % groups + 1) * panels // groups
            for panel in range(first, end):
                j = panel * width
                strip_sum(
                    a, i0 * a_row + k0 * a_k, a_row, a_k, height, packed, panel * k_step * width, depth,
                    c, i0 * n + j, n, min(width, n - j), accumulate or k0 > 0,
                    packed, (panel + 1) * k_step * width,
                )  # fmt: skip


@parallel
def _long_product(a, a_row, a_k, b, b_k, b_column, c, m, n, k, width, packed, partial, accumulate):
    """``_product`` where k is far longer than m and n, as for weight gradients, whose k is all pixels of a batch.

    A task takes a part of k and sums it in its own copy of C: it packs a block of B and uses it while that is still
    in L2, and nobody waits for anybody before the copies are added, in a fixed order.
    """
    panels = (n + width - 1) // width
    parts = partial.shape[0]
    partials = partial.reshape(-1)
    for part in prange(parts):
        first, end = part * k // parts, (part + 1) * k // parts
        room = part * panels * LONG_K_BLOCK * width
        for k0 in range(first, end, LONG_K_BLOCK):
            depth = min(LONG_K_BLOCK, end - k0)
            for panel in range(panels):
                j = panel * width
                here = room + panel * LONG_K_BLOCK * width
                pack_panel(
                    b, k0 * b_k + j * b_column, b_k, b_column, depth, min(width, n - j), width, packed, here
                )  # fmt: skip
                strip_sum(
                    a, k0 * a_k, a_row, a_k, m, packed, here, depth,
                    partials, part * m * n + j, n, min(width, n - j), k0 > first,
                    b, (k0 + depth) * n + panel * depth * width,
                )  # fmt: skip
    for i in prange(m):
        row = c[i * n : (i + 1) * n]
        if not accumulate:
            row[:] = 0
        for part in range(parts):
            row += partial[part, i]


def _tasks(m: int, panels: int) -> tuple[int, int]:
    """(rows of A in a task, groups of panels): about ROW_BLOCK rows, and as many tasks for each thread.

    Each element of C belongs to one task, so its sum does not depend on the number of threads.
    """
    threads = get_num_threads()
    if m < _FEW_ROWS * threads <= _FEW_ROWS * panels:
        return m, min(panels, TASKS)
    row_blocks = threads * max(1, round(m / (ROW_BLOCK * threads)))
    return -(-m // (2 * row_blocks)) * 2, 1


def gemm(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
) -> np.ndarray:
    """out (+)= A B, where A is ``a`` (m, k) or its transpose, B is ``b`` (k, n) or its transpose; returns out (m, n).

    All three are C-contiguous 2-D arrays of one dtype, float32 or float64. 2 m n k FLOP.

    >>> gemm(np.ones((2, 3)), np.ones((3, 2)), np.empty((2, 2)))
    array([[3., 3.],
           [3., 3.]])
    """
    m, n = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    a_row, a_k = (1, m) if transpose_a else (k, 1)
    b_k, b_column = (1, k) if transpose_b else (n, 1)
    width = panel_width(out.dtype)
    columns = -(-n // width) * width
    problem = (a.reshape(-1), a_row, a_k, b.reshape(-1), b_k, b_column, out.reshape(-1), m, n, k, width)
    if k * (m + n) >= 4 * LONG_PARTS * m * n:  # reading A and B costs more than writing and adding the copies of C
        packed = memory.empty((LONG_PARTS * columns * LONG_K_BLOCK,), out.dtype)
        _long_product(*problem, packed, memory.empty((LONG_PARTS, m, n), out.dtype), accumulate)
    else:
        packed = memory.empty((columns * min(k, K_BLOCK),), out.dtype)
        _product(*problem, packed, accumulate, *_tasks(m, columns // width))
    return out
