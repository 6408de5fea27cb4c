"""What the router does beside deciding: the night's work, and following a fit."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ironcliw.settings import load_settings
from rl.calibration.files import save_fit
from rl.calibration.fit import fit_log
from rl.live import upkeep as module
from rl.live.nightly import write_night
from rl.live.state import change
from rl.live.upkeep import AGAIN_SECONDS, FOLLOW_SECONDS, Upkeep
from rl.policy import FIT_FILE, FOLDER, NumpyPolicy
from rl.promotion import Standing, install
from tests.unit.rl.live.logs import log_of
from tests.unit.rl.live.situations import install as install_file
from tests.unit.rl.live.situations import policy_of
from tests.unit.rl.live.worlds import World, world
from tests.waiting import until

DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def own_policy(folder: Path) -> NumpyPolicy:
    settings = load_settings(state_dir=str(folder))
    return NumpyPolicy(folder, settings=settings)


def stand(one: World, work: Callable[[Standing], Standing]) -> None:
    with one.store.write() as connection:
        change(connection, work)


def instead_of_the_night(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    """A program that is started in place of the night's; it writes its process id to a file."""
    pids, program = folder / "pids", folder / "night"
    program.write_text(f"#!/bin/sh\necho $$ >> {pids}\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return pids


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


async def test_the_standing_is_followed_while_the_night_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = install_file(tmp_path, policy_of())
    pids = instead_of_the_night(tmp_path, monkeypatch, "exec sleep 600")
    monkeypatch.setattr(module, "FOLLOW_SECONDS", FOLLOW_SECONDS / 1000)
    async with world(tmp_path, own_policy(tmp_path)) as one:
        clock = Clock()
        upkeep = Upkeep(one.policy, one.journal, clock=clock)
        clock.now += AGAIN_SECONDS + 1.0
        running = asyncio.create_task(upkeep.run())
        try:
            await until(lambda: len(lines(pids)) == 1)
            stand(one, lambda old: install(old, digest, clock.now))
            await until(lambda: one.policy.standing.stage == "shadow")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert not psutil.pid_exists(int(lines(pids)[0])), "the night's work ends with it"
        assert len(lines(pids)) == 1


async def test_a_night_that_failed_is_tried_again_in_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pids = instead_of_the_night(tmp_path, monkeypatch, "echo no room >&2; exit 1")
    async with world(tmp_path, own_policy(tmp_path)) as one:
        clock = Clock()
        with one.store.write() as connection:
            write_night(connection, {}, clock.now - DAY)
        upkeep = Upkeep(one.policy, one.journal, clock=clock)
        clock.now += AGAIN_SECONDS + 1.0
        monkeypatch.setattr(module, "NIGHT_HOUR", time.localtime(clock.now).tm_hour)

        async def rounds() -> None:
            await upkeep.round()
            night = upkeep._night
            if night is not None:
                await asyncio.wait([night])
            await upkeep.round()

        await rounds()
        assert len(lines(pids)) == 1
        assert "refitting failed, and is tried again in an hour: no room" in caplog.text
        clock.now += AGAIN_SECONDS - 10.0
        await rounds()
        assert len(lines(pids)) == 1
        clock.now += 20.0
        await rounds()
        assert len(lines(pids)) == 2, "it is not that hour any more, and yet"


async def test_a_fit_that_somebody_writes_is_believed(tmp_path: Path) -> None:
    async with world(tmp_path, own_policy(tmp_path)) as one:
        upkeep = Upkeep(one.policy, one.journal)
        await upkeep.round()
        assert one.policy.fit.steps == 0
        saved = save_fit(tmp_path / FOLDER / FIT_FILE, fit_log(log_of(3)))
        await upkeep.round()
        assert one.policy.fit.digest == saved.digest
