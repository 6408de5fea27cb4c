"""The night's work in a process of its own, so that the control actor goes on deciding meanwhile.

    python -m rl.live.nightly < pickled settings

It reads the store, writes the fit into the state directory and the standing into the store, and
prints nothing. Its parent is the control actor, which hands over its own settings.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, insert, select, update

from actors.tables import actors_router_states as states
from ironcliw import logs
from ironcliw.errors import IroncliwError
from ironcliw.settings import Settings
from ironcliw.store import Store
from rl.calibration.files import save_fit
from rl.live.base import base_parameters, learned_of
from rl.live.judging import WEEK, Judgement, judge, known_of
from rl.live.log import Log
from rl.live.state import change, read_standing
from rl.live.stored_log import stored_log
from rl.neural import Learned
from rl.policy import FIT_FILE, FOLDER, policy_path
from rl.promotion import SHARES, Signs, Standing, advance, watch

NAME = "night"
NICE = 10
HISTORY_SECONDS = 60 * 86_400.0
_BYTES_A_GB = 1_000_000_000


def night(settings: Settings, store: Store, now: float) -> Judgement:
    """Read the log, refit, judge, and write what follows from it.

    Raises:
        StoreError: the store cannot be used.
        DataError: the fit cannot be written.
    """
    idle = 60.0 * settings.cloud.idle_minutes
    with store.read() as connection:
        log = stored_log(connection, now - HISTORY_SECONDS, now)
        standing, _ = read_standing(connection)
    found = judge(
        log, now, known(settings), trial(settings.state_dir, standing, idle), idle, standing,
        base_parameters(settings.state_dir / FOLDER),
    )  # fmt: skip
    if found.fit is not None:
        save_fit(settings.state_dir / FOLDER / FIT_FILE, found.fit)
    evidence = found.evidence(now)

    def follow(old: Standing) -> Standing:
        if old.policy != standing.policy or old.stage != standing.stage:
            return old  # somebody was faster: what was found is about another standing
        raised = advance(old, evidence)
        if raised.stage != old.stage:
            return raised
        return watch(raised, Signs(now, cost_ratio=_ratio(found, old, now)))

    with store.write() as connection:
        change(connection, follow)
        write_night(connection, page_of(found, log), now)
    return found


def trial(state_dir: Path, standing: Standing, idle_seconds: float) -> Callable[[], Learned] | None:
    """What makes the policy on trial; None where there is none that can be used.

    Args:
        state_dir: With its file.
        standing: That names it.
        idle_seconds: After which the system gives machines back.
    """
    if not standing.policy or standing.stage == "off":
        return None
    path = policy_path(state_dir, standing.policy)
    made = partial(learned_of, path, idle_seconds)
    try:
        made()
    except IroncliwError:
        return None  # the control actor meets the same, and rolls it back
    return made


def known(settings: Settings) -> dict[str, dict[str, Any]]:
    """What settings and this machine, the head, say of a regime."""
    memory = psutil.virtual_memory().total / _BYTES_A_GB
    return known_of(settings, memory, float(os.cpu_count() or 1))


def page_of(found: Judgement, log: Log) -> dict[str, Any]:
    """What a night has found, as JSON, for `ironcliw route status`."""
    return {
        "steps": 0 if found.fit is None else found.fit.steps,
        "workflows": len(log.workflows),
        "decisions": len(log.decisions),
        "why_no_fit": found.why_no_fit,
        "misfit": found.misfit,
        "replay": (
            None
            if found.replay is None
            else {name: asdict(one) for name, one in found.replay.figures.items()}
        ),
        "gain": None if found.gain is None else asdict(found.gain),
        "why_no_gain": found.why_no_gain,
        "stage_gain": None if found.stage_gain is None else asdict(found.stage_gain),
        "exposure": asdict(found.exposure),
        "replay_gain": found.replay_gain,
        "cost_ratio": None if found.cost_ratio is None else asdict(found.cost_ratio),
    }


def write_night(connection: Connection, page: dict[str, Any], now: float) -> None:
    """Keep what the last night has found."""
    values = {"version": 1, "updated_at": now, "state": page}
    if connection.execute(update(states).where(states.c.name == NAME).values(values)).rowcount == 0:
        connection.execute(insert(states).values(name=NAME, **values))


def read_night(connection: Connection) -> tuple[float, dict[str, Any]] | None:
    """(when, what) of the last night; None before the first."""
    row = connection.execute(
        select(states.c.updated_at, states.c.state).where(states.c.name == NAME)
    ).one_or_none()
    return None if row is None else (row.updated_at, dict(row.state))


def _ratio(found: Judgement, standing: Standing, now: float) -> float | None:
    """Of seven days' cost, at the least.

    None where nobody learned decides, before a stage is seven days old, or where the fit is bad.
    """
    if SHARES[standing.stage] <= 0 or now - standing.since < WEEK or found.misfit:
        return None
    return None if found.cost_ratio is None else found.cost_ratio.low


def main() -> int:
    """Do it with the settings on standard input."""
    os.nice(NICE)  # the head decides, serves and runs steps meanwhile
    settings: Settings = pickle.load(sys.stdin.buffer)
    logs.configure(settings.log)
    with Store(settings.store_url) as store:
        night(settings, store, time.time())
    return 0


if __name__ == "__main__":
    sys.exit(main())
