"""A head that is killed: steps' processes, the control actor, or all of it at once."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks import processes
from benchmarks.harness import BenchmarkError
from benchmarks.machine import ROOT
from cluster.testing.ports import free_ports
from ironcliw.settings import process_environment

logger = logging.getLogger(__name__)

_UP_SECONDS = 240
STEP, CONTROL, HOST = "ray::step:", "ray::Control", "ray::HostActor"
"""How the titles of such processes begin."""
SOONEST, LATEST = 1.5, 4.5
"""Seconds between two kills, drawn evenly."""
_CONTROL_EVERY, _HOST_EVERY = 7, 11
"""Of the kills that do not take the head: each so-manieth is for the control actor, or an agents'
process."""


class Head:
    """A head with a state directory and ports of its own.

    Args:
        folder: For state and logs; empty.
        draw: Says when, and which process.
    """

    def __init__(self, folder: Path, draw: random.Random) -> None:
        port, gcs, dashboard, metrics, agent = free_ports(5)
        self.url = f"http://127.0.0.1:{port}"
        self.state = folder / "state"
        self.kills: Counter[str] = Counter()
        self._draw, self._folder = draw, folder
        self._tag = secrets.token_hex(8)
        self._temp = Path(f"/tmp/icw-proof-{port}")  # short: it becomes part of a socket's path
        modules = json.dumps(["benchmarks.workflow_proof_work"])
        variables = {
            "IRONCLIW_STATE_DIR": str(self.state),
            "IRONCLIW_SERVE__PORT": str(port),
            "IRONCLIW_SERVE__PINNED_MODELS": "[]",
            "IRONCLIW_CLUSTER__GCS_PORT": str(gcs),
            "IRONCLIW_CLUSTER__DASHBOARD_PORT": str(dashboard),
            "IRONCLIW_CLUSTER__METRICS_PORT": str(metrics),
            "IRONCLIW_CLUSTER__AGENT_PORT": str(agent),
            "IRONCLIW_CLUSTER__TEMP_DIR": str(self._temp),
            "IRONCLIW_CLUSTER__START_TIMEOUT_SECONDS": str(_UP_SECONDS),
            "IRONCLIW_ACTORS__MODULES": modules,
        }
        self.environment = process_environment(**variables, **{processes.TAG: self._tag})

    def up(self) -> None:
        """Start it, or start it again.

        Raises:
            BenchmarkError: It did not come up.
        """
        done = self._run("up")
        if done.returncode != 0:
            raise BenchmarkError(f"the head did not come up: {done.stderr[-2000:]}")

    def down(self) -> None:
        """Stop it; what does not end is killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._run("down")
        processes.kill_members(self._tag)
        shutil.rmtree(self._temp, ignore_errors=True)

    def kill_all(self) -> None:
        """End every process of it at once, as a loss of power would."""
        self.kills["head"] += 1
        while processes.kill_members(self._tag):
            time.sleep(0.1)

    def kill_some(self, until: float) -> None:
        """Kill single processes at random moments until that moment (`time.monotonic`)."""
        count = 0
        while (now := time.monotonic()) < until:
            wait = self._draw.uniform(SOONEST, LATEST)
            time.sleep(max(0.0, min(wait, until - now)))
            count += 1
            if count % _CONTROL_EVERY == 0:
                self._kill(CONTROL, "control actor")
            elif count % _HOST_EVERY == 0:
                self._kill(HOST, "host of agents")
            else:
                self._kill(STEP, "step")

    def _kill(self, title: str, what: str) -> None:
        found = sorted(self._with_title(title))
        if not found:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._draw.choice(found), signal.SIGKILL)
            self.kills[what] += 1

    def _with_title(self, title: str) -> set[int]:
        found = set()
        for pid in processes.members(self._tag):
            with contextlib.suppress(psutil.Error):
                words = psutil.Process(pid).cmdline()
                if words and words[0].startswith(title):
                    found.add(pid)
        return found

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        log = self._folder / f"{words[0]}.log"
        command = [sys.executable, "-m", "ironcliw.cli", *words]
        with log.open("a+", encoding="utf-8") as output:
            begun = output.tell()
            done = subprocess.run(
                command,
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=_UP_SECONDS,
            )
            output.seek(begun)
            text = output.read()
        return subprocess.CompletedProcess(command, done.returncode, "", text)
