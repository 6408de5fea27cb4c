"""Every test starts clean: environment, state directory, log handlers, and the same chance."""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

from ironcliw.logs import PACKAGES

# How fast examples are made and run depends on what else the machine does, and says nothing of the
# code. The examples are the same in each run, so that a change is not refused for an old fault that
# chance found today; `make test-explore` looks for new ones.
_ANY_SPEED = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.register_profile("ironcliw", _ANY_SPEED, derandomize=True, database=None)
hypothesis.settings.register_profile(
    "explore",
    _ANY_SPEED,
    derandomize=False,
    database=hypothesis.database.DirectoryBasedExampleDatabase(".hypothesis/examples"),
)
hypothesis.settings.load_profile("ironcliw")

_REAL_RAY = ("tests/integration/", "tests/chaos/")


class OneClusterAtATime(LoadFileScheduling):
    """As `--dist loadfile`; but whatever starts a real Ray is done by one worker, in turn."""

    def _split_scope(self, nodeid: str) -> str:
        return "real Ray" if nodeid.startswith(_REAL_RAY) else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneClusterAtATime | None:
    """Tests that mostly wait for Ray leave a core to those of another worker that compute."""
    return OneClusterAtATime(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("IRONCLIW_", "RAY_", "OPENAI_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IRONCLIW_STATE_DIR", str(tmp_path / "state"))
    # no test may reach a model hub
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(autouse=True)
def same_chance() -> None:
    """What is drawn without a seed, as the jitter of a retry, is the same in each run."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def clean_logging() -> Iterator[None]:
    """A command sets the logs up for its process; the next test's streams are others."""
    before = {name: _state(logging.getLogger(name)) for name in PACKAGES}
    yield
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def _state(logger: logging.Logger) -> tuple[list[logging.Handler], int, bool]:
    return list(logger.handlers), logger.level, logger.propagate
