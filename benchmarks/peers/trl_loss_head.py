"""TRL's loss head without logits, as its SFTTrainer calls it where there is no CUDA.

From an environment of its own (`make bench-peers`), behind ours on the path: torch and transformers
are the same for both.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import NotRun
from benchmarks.machine import ROOT

NAME = "TRL 1.16"
ENVIRONMENT = ROOT / ".venv-peers" / "trl"
_IGNORED = -100
# of trl/trainer/utils.py 1.16: tokens of the vocabulary in a tile, and what SFTTrainer logs
_TILE = 32768
_OUTPUTS = ("entropy", "is_top1")


def missing() -> NotRun | None:
    """Why the peer cannot run, or None when it can."""
    if site_packages() is not None:
        return None
    return NotRun("trl is not installed; `make bench-peers` installs it")


def loss_head(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean loss of the supervised positions.

    Args:
        hidden: [N, H].
        weight: [V, H].
        targets: int64 [N]; -100 where nothing is asked for.
    """
    found = site_packages()
    assert found is not None
    if str(found) not in sys.path:
        sys.path.append(str(found))
    function: Any = importlib.import_module("trl.kernels").ChunkedLogProbFunction
    # every position is scored off CUDA (`_fused_forward`), the ignored ones are masked afterwards
    scores = function.apply(
        hidden, weight, None, targets.clamp(min=0), 1.0, _TILE, None, 1.0, _OUTPUTS
    )[0]
    asked = targets != _IGNORED
    loss: torch.Tensor = -scores.masked_fill(~asked, 0).sum() / asked.sum().clamp(min=1)
    return loss


def site_packages() -> Path | None:
    """Where the peer is installed; None: nowhere."""
    found = next(ENVIRONMENT.glob("lib/python*/site-packages"), None)
    return found if found is not None and (found / "trl").is_dir() else None
