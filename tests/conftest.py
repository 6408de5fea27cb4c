"""Every test starts with a clean environment and a state directory of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("IRONCLIW_", "RAY_", "OPENAI_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IRONCLIW_STATE_DIR", str(tmp_path / "state"))
    # no test may reach a model hub
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
