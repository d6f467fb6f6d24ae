"""A layer's forward and backward pass in PyTorch, eager, to time beside ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..nn import Module
from .torch_networks import CHANNELS_LAST, from_torch, peer_model_on, to_torch

Pass = tuple[Callable[[], Any], list[np.ndarray]]  # what to time, and what it computes


def passes(
    module: Module, x: np.ndarray, dy: np.ndarray, threads: int, device: str = "cpu", layout: str = CHANNELS_LAST
) -> dict[str, Pass]:
    """The same layer with the same weights, "forward" and "backward"; gradients of x, then of the parameters."""
    torch.set_num_threads(threads)
    theirs, arriving = peer_model_on(module, device, layout), to_torch(dy, device, layout)
    image = to_torch(x, device, layout).requires_grad_()
    wanted = [image, *theirs.parameters()]
    y = theirs(image)

    def forward() -> Any:
        with torch.no_grad():
            return theirs(image)

    def backward() -> Any:
        return torch.autograd.grad(y, wanted, arriving, retain_graph=True)

    of_x, *of_weights = backward()
    return {
        "forward": (forward, [_image(forward())]),
        "backward": (backward, [_image(of_x), *[from_torch(gradient) for gradient in of_weights]]),
    }


def _image(tensor: Any) -> np.ndarray:
    """(n, c, h, w) as (n, h, w, c)."""
    return tensor.detach().permute(0, 2, 3, 1).cpu().numpy()
