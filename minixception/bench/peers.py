"""Other libraries that run the same network on the same input: what our own times are measured beside.

Each is built from the same network in PyTorch or in TensorFlow, with its number of threads set explicitly, and gets its
input in its own layout before any time is taken. No library is imported before it is built. The extra ``peers``
installs all but TensorFlow, whose package for the CPU has not the same name everywhere (``tensorflow-cpu``,
``tensorflow``), and LiteRT (``ai-edge-litert``), which runs TensorFlow's graph: they are measured where somebody has
installed them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np

from ..nn import Module

Run = Callable[[], Any]  # returns logits, an array or a tensor of PyTorch
Step = tuple[Callable[[], Any], Callable[[], list[np.ndarray]]]  # one step, and the gradients that it left


@dataclass(frozen=True)
class Peer:
    """What must be installed, by the names to import (nothing: it is ours), and how to build it.

    exact: how to build it in float64, if not by ``build``.
    """

    needs: tuple[str, ...]
    build: Callable[..., Any]
    exact: Callable[..., Any] | None = None


def installed(peers: dict[str, Peer], say: Callable[[str], Any]) -> dict[str, Peer]:
    """The peers whose libraries are installed, none of which is imported; says one line for each that is left out.

    >>> installed({"nobody": Peer(("no_such_library",), print)}, print)
    nobody is left out: no_such_library is not installed
    {}
    """
    return {name: peer for name, peer in peers.items() if _has_all(name, peer.needs, say)}


def versioned() -> tuple[str, ...]:
    """Names of the installed distributions that a peer is made of, for the versions in a result file.

    A distribution need not have the name that one imports: ``tensorflow`` comes in tensorflow-cpu.
    """
    names = dict.fromkeys(library for peer in INFERENCE.values() for library in peer.needs)
    distributions = metadata.packages_distributions()
    return tuple(distributions[name][0] for name in names if importlib.util.find_spec(name))


def _has_all(name: str, libraries: Iterable[str], say: Callable[[str], Any]) -> bool:
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            say(f"{name} is left out: {library} is not installed")
            return False
    return True


# Inference: (model, x (n, h, w, c), threads) -> function that returns the logits --------------------------------------


def _torch_eager(model: Module, x: np.ndarray, threads: int, device: str = "cpu", layout: str = "channels_last") -> Run:
    import torch

    from .torch_networks import peer_model_on, to_torch

    torch.set_num_threads(threads)
    theirs, image = peer_model_on(model, device, layout).eval(), to_torch(x, device, layout)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return theirs(image)

    return run


def _torch_script(model: Module, x: np.ndarray, threads: int) -> Run:
    """Traced, frozen and optimised: batchnorm folded, convolutions and ReLU fused by oneDNN."""
    import torch

    from .torch_networks import peer_model, to_torch

    torch.set_num_threads(threads)
    image = to_torch(x)
    with torch.inference_mode(), _quiet():
        theirs = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(peer_model(model).eval(), image)))

    def run() -> np.ndarray:
        with torch.inference_mode():
            return theirs(image).numpy()

    return run


def _onnxruntime(model: Module, x: np.ndarray, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(_onnx(model, x), options, providers=["CPUExecutionProvider"])
    feed = {"x": _nchw(x)}
    return lambda: session.run(None, feed)[0]


def _openvino(model: Module, x: np.ndarray, threads: int) -> Run:
    """In float32: left to itself it computes in bfloat16 where the CPU can."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(io.BytesIO(_onnx(model, x))), "CPU", settings).create_infer_request()
    feed = {"x": _nchw(x)}
    return lambda: request.infer(feed)[0]


def _tensorflow(model: Module, x: np.ndarray, threads: int) -> Run:
    """The graph is optimised when it first runs: batchnorm folded, convolutions and ReLU fused by oneDNN.

    The threads are those of the first session of a process, and of every later one.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors only
    import tensorflow as tf

    from .tensorflow_networks import frozen

    graph, image, logits = frozen(model, x.shape)
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
    run = tf.compat.v1.Session(graph=graph, config=config).make_callable(logits, [image])
    return lambda: run(x)


def _litert(model: Module, x: np.ndarray, threads: int) -> Run:
    """TensorFlow's graph as a .tflite file of float32, which LiteRT hands to XNNPACK: batchnorm and ReLU are folded."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    from .tensorflow_networks import frozen

    graph, image, logits = frozen(model, x.shape)
    with tf.compat.v1.Session(graph=graph) as session, _quiet():
        file = tf.compat.v1.lite.TFLiteConverter.from_session(session, [image], [logits]).convert()
    interpreter = Interpreter(model_content=file, num_threads=threads)
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run() -> np.ndarray:
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"])

    return run


INFERENCE = {
    "torch eager": Peer(("torch",), _torch_eager),
    "torch script": Peer(("torch",), _torch_script),
    "onnxruntime": Peer(("torch", "onnx", "onnxruntime"), _onnxruntime),
    "openvino": Peer(("torch", "onnx", "openvino"), _openvino),
    "tensorflow": Peer(("tensorflow",), _tensorflow),
    "litert": Peer(("tensorflow", "ai_edge_litert"), _litert),
}


def _onnx(model: Module, x: np.ndarray) -> bytes:
    """The network as an ONNX file for inputs (n, c, h, w) of exactly this shape."""
    import torch

    from .torch_networks import peer_model

    file = io.BytesIO()
    with _quiet():
        torch.onnx.export(
            peer_model(model).eval(), (torch.from_numpy(_nchw(x)),), file, input_names=["x"], dynamo=False
        )
    return file.getvalue()


def _nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


@contextlib.contextmanager
def _quiet() -> Any:
    """Both exporters say that newer ones exist; these are the ones whose results run fastest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Training: (model, x, labels, threads, lr) -> one step of SGD with momentum, and the gradients it left ----------------
# All of them in the precision of x.

_MOMENTUM = 0.9


def _torch_training(
    model: Module,
    x: np.ndarray,
    labels: np.ndarray,
    threads: int,
    lr: float,
    device: str = "cpu",
    layout: str = "channels_last",
    faster: Callable[[Any, Any], Any] = lambda network, image: network,
) -> Step:
    """faster: what makes of network and images the network that is trained, with the same parameters."""
    import torch

    from .torch_networks import from_torch, peer_model_on, to_torch

    torch.set_num_threads(threads)
    image, target = to_torch(x, device, layout), torch.from_numpy(labels).to(device)
    theirs = peer_model_on(model, device, layout).train()
    trained = faster(theirs, image)
    sgd = torch.optim.SGD(theirs.parameters(), lr=lr, momentum=_MOMENTUM, fused=device == "cpu" or None)

    def step() -> None:
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(trained(image), target).backward()
        sgd.step()

    return step, lambda: [from_torch(p.grad) for p in theirs.parameters()]


def _traced(network: Any, image: Any) -> Any:
    """By TorchScript, which fuses while it first runs; it would check itself by a second run, with batchnorm moved."""
    import torch

    with _quiet():
        return torch.jit.trace(network, image, check_trace=False)


def _compiled(network: Any, image: Any) -> Any:
    """Its forward and backward pass as C++, which a compiler of the system makes of it when it first runs."""
    import torch

    return torch.compile(network)


def _tensorflow_training(model: Module, x: np.ndarray, labels: np.ndarray, threads: int, lr: float) -> Step:
    """A step is one graph, which oneDNN computes; without XLA."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from .tensorflow_networks import trained

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return trained(model, x, labels, lr, _MOMENTUM)


TRAINING = {
    "torch eager": Peer(("torch",), _torch_training),
    "torch script": Peer(("torch",), partial(_torch_training, faster=_traced)),
    "torch compile": Peer(("torch",), partial(_torch_training, faster=_compiled)),
    "tensorflow": Peer(("tensorflow",), _tensorflow_training),
}


# PyTorch on a GPU, in the layout that cuDNN prefers and in its own default: the better one counts ---------------------

LAYOUTS = ("channels_last", "contiguous")


def on_gpu(kind: str) -> dict[str, Peer]:
    """PyTorch's eager networks on the GPU, for "inference" or "training"."""
    build: Any = {"inference": _torch_eager, "training": _torch_training}[kind]
    return {f"torch {layout}": Peer(("torch",), partial(build, device="cuda", layout=layout)) for layout in LAYOUTS}
