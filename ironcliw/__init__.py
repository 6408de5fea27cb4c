"""One Ray cluster from a laptop to Spot.

The names below load on first use, so that `import ironcliw` costs nothing: neither Ray nor torch
is imported before it is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironcliw.client import AsyncClient, Client
    from serve.manager import TransformerManager
    from serve.prime import PrimeModel
    from train.config import TrainingConfig
    from train.trainer import Trainer

__version__ = "0.3.0"

_LAZY = {
    "AsyncClient": "ironcliw.client",
    "Client": "ironcliw.client",
    "PrimeModel": "serve.prime",
    "Trainer": "train.trainer",
    "TrainingConfig": "train.config",
    "TransformerManager": "serve.manager",
}
# Lists the public surface in order; tests/unit/ironcliw/test_public_names.py guards it.
__all__ = [
    "AsyncClient",
    "Client",
    "PrimeModel",
    "Trainer",
    "TrainingConfig",
    "TransformerManager",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ironcliw' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        extra = "train" if _LAZY[name].startswith("train.") else "local"
        raise ImportError(
            f"ironcliw.{name} needs the package {error.name!r}: pip install 'ironcliw[{extra}]'"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
