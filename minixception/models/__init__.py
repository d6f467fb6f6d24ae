"""Networks; each file reads like its paper's figure."""

from __future__ import annotations

from .xception import Xception, mini_xception

__all__ = ["Xception", "mini_xception"]
