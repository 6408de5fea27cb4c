"""The peer TRL, without TRL."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.peers import trl_loss_head

_TRL = """
import torch

class ChunkedLogProbFunction:
    @staticmethod
    def apply(hidden, weight, bias, targets, temperature, tile, softcap, scale, outputs):
        assert (bias, temperature, softcap, scale) == (None, 1.0, None, 1.0)
        assert outputs == ("entropy", "is_top1") and targets.min() >= 0
        return ((hidden @ weight.t()).log_softmax(1).gather(1, targets[:, None])[:, 0], None)
"""


def test_it_is_missing_until_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trl_loss_head, "ENVIRONMENT", tmp_path)
    found = trl_loss_head.missing()
    assert found is not None
    assert "make bench-peers" in str(found)
    (tmp_path / "lib/python3.11/site-packages/trl").mkdir(parents=True)
    assert trl_loss_head.missing() is None


def test_the_mean_is_over_the_supervised_positions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    (packages / "trl").mkdir(parents=True)
    (packages / "trl" / "__init__.py").touch()
    (packages / "trl" / "kernels.py").write_text(_TRL, encoding="utf-8")
    monkeypatch.setattr(trl_loss_head, "ENVIRONMENT", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    hidden, weight = torch.randn(5, 4), torch.randn(7, 4)
    targets = torch.tensor([3, -100, 6, 0, -100])
    try:
        loss = trl_loss_head.loss_head(hidden, weight, targets)
    finally:
        for name in ("trl", "trl.kernels"):
            sys.modules.pop(name, None)
    wanted = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets, ignore_index=-100)
    torch.testing.assert_close(loss, wanted)
