"""How frozen weights may be held; apart, so that a configuration is read without torch."""

from __future__ import annotations

from typing import Literal

Quantization = Literal["nf4", "nf4_bitsandbytes"]
