"""PyTorch on the GPU as it is compared with: float32 throughout, cuDNN's fastest kernels, in our stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def why_not() -> str:
    """Why PyTorch cannot be timed here; nothing if it can."""
    if not torch.backends.cuda.is_built():
        return f"PyTorch {torch.__version__} was built without CUDA"
    return "" if torch.cuda.is_available() else f"PyTorch {torch.__version__} finds no GPU that it can use"


@contextmanager
def compared(stream: int) -> Iterator[dict[str, Any]]:
    """Let PyTorch work in the CUDA stream with this address inside of the block; says with which settings.

    TF32, which rounds factors to 10 bits, is off in matrix products and convolutions; cuDNN tries its kernels and
    keeps the fastest ("benchmark").
    """
    backends: Any = torch.backends
    precisions = backends.cuda.matmul, backends.cudnn.conv
    before = [one.fp32_precision for one in precisions], backends.cudnn.benchmark
    for one in precisions:
        one.fp32_precision = "ieee"
    backends.cudnn.benchmark = True
    try:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            yield {
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "cudnn": backends.cudnn.version(),
                "cudnn_benchmark": backends.cudnn.benchmark,
                "tf32_matmul": backends.cuda.matmul.fp32_precision != "ieee",
                "tf32_convolution": backends.cudnn.conv.fp32_precision != "ieee",
                "mode": "eager",
                "dtype": "float32",
            }
    finally:
        for one, precision in zip(precisions, before[0], strict=True):
            one.fp32_precision = precision
        backends.cudnn.benchmark = before[1]
