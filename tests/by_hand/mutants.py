"""Mistakes planted in the package, one at a time, to see whether the tests that should catch it do.

    python -m tests.by_hand.mutants docs/results/mutants.json [--only AREA]

Each mutant is a line of the package written differently, in a copy of the sources, and those tests of ``make test`` that
should notice: a list that is fixed, so that a number means the same in each run. A survivor is a defect of the tests, or
its ``why`` says what makes it none. Takes some seconds a mutant, once the kernels are compiled. The page beside the
result, mutants.md, has the table by area and the survivors.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from minixception.bench.results import write_result
from minixception.files import atomic_path
from minixception.tables import Table

ROOT = Path(__file__).parents[2]
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)  # what an index far outside of an array does
HEAD = """# Mistakes planted in the package, and whether the tests catch them

Written by `python -m tests.by_hand.mutants docs/results/mutants.json`: a line of the package is written differently, and
the tests that should notice are run. [mutants.json](mutants.json) names each line, what it became, and these tests.
"""


@dataclass(frozen=True)
class Mutant:
    """``old``, which stands once in the file, becomes ``new``. why: what makes a survivor no defect, if anything."""

    area: str
    path: str
    old: str
    new: str
    tests: str
    why: str = ""


def of(area: str, path: str, tests: str, *changes: tuple[str, ...]) -> list[Mutant]:
    """Mutants of one file that the same tests should catch: (old, new), and why it is none, if it is none."""
    return [Mutant(area, f"minixception/{path}", old, new, tests, *why) for old, new, *why in changes]


MUTANTS = [
    *of(
        "batchnorm", "ops/batchnorm/cpu.py", "tests/ops/test_batchnorm.py",
        ("_CHUNKS = 32", "_CHUNKS = 64", "another order of the same sum: equal but for rounding"),
    ),
    *of(
        "batchnorm", "cpu/channels.py", "tests/ops/test_batchnorm.py",
        ("share, between = count / (before + count),", "share, between = count / (before + count + 1),"),
        ("- sum_d * sum_d / count + delta * delta * between", "- sum_d * sum_d / count"),
        ("before, count = np.float64(start),", "before, count = np.float64(0),"),
        ("np.float64(sums[1, q]) - sum_d * sum_d / count +", "np.float64(sums[1, q]) +"),
        ("sums[k, q] += of_block[k, q]", "sums[k, q] = of_block[k, q]"),
    ),
    *of(
        "training step", "ops/separable/training.py", "tests/compiler/test_training_step.py",
        ("(part + 1) * total // parts\n            partial[part] = 0", "total // parts\n            partial[part] = 0"),
        ("panel_of_dy[:rows], target, sums_only(target, True), ahead)",
         "panel_of_dy[:rows], target, sums_only(target, False), ahead)"),
        ("added(partial)[::-1, ::-1]", "added(partial)"),
        ("sums[chunk, k, q] += of_row[k, q]", "sums[chunk, k, q] = of_row[k, q]"),
    ),
    *of(
        "training step", "cpu/depthwise_backward.py", "tests/compiler/test_training_step.py",
        ("if read.gated:", "if len(after.of) < 0:"),
        ("if len(after.residual) > 0:", "if len(after.residual) < 0:"),
        ("total(multiply(result, deviations))", "total(result)"),
        ("how, border.outputs)\n        (result,)", "how, None)\n        (result,)"),
    ),
    *of(
        "training step", "compiler/training/parts.py", "tests/compiler/test_training_step.py",
        ("                    accumulate(slot.array, earlier.array)", "                    pass"),
        ("move_running(module.running_var.data, var, momentum)", "pass"),
        ("self.norm is not None)\n", "True)\n", "statistics that nobody wants cost time alone"),
    ),
    *of(
        "training step", "compiler/training/parts.py", "tests/compiler/test_training_step.py -k read",
        ("self._sums_alone = self.summed is not dy", "self._sums_alone = self.summed is None"),
    ),
    *of(
        "training step", "compiler/training/build.py", "tests/compiler/test_training_step.py -k read",
        ("np.add(first.array, slot.array, out=total.array)", "np.copyto(total.array, slot.array)"),
    ),
    *of(
        "training step", "compiler/training/fuse.py", "tests/compiler/test_training_step.py -k meet",
        ("if follower is not None and follower.makes in taken:", "if follower is not None and follower.makes < 0:"),
        ("modules.count(node.module) == 1", "modules.count(node.module) >= 1"),
        ("return readers[0] if len(readers) == 1 and", "return readers[0] if len(readers) >= 1 and"),
    ),
    *of(
        "training step", "compiler/training/arena.py", "tests/compiler/test_training_step.py",
        ("if other.first <= slot.last and slot.first <= other.last", "if other.first < slot.last and slot.first < other.last"),
    ),
    *of(
        "training step", "compiler/training/plan.py", "tests/compiler/test_training_step.py",
        ("        generator().bit_generator.state = state", "        assert state"),
        ("            parameter.grad = None", "            assert parameter"),
    ),
    *of(
        "depthwise", "ops/depthwise/cpu.py", "tests/ops/test_operators.py -k more_images",
        ("range(chunk * n * ho // chunks, (chunk + 1) * n * ho // chunks)", "range(chunk, n * ho, chunks + 1)"),
        ("return added(partial)", "return partial[0]"),
    ),
    *of(
        "depthwise", "ops/depthwise/cpu.py", "tests/ops/test_operators.py -k [depthwise_conv2d-cpu",
        ("kh - 1 - top, kw - 1 - left)", "kh - 1 - left, kw - 1 - top)"),
        ("max(u % stride, u - stride * (ho - 1))", "u % stride"),
    ),
    *of(
        "depthwise", "ops/depthwise/cpu.py", "tests/ops/test_operators.py -k gate",
        ("dx[~(x > 0)] = 0", "dx[x < 0] = 0"),
    ),
    *of(
        "elementwise", "cpu/elementwise.py", "tests/optim/test_optim.py",
        ("return (size + CHUNK - 1) // CHUNK", "return max(1, size // CHUNK)"),
        ("return array[chunk * CHUNK : (chunk + 1) * CHUNK]", "return array[chunk * CHUNK : (chunk + 1) * CHUNK - 1]"),
    ),
    *of(
        "engine", "engine/accumulate.py", "tests/engine",
        ("        total[i] += term[i]\n\n\n@kernel", "        total[i] = term[i]\n\n\n@kernel"),
        ("for i in prange(total.size):", "for i in prange(total.size - 1):"),
    ),
    *of(
        "engine", "engine/tape.py", "tests/engine",
        ("fresh = is_writable(gradient) and not share_memory(gradient, dy)", "fresh = True"),
        ("leaf.grad = copy(gradient) if share_memory(gradient, dy) else gradient", "leaf.grad = gradient"),
        ("total, ours = copy(self._sums[node]), True", "total, ours = self._sums[node], True"),
        ("ours=fresh and identities.count(id(gradient)) == 1", "ours=fresh"),
        ("        node.saved = _USED\n", ""),
    ),
    *of(
        "engine", "engine/backend.py", "tests/engine",
        ("        _current.reset(token)", "        pass"),
    ),
    *of(
        "engine", "engine/op.py", "tests/ops/test_operators.py -k selective or constant_input or without_an_image",
        ("if all(a.size for a in arrays) else", "if True else"),
        ('"wanted": tuple(t.requires_grad for t in tensors)', '"wanted": tuple(True for t in tensors)'),
    ),
    *of(
        "relu", "ops/activation.py", "tests/ops/test_operators.py tests/ops/test_small_ops.py -k relu and not separable",
        ("return dy * (y > 0)", "return dy * (y >= 0)"),
    ),
    *of(
        "compiler", "compiler/fuse.py", "tests/compiler/test_compile.py",
        ("if len(readers) != 1 or step.result", "if step.result"),
        ("isinstance(follower.module, BatchNorm2d) and step.norm is None and step.residual is None",
         "isinstance(follower.module, BatchNorm2d) and step.norm is None"),
        ("or step.relu_after:", "or False:"),
        ("0 < len(takers) == len(readers)", "0 < len(takers)"),
        ("position.get(others[0], -1) < position[step.node.makes]", "True"),
    ),
    *of(
        "compiler", "compiler/plan.py", "tests/compiler/test_compile.py",
        ("return copy(self._pass(x))", "return self._pass(x)"),
    ),
    *of(
        "compiler", "compiler/plan.py", "tests/compiler/test_compile_cuda.py -k given_back",
        ("                del values[index]\n", "                pass\n"),
    ),
    *of(
        "compiler", "compiler/__init__.py", "tests/compiler/test_compile.py",
        ("        with self._turn:\n", "        if True:\n"),
    ),
    *of(
        "loss", "ops/loss.py", "tests/ops/test_small_ops.py",
        ("(array < 0) | (array >= k)", "array >= k"),
        ("(array < 0) | (array >= k)", "(array < 0) | (array > k)"),
    ),
    *of(
        "layers", "nn/layers.py", "tests/nn",
        ("kh * kw * in_channels // groups, kh * kw * out_channels // groups", "kh * kw * in_channels, kh * kw * out_channels"),
        ("init.glorot_uniform((kh, kw, channels), kh * kw, kh * kw)", "init.glorot_uniform((kh, kw, channels), kh * kw * channels, kh * kw)"),
        ("init.glorot_uniform((in_features, out_features), in_features, out_features)", "init.glorot_uniform((in_features, out_features), in_features, in_features)"),
    ),
    *of(
        "layers", "nn/module.py", "tests/nn",
        ("frozenset(module for _, module in self.named_modules())", "frozenset({self})"),
        ("            _at_inference.reset(token)\n", "            pass\n"),
    ),
    *of(
        "training", "training/trainer.py", "tests/training/test_recipe.py",
        ("recipe.label_smoothing, eager)", "0.0, eager)"),
        ("        if self.recipe.clip_norm:", "        if False:"),
        ("shuffle=True", "shuffle=False"),
        ("augment=self.recipe.augment", "augment=False"),
        ("drop_last=True,\n", "drop_last=False,\n"),
        ("            epoch=progress.epoch,", "            epoch=0,"),
        ("        random.seed(hash_of", "        (hash_of"),
        ("for _, t in self.model.named_tensors()]", "for t in self.model.parameters()]"),
        ("        self.optimizer.step()\n        self.ema.update()", "        self.ema.update()\n        self.optimizer.step()"),
        ("        self.optimizer.lr = self.learning_rate(self.progress.step)\n", ""),
        ("(seed << 48) | (epoch << 24) | step", "(seed << 48) | step"),
    ),
    *of(
        "training", "training/recipe.py", "tests/training/test_recipe.py",
        ("self.lr, self.momentum, self.weight_decay)", "self.lr, self.momentum, 0)"),
        ("self.lr, self.momentum, self.weight_decay)", "self.lr, 0.9, self.weight_decay)"),
        ("momentum=self.momentum, weight", "momentum=0.0, weight"),
        ("Adam(parameters, self.lr, weight_decay=self.weight_decay)", "Adam(parameters, self.lr)"),
        ("image_shape, self.dropout)", "image_shape)"),
        ("min(self.warmup_epochs, self.epochs / 4)", "0"),
        ("every_epochs=self.decay_epochs", "every_epochs=2"),
    ),
    *of(
        "data", "data/augment.py", "tests/data/test_data.py",
        ("rng.random(len(images)) < 0.5", "rng.random(len(images)) < 0.9"),
        ("images[:, :, ::-1]", "images[:, ::-1]"),
        ("rng.integers(0, 2 * pad + 1, (2, n))", "rng.integers(0, 2 * pad, (2, n))"),
        ('mode="reflect"', 'mode="edge"'),
    ),
    *of(
        "data", "data/dataset.py", "tests/data/test_data.py",
        ("_generator(seed, epoch, step + 1)", "_generator(seed, epoch, 1)"),
        ("_generator(seed, epoch, step + 1)", "_generator(seed, 0, step + 1)"),
        ("_generator(seed, epoch, 0).permutation", "_generator(seed, 0, 0).permutation"),
    ),
    *of(
        "gpu", "gpu/memory.py", "tests/gpu/test_cuda_memory.py tests/gpu/test_graph.py",
        ("self._free.setdefault(size, []).append((address, block))", "pass"),
        ("        size, block = self._used.pop(address)", "        size, block = self._used[address]"),
        ("            self.empty_cache()\n            block = self._attempt(size)", "            block = self._attempt(size)"),
    ),
    *of(
        "gpu", "gpu/graph.py", "tests/gpu/test_graph.py tests/gpu/test_stub_driver.py",
        ("self._draws.append((draw, gpu.pool().empty((1,), np.uint64)))", "self._draws.append((draw, self.pool.empty((1,), np.uint64)))"),
        ("            device.assign(ours, array)\n", "            pass\n"),
        ("        self._kept += [a for a", "        [a for a"),
        ("or gpu.recording() is not None or", "or"),
        ("                self.recordable = False\n", ""),
    ),
    *of(
        "gpu", "gpu/launch.py", "tests/gpu/test_stub_driver.py",
        ("        cuda.current_context()  # makes it current\n", ""),
        ("kinds.append(argument.kind)", 'kinds.append("array")'),
    ),
    *of(
        "gpu", "gpu/array.py", "tests/gpu/test_stub_driver.py",
        ("(*shape, *strides)", "(*shape, *shape)"),
    ),
    *of(
        "cache", "cpu/cache.py", "tests/cpu/test_cache.py tests/test_package.py",
        ("            _forget(files)\n", ""),
        ("        except OSError as error:\n            _say(f\"compiled", "        except KeyError as error:\n            _say(f\"compiled"),
    ),
    # Each area's further files ------------------------------------------------------------------------------------------
    *of(
        "batchnorm", "ops/batchnorm/cuda.py", "tests/ops/test_cuda_batchnorm.py",
        ("total += partial[1, q, slab] + d * d * min(rows, m - slab * rows)", "total += partial[1, q, slab]"),
        ("beta[q] - (mean - means[q]) * (gamma[q] * s)", "beta[q]"),
    ),
    *of(
        "batchnorm", "ops/batchnorm/cuda_sums.py", "tests/ops/test_cuda_batchnorm.py",
        ("square += group_square + delta * delta * before * share", "square += group_square"),
    ),
    *of(
        "cluster", "cluster/tree.py", "tests/cluster/test_tree.py",
        ("left.number % 2 == 0 and ", ""),
        ("left.level == right.level and ", ""),
        ("Node(left.level + 1, left.number // 2, left.sum)", "Node(left.level + 1, right.number // 2 + 1, left.sum)"),
        ("while stack and number % 2 and ", "while stack and "),
        ("free.append(right.sum)", "free.append(left.sum)"),
    ),
    *of(
        "cluster", "cluster/means.py", "tests/cluster/test_means.py",
        ("np.divide(mean, self._shards,", "np.divide(mean, ranks.size,"),
        ("self._shard % 2 == 1 and ", ""),
        ("for rank in range(ranks.size) for node in nodes[rank]", "for rank in reversed(nodes) for node in nodes[rank]"),
        ("self._shard += 1", "self._shard += 2"),
    ),
    *of(
        "cluster", "training/shards.py", "tests/cluster/test_training.py",
        ("            for buffer, array in zip(self._state, before, strict=True):\n", "            for buffer, array in ():\n"),
        ("            begin(shard)", "            begin(number)"),
        ("slice(number * length, (number + 1) * length)", "slice(0, length)"),
        ("buffer.data[...] = array\n        return", "pass\n        return"),
    ),
    *of(
        "cluster", "training/trainer.py", "tests/cluster/test_training.py",
        ("self.recipe.shards + shard\n", "self.recipe.shards\n"),
        ("length * self._sharded.mine.stop)", "length * len(self._sharded.mine))"),
    ),
    *of(
        "cluster", "training/evaluate.py", "tests/cluster/test_training.py -k evaluation",
        ("start=mine.start), len(mine))", "start=mine.start), len(mine) + 1)"),
    ),
    *of(
        "conv2d", "ops/conv2d/products.py", "tests/ops/test_operators.py -k [conv2d-cpu",
        ("(size - 1 + before - tap) // stride + 1", "(size - 1 + before - tap) // stride"),
        ("(kh - 1 - top, kw - 1 - left)", "(kh - 1 - left, kw - 1 - top)"),
        ("columns[0] + number % strips * pixels", "number % strips * pixels"),
        ("min(taps, size + before - output * stride)", "min(taps, size - output * stride)"),
        ("number if number < first else number - first + end", "number"),
        ("(row if run.down else pixel, element)", "(pixel, element)"),
        ("(down[0] - i, down[1] - i), across", "(0, down[1] - down[0]), across"),
        ("sums_only(target, row > begin)", "sums_only(target, row > 0)"),
        ("rows = min(at_once, end - row, ho - i)", "rows = min(at_once, end - row)"),
    ),
    *of(
        "conv2d", "ops/conv2d/segments.py", "tests/ops/test_segments.py",
        ("together = vector // max(inputs, outputs)", "together = vector // outputs"),
        ("min(together * outputs, co - q)", "co - q"),
        ("load_run(w, (u, c, 0, 0), size, None), load_run(w, (u - stride, c, 0, 0), size, None)",
         "load_run(w, (u, c, 0, 0), size, None), load_run(w, (u - 1, c, 0, 0), size, None)"),
        ("pack(swapped[::-1, ::-1], groups)", "pack(swapped, groups)"),
        ("Inside(-j, wo - j, n_in)", "Inside(-j, wo, n_in)"),
    ),
    *of(
        "conv2d", "ops/conv2d/segments.py", "tests/compiler/test_compile.py",
        ("run = add(run, load(epilogue.bias, index[2], n))", "pass"),
        ("run = maximum(run, splat(y, 0))", "pass"),
    ),
    *of(
        "conv2d", "ops/conv2d/segment_weights.py", "tests/ops/test_segments.py",
        ("known = first if row == begin or i == 0 else known", "known = first if row == begin else known"),
        ("step = inputs if split < min(vector, co - q) else 0", "step = 0"),
        ("last = min(size, top + h - first)", "last = size"),
        ("partial[chunk] = 0", "pass"),
    ),
    *of(
        "conv2d", "cpu/simd/vectors.py", "tests/ops/test_segments.py",
        ("builder.mul(builder.udiv(own, outputs_), inputs_)", "builder.mul(builder.udiv(own, inputs_), inputs_)"),
    ),
    *of(
        "conv2d", "ops/conv2d/products.py", "tests/compiler/test_compile.py",
        ("epilogue.bias[channels], epilogue.relu)", "epilogue.bias[channels], False)"),
    ),
    *of(
        "pointwise", "ops/pointwise/cpu.py", "tests/ops/test_operators.py -k [pointwise_conv2d-cpu",
        ("row = (m * ho + u // stride) * wo + v // stride", "row = (m * h + u // stride) * wo + v // stride"),
        ("                    dx[m, u, v, q] = 0\n", "                    pass\n"),
    ),
    *of(
        "matrix product", "cpu/gemm.py", "tests/cpu/test_kernels.py -k product",
        ("sums_only(target, accumulate or k0 > 0)", "sums_only(target, accumulate)"),
        ("sums_only(target, k0 > first)", "sums_only(target, k0 > 0)"),
        ("i = min(first, m - size)", "i = min(first, max(0, m - size - 1))"),
    ),
    *of(
        "matrix product", "cpu/simd/tiles.py", "tests/cpu/test_kernels.py -k product",
        ("rows[j] = builder.shuffle_vector(a, b, choice)", "rows[j] = builder.shuffle_vector(b, a, choice)"),
    ),
    *of(
        "matrix product", "gpu/gemm/register_tiles.py", "tests/gpu/test_cuda_gemm.py",
        ("begin, end = part * share, min((part + 1) * share, k)", "begin, end = part * share, k"),
    ),
    *of(
        "separable", "cpu/depthwise_forward.py", "tests/ops/test_operators.py -k the_fast_rung_equals_the_definition",
        ("rows = min(ho - i, (last - p) // wo) if", "rows = (last - p) // wo if"),
    ),
    *of(
        "separable", "ops/separable/cpu.py", "tests/ops/test_operators.py -k the_fast_rung_equals_the_definition",
        ("stride, padding, none, relu)", "stride, padding, least, relu)"),
    ),
    *of(
        "depthwise", "ops/depthwise/cuda.py", "tests/ops/test_cuda_depthwise.py",
        ("inside = 0 <= u < h and 0 <= v < wd and q < c", "inside = u < h and v < wd and q < c"),
        ("    cuda.syncthreads()  # no thread has returned before: all of a block must arrive\n", ""),
    ),
    *of(
        "depthwise", "gpu/depthwise.py", "tests/ops/test_cuda_depthwise.py tests/ops/test_operators.py -k test_cuda_depthwise or gate",
        ("row[k] = floor if value < floor else value  # NaN is not less and stays", "row[k] = value if value > floor else floor"),
        ("gate[np.uint64(at)] > dtype(0) if rotated", "gate[np.uint64(at)] >= dtype(0) if rotated"),
    ),
    *of(
        "depthwise", "ops/depthwise/cuda_gradients.py", "tests/ops/test_cuda_depthwise.py",
        ("u, v = i * stride + a - top, j * stride + b - left", "u, v = i * stride + a - left, j * stride + b - top"),
    ),
    *of(
        "pooling", "ops/pooling/max_pool.py", "tests/ops/test_pooling.py",
        ("winner = splat(x, a0 * kw + b0)", "winner = splat(x, 0)"),
    ),
    *of(
        "pooling", "cpu/simd/registers.py", "tests/ops/test_pooling.py",
        ('builder.fcmp_unordered(">", value, best)', 'builder.fcmp_unordered(">=", value, best)'),
        ('builder.fcmp_unordered(">", value, best)', 'builder.fcmp_ordered(">", value, best)'),
    ),
    *of(
        "training step", "ops/pooling/max_pool.py", "tests/compiler/test_training_step.py -k meet",
        ("winner = holder(splat(x, incoming.floor), best, splat(x, kh * kw), winner)", "pass"),
    ),
    *of(
        "pooling", "ops/pooling/avg_pool.py", "tests/ops/test_cuda_pooling.py",
        ("down = min(kh, h + top - i * stride) - max(0, top - i * stride)", "down = kh"),
    ),
    *of(
        "pooling", "ops/pooling/global_pool.py", "tests/ops/test_pooling.py",
        ("total = np.zeros(stop - start)", "total = np.zeros(stop - start, x.dtype)"),
    ),
    *of(
        "window", "ops/window.py", "tests/ops/test_pooling.py tests/ops/test_golden_ops.py",
        ("max((outputs - 1) * stride + span - size, 0) // 2", "(max((outputs - 1) * stride + span - size, 0) + 1) // 2"),
    ),
    *of(
        "softmax", "ops/softmax.py", "tests/ops/test_small_ops.py tests/ops/test_cuda_small_ops.py",
        ("y[j] = math.exp(x[j] - top)", "y[j] = math.exp(x[j])"),
        ("    top = dtype(-math.inf)\n", "    top = dtype(0)\n"),
    ),
    *of(
        "loss", "ops/loss.py", "tests/ops/test_small_ops.py tests/ops/test_cuda_small_ops.py",
        ("(log_total + distance / k)", "(log_total + distance)"),
        ("if target > dtype(0):", "if True:"),
    ),
    *of(
        "relu", "ops/activation.py", "tests/ops/test_operators.py tests/ops/test_small_ops.py -k elu-cpu or sigmoid or test_small_ops",
        ("x = max(np.float64(x), -709.0)", "x = max(np.float64(x), -745.0)"),
        ("for n in range(13, 0, -1)", "for n in range(8, 0, -1)"),
    ),
    *of(
        "add", "ops/arithmetic.py", "tests/ops/test_operators.py tests/ops/test_small_ops.py -k [add or test_small_ops",
        ("if a.shape != b.shape:\n            return np.asarray(operation", "if a.size != b.size:\n            return np.asarray(operation"),
    ),
    *of(
        "linear", "ops/linear.py", "tests/gpu/test_cuda_gemm.py tests/test_cuda.py -k linear",
        ("for m in range(dy.shape[0]):\n            total", "for m in range(dy.shape[0] - 1):\n            total"),
    ),
    *of(
        "dropout", "ops/dropout.py", "tests/ops tests/nn -k dropout or mask",
        ("dtype=np.float32) >= rate)", "dtype=np.float32) < rate)"),
    ),
    *of(
        "engine", "engine/gradcheck.py", "tests/engine",
        ("if not abs(analytic - numeric) <= noise", "if abs(analytic - numeric) > noise"),
        ("    for t, grad in zip(tensors, before, strict=True):\n        t.grad = grad\n", ""),
    ),
    *of(
        "engine", "engine/accumulate.py", "tests/engine",
        ("elif total.size >= _LARGE and total.flags.c_contiguous and term.flags.c_contiguous:", "elif total.size >= _LARGE:"),
    ),
    *of(
        "engine", "engine/tape.py", "tests/engine",
        ("        _recording.reset(token)", "        pass"),
    ),
    *of(
        "compiler", "compiler/batch.py", "tests/compiler/test_compile.py",
        ("at_most = max(1, _TOGETHER * images // max(math.prod(node.output) for node in graph.nodes))",
         "at_most = _TOGETHER * images // max(math.prod(node.output) for node in graph.nodes)"),
    ),
    *of(
        "compiler", "compiler/cpu.py", "tests/compiler/test_compile.py",
        ("""            if step.fused or _is_max_pool(step):
                slots[step.result] = free.pop() if free else len(set(slots.values()))
            free += [slots[value] for value in done if value in slots]
""", """            free += [slots[value] for value in done if value in slots]
            if step.fused or _is_max_pool(step):
                slots[step.result] = free.pop() if free else len(set(slots.values()))
"""),
        ("return y.copy() if viewed else y", "return y"),
    ),
    *of(
        "compiler", "compiler/cuda.py", "tests/compiler/test_compile_cuda.py",
        ("return dtype(0) if total < dtype(0) else total  # NaN is not less and stays", "return total if total > dtype(0) else dtype(0)"),
    ),
    *of(
        "optim", "optim/optimizers.py", "tests/optim/test_optim.py",
        ("np.sqrt(np.add(s, self.eps, out=tmp), out=tmp)", "np.add(np.sqrt(s, out=tmp), self.eps, out=tmp)"),
        ("self.lr / (1 - self.beta1**self.steps), out=tmp)", "self.lr / (1 - self.beta1), out=tmp)"),
    ),
    *of(
        "optim", "optim/averaging.py", "tests/optim/test_optim.py",
        ("(1 + self.updates) / (10 + self.updates)", "self.updates / (10 + self.updates)"),
        ("kept = [copy(p.data) for p in self.params]", "kept = [p.data for p in self.params]"),
    ),
    *of(
        "optim", "optim/clipping.py", "tests/optim/test_optim.py",
        ("    if norm > max_norm:\n", "    if norm != max_norm:\n"),
    ),
    *of(
        "optim", "optim/schedules.py", "tests/optim/test_optim.py",
        ("math.floor(exponent) if self.staircase", "round(exponent) if self.staircase"),
    ),
    *of(
        "optim", "optim/cuda.py", "tests/test_cuda.py -k optimisers",
        ("math.sqrt(square * square_scale) + eps", "math.sqrt(square) * square_scale + eps"),
    ),
    *of(
        "training", "training/trainer.py", "tests/training/test_training.py -k every_single_step",
        ("        self.ema.load_state_dict(checkpoint.parts[\"ema\"])\n", ""),
        ("        if self.progress.means:\n", "        if False:\n"),
    ),
    *of(
        "training", "training/trainer.py", "tests/training/test_training.py -k its_own_steps",
        ("        self.loss, self.top1 = Mean(), Mean()\n        self._write_log()", "        self._write_log()"),
    ),
    *of(
        "training", "training/metrics.py", "tests/training/test_metrics.py",
        ("earlier = np.arange(classes) < labels[:, None]", "earlier = np.arange(classes) > labels[:, None]"),
    ),
    *of(
        "training", "training/evaluate.py", "tests/training/test_training.py -k evaluation",
        ("mean.update(value, len(labels))", "mean.update(value)"),
    ),
    *of(
        "weights", "weights/timm.py", "tests/weights/test_weight_sources.py -k timm",
        ("return tensor.transposed(2, 3, 1, 0)", "return tensor.transposed(3, 2, 1, 0)"),
    ),
    *of(
        "weights", "weights/match.py", "tests/weights/test_weights.py",
        ("theirs.sort(key=lambda layer: layer.number)", "theirs.sort(key=lambda layer: layer.name)"),
    ),
    *of(
        "weights", "weights/layers.py", "tests/weights/test_weights.py tests/weights/test_weight_sources.py",
        ("in sorted(children, key=lambda name: name != \"shortcut\"):", "in children:"),
    ),
    *of(
        "data", "data/prefetch.py", "tests/data/test_prefetch.py",
        ("        self.copied.synchronize()\n", ""),
        ("        self._queued.wait(self._stream)\n", ""),
    ),
    *of(
        "data", "data/folder.py", "tests/data/test_data.py -k folder",
        ("else order[num_test:])])", "else order[num_test - 1 :])])"),
    ),
    *of(
        "cost", "graph/trace.py", "tests/graph/test_cost.py",
        (" and t not in self.counted)", ")"),
    ),
    *of(
        "cost", "graph/cost.py", "tests/graph/test_cost.py minixception/graph/cost.py",
        ("[co // segments + (i < co % segments) for i in range(segments)]", "[co // segments for i in range(segments)]"),
    ),
    *of(
        "layers", "nn/layers.py", "tests/nn tests/training/test_transfer.py -k frozen or batchnorm",
        ("self.training and self.beta.requires_grad", "self.training"),
    ),
    *of(
        "memory", "cpu/memory.py", "tests/cpu/test_memory.py",
        ("-(-raw.ctypes.data // _ALIGN) * _ALIGN", "raw.ctypes.data // _ALIGN * _ALIGN"),
        ("raw = _free[size].pop()", "raw = _free[size][-1]"),
        ("itertools.accumulate(-(-size // line) * line for size in sizes)", "itertools.accumulate(sizes)"),
    ),
    *of(
        "simulator", "gpu/warps.py", "tests/gpu/test_cuda_warp.py",
        ("if sum(1 << t.lane for t in lanes) == mask]", "if len(lanes) > 1]"),
    ),
    *of(
        "simulator", "gpu/scheduler.py", "tests/analysis/test_trace.py -k barrier",
        ("self.warp_phase += what == \"warp\" and offer is None", "self.warp_phase += what == \"warp\""),
    ),
    *of(
        "simulator", "gpu/reduce.py", "tests/ops/test_cuda_small_ops.py tests/analysis/test_trace.py -k test_cuda_small_ops or softmax",
        ("        cuda.syncthreads()  # all have read: a next call may write\n", ""),
    ),
    *of(
        "analysis", "analysis/counts.py", "tests/analysis/test_trace.py -k sectors or bank or words",
        ("first, last = address // size, (address + width - 1) // size", "first, last = address // size, address // size"),
    ),
    *of(
        "analysis", "analysis/recorder.py", "tests/analysis/test_trace.py -k say_where",
        ("if not 0 <= i < size:", "if i >= size:"),
    ),
    *of(
        "analysis", "analysis/occupancy.py", "tests/gpu/test_ptx.py -k occupancy",
        ("max(shared, 1) + limits.shared_reserved", "max(shared, 1)"),
    ),
]  # fmt: skip


def main() -> int:
    """Plant them all, print the table, write the result; exit status 1 if a survivor is not explained."""
    parser = argparse.ArgumentParser(
        description="Mistakes planted in the package, to see whether the tests catch them."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", help="one area")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in (None, mutant.area)]
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean"
        for name in ("minixception", "tests", "docs", "notebooks", ".ci"):
            shutil.copytree(ROOT / name, clean / name)
        for name in ("pyproject.toml", "Makefile"):
            shutil.copy(ROOT / name, clean)
        found, needed = [], list(dict.fromkeys(mutant.tests for mutant in chosen))
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            for tests, fails in zip(needed, workers.map(lambda tests: fail(tests, clean), needed), strict=True):
                assert not fails, f"{tests} fail as it is: they would kill any mutant"
            killed = workers.map(lambda mutant: is_killed(mutant, clean), chosen)
            for mutant, verdict in zip(chosen, ("killed" if one else "survived" for one in killed), strict=True):
                found.append(asdict(mutant) | {"verdict": verdict})
                print(f"{len(found)}/{len(chosen)} {verdict}: {mutant.path}: {mutant.new.strip()[:80]}", flush=True)
    print(table(found))
    only = f" --only {options.only}" if options.only else ""
    write_result(options.out, f"python -m tests.by_hand.mutants {options.out}{only}", {"mutants": found})
    with atomic_path(options.out.with_suffix(".md")) as temporary:
        temporary.write_text("\n".join(page(found)), "utf-8")
    return int(any(one["verdict"] == "survived" and not one["why"] for one in found))


def is_killed(mutant: Mutant, clean: Path) -> bool:
    """Whether a test fails in a copy with the mistake. It links to what is compiled in ``clean``, and compiles the rest."""
    with tempfile.TemporaryDirectory(dir=clean.parent) as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(clean, copy, copy_function=os.link)
        path = copy / mutant.path
        right = path.read_text("utf-8")
        assert right.count(mutant.old) == 1, f"{mutant.path} has {mutant.old!r} {right.count(mutant.old)} times"
        path.unlink()  # the link: the file itself stays as it is
        path.write_text(right.replace(mutant.old, mutant.new), "utf-8")
        return fail(mutant.tests, copy)


def fail(tests: str, copy: Path) -> bool:
    """Whether one of these tests, files and perhaps ``-k words``, fails in the copy."""
    files, _, words = tests.partition(" -k ")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *files.split()]
    command += ["-k", words] if words else []
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=1800)
    crashed = -done.returncode in CRASHES  # any other signal comes from outside, and says nothing of the tests
    assert crashed or done.returncode in (0, 1, 2), (  # 2: the mistake keeps tests from being collected
        f"{tests}: ended with {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done.returncode != 0


def table(found: list[dict[str, str]]) -> Table:
    """By area: how many were planted and killed."""
    planted = Counter(one["area"] for one in found)
    killed = Counter(one["area"] for one in found if one["verdict"] == "killed")
    rows = [(area, planted[area], killed[area]) for area in sorted(planted)]
    return Table(("area", "planted", "killed"), rows, ("all", planted.total(), killed.total()))


def page(found: list[dict[str, str]]) -> Iterator[str]:
    """The table and the survivors, line by line."""
    counted = table(found)
    yield HEAD
    yield f"| {' | '.join(counted.header)} |\n|-|-|-|"
    for row in (*counted.rows, counted.total or ()):
        yield f"| {' | '.join(map(str, row))} |"
    yield "\n## Survivors\n\n| file | line | written instead | why it is no defect of the tests |\n|-|-|-|-|"
    for one in found:
        if one["verdict"] == "survived":
            cells = one["path"], *(f"`{' '.join(one[k].split())}`" for k in ("old", "new")), one["why"] or "a defect"
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


if __name__ == "__main__":
    raise SystemExit(main())
