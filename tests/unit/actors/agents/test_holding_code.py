"""The code of agents is held for as long as they live, whatever Ray or the disk says meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RaySystemError

from actors.agent import Agent, capability
from actors.agents import ray_hosts
from actors.agents.bench import AgentBench
from actors.agents.code_copies import CodeCopies
from actors.agents.ray_hosts import RayHosts
from cluster.head import project_code
from ironcliw.setting_sections import LogSettings
from tests.waiting import until

URI = "gcs://_ray_pkg_0123456789abcdef.zip"
ERRORS = [OSError("the disk is full"), RaySystemError("it restarts"), RuntimeError("it restarts")]


class Copies(CodeCopies):
    """Raises at first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.errors: list[Exception] = list(ERRORS)
        self.held = 0

    def touch(self, uri: str) -> None:
        raise OSError("the folder is gone")

    def hold(self, uri: str) -> None:
        if self.errors:
            raise self.errors.pop()
        self.held += 1


async def test_no_error_ends_the_holding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_hosts, "_RENEW_SECONDS", 0.01)
    copies = Copies(tmp_path)
    hosts = RayHosts(LogSettings(), copies=copies)
    hosts.keep_code({"working_dir": URI})
    await until(lambda: copies.held > 1)
    assert hosts._keeper is not None
    hosts._keeper.cancel()


async def test_no_error_ends_the_holding_of_the_projects_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors, held = list(ERRORS), 0

    def renew(*words: Any) -> None:
        nonlocal held
        if errors:
            raise errors.pop()
        held += 1

    monkeypatch.setattr(project_code, "_renew", renew)
    keeping = asyncio.create_task(project_code.keep(URI, 0.01))
    await until(lambda: held > 1)
    keeping.cancel()


class Idle(Agent):
    @capability("rest")
    async def rest(self, body: Any) -> str:
        return "rested"


async def test_a_start_whose_code_cannot_be_kept_leaves_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(environment: Any) -> None:
        raise OSError("the folder is gone")

    async with AgentBench() as bench:
        with monkeypatch.context() as patch:
            patch.setattr(bench.hosts, "keep_code", broken)
            with pytest.raises(OSError, match="the folder is gone"):
                await bench.start(Idle, name="idle")
        await bench.start(Idle, name="idle")
        assert await bench.ask("rest") == "rested"
