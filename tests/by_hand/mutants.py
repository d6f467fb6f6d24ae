"""Mistakes planted in the package, one at a time, to see whether the tests that should catch it do.

    python -m tests.by_hand.mutants docs/results/mutants.json [--only AREA]

Each mutant is a line of the package written differently, in a copy of the sources, and the tests that should notice: a
list that is fixed, so that a number means the same in each run. A survivor is a defect of the tests, or its ``why`` says
what makes it none. Takes some seconds a mutant.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from minixception.bench.results import write_result
from minixception.tables import Table

ROOT = Path(__file__).parents[2]


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
        ("delta * (count / (before + count))", "delta * (count / (before + count + 1))"),
        ("m2[chunk, q] += block_m2 + delta * delta * (before * count / (before + count))", "m2[chunk, q] += block_m2"),
        ("np.float64(start - first), np.float64", "np.float64(0), np.float64"),
        ("block_m2 = np.float64(square[q]) - sum_d64 * sum_d64 / count", "block_m2 = np.float64(square[q])"),
        ("sum_dy[chunk, q] += block_dy[q]", "sum_dy[chunk, q] = block_dy[q]"),
        ("sum_dy_d[chunk, q] += block_dy_d[q]", "sum_dy_d[chunk, q] = block_dy_d[q]"),
        ("_CHUNKS = 32", "_CHUNKS = 64", "another order of the same sum: equal but for rounding"),
    ),
    *of(
        "depthwise", "ops/depthwise/cpu.py", "tests/ops/test_operators.py -k depthwise",
        ("range(chunk * n * ho // chunks, (chunk + 1) * n * ho // chunks)", "range(chunk, n * ho, chunks + 1)"),
        ("partial.sum(axis=0)", "partial[0]"),
        ("kh - 1 - top, kw - 1 - left)", "kh - 1 - left, kw - 1 - top)"),
        ("dx[~(x > 0)] = 0", "dx[x < 0] = 0"),
        ("max(u % stride, u - stride * (ho - 1))", "u % stride"),
    ),
    *of(
        "elementwise", "cpu/elementwise.py", "tests/optim/test_optim.py tests/ops/test_operators.py",
        ("return (size + CHUNK - 1) // CHUNK", "return max(1, size // CHUNK)"),
        ("return array[chunk * CHUNK : (chunk + 1) * CHUNK]", "return array[chunk * CHUNK : (chunk + 1) * CHUNK - 1]"),
    ),
    *of(
        "engine", "engine/accumulate.py", "tests/engine",
        ("        total[i] += term[i]\n\n\n@kernel", "        total[i] = term[i]\n\n\n@kernel"),
        ("for i in prange(total.size):", "for i in prange(total.size - 1):"),
    ),
    *of(
        "engine", "engine/tape.py", "tests/engine tests/ops/test_operators.py",
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
        "engine", "engine/op.py", "tests/ops/test_operators.py tests/engine tests/test_package.py",
        ("if all(a.size for a in arrays) else", "if True else"),
        ('"wanted": tuple(t.requires_grad for t in tensors)', '"wanted": tuple(True for t in tensors)'),
    ),
    *of(
        "relu", "ops/activation.py", "tests/ops/test_operators.py tests/ops/test_small_ops.py",
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
        ("                del values[index]\n", "                pass\n"),
    ),
    *of(
        "compiler", "compiler/__init__.py", "tests/compiler/test_compile.py",
        ("        with self._turn:\n", "        if True:\n"),
    ),
    *of(
        "loss", "ops/loss.py", "tests/ops/test_operators.py tests/ops/test_small_ops.py tests/test_package.py",
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
        ("                module.training = training\n", "                module.training = True\n"),
        ("        modes = [(module, module.training) for _, module in self.named_modules()]", "        modes = [(self, self.training)]"),
    ),
    *of(
        "training", "training/trainer.py", "tests/training/test_recipe.py",
        ("recipe.label_smoothing)", "0.0)"),
        ("        if self.recipe.clip_norm:", "        if False:"),
        ("shuffle=True", "shuffle=False"),
        ("augment=self.recipe.augment", "augment=False"),
        ("drop_last=True,\n", "drop_last=False,\n"),
        ("            epoch=progress.epoch,", "            epoch=0,"),
        ("        random.seed(hash_of", "        (hash_of"),
        ("for _, t in self.model.named_tensors()]", "for t in self.model.parameters()]"),
        ("        self.optimizer.step()\n        self.ema.update()", "        self.ema.update()\n        self.optimizer.step()"),
        ("        self.optimizer.lr = self._lr(self.progress.step)\n", ""),
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
        copy = Path(folder)
        for name in ("minixception", "tests", "docs", "notebooks"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        found = []
        for tests in dict.fromkeys(mutant.tests for mutant in chosen):
            assert not fail(tests, copy), f"{tests} fail as it is: they would kill any mutant"
        for number, mutant in enumerate(chosen, 1):
            verdict = "killed" if is_killed(mutant, copy) else "survived"
            found.append(asdict(mutant) | {"verdict": verdict})
            print(f"{number}/{len(chosen)} {verdict}: {mutant.path}: {mutant.new.strip()[:80]}", flush=True)
    print(table(found))
    write_result(options.out, f"python -m tests.by_hand.mutants {options.out}", {"mutants": found})
    return int(any(one["verdict"] == "survived" and not one["why"] for one in found))


def is_killed(mutant: Mutant, copy: Path) -> bool:
    """Whether a test fails in the copy while the mistake is in it."""
    path = copy / mutant.path
    right = path.read_text("utf-8")
    assert right.count(mutant.old) == 1, f"{mutant.path} has {mutant.old!r} {right.count(mutant.old)} times"
    path.write_text(right.replace(mutant.old, mutant.new), "utf-8")
    try:
        return fail(mutant.tests, copy)
    finally:
        path.write_text(right, "utf-8")


def fail(tests: str, copy: Path) -> bool:
    """Whether one of these tests, files and perhaps ``-k words``, fails in the copy."""
    files, _, words = tests.partition(" -k ")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files.split()]
    command += ["-k", words] if words else []
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode in (0, 1, 2), done.stdout + done.stderr  # 2: the mistake keeps tests from being collected
    return done.returncode != 0


def table(found: list[dict[str, str]]) -> Table:
    """By area: how many were planted and killed."""
    planted = Counter(one["area"] for one in found)
    killed = Counter(one["area"] for one in found if one["verdict"] == "killed")
    rows = [(area, planted[area], killed[area]) for area in planted]
    return Table(("area", "planted", "killed"), rows, ("all", planted.total(), killed.total()))


if __name__ == "__main__":
    raise SystemExit(main())
