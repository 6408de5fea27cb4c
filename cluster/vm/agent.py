"""The agent of a worker VM: joins Ray, sees the preemption coming, hands over and powers off.

It is copied to the VM with the files beside it that it imports, of which `lifecycle.py` decides;
they need the standard library and Ray alone. What it carries out:

- one drain, with the deadline: Ray starts nothing new here, and restarts actors for free;
- `notice.json` in the hand-over folder, which training, actors and replicas watch;
- SIGTERM to the raylet seconds before the end: the node then leaves the cluster by itself, instead
  of being missed by a health check 15 to 65 s later (actors answered after 12 s, not 39);
- the power-off. `ray start --block` does not end when its node was drained away, so somebody must.

Events stand as JSON lines on the serial console, and in the key-value store of the head's GCS: one
key a VM, which `cluster.vm.report` reads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cluster.vm.facts import (
    Metadata,
    installed_version,
    is_running,
    mismatch,
    node_id_of,
    raylet_of,
    write_atomically,
)
from cluster.vm.head import Head, Journal, connect_to_gcs
from cluster.vm.lifecycle import (
    NOTICE_ATTRIBUTE,
    Action,
    Event,
    Instruction,
    Kind,
    Lifecycle,
    Phase,
    Timing,
)

NOTICE_FILE, HOOKS_FOLDER, DONE_FOLDER = "notice.json", "hooks", "done"
_TICK_SECONDS = 0.2
_LAST_TICK_SECONDS = 0.05  # what is due seconds before the end is due then


class HandoverFolder:
    """The agent's side of the hand-over: writes the notice, sees which hooks are still busy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Empty it: what an earlier boot left is not true any more."""
        for name in (HOOKS_FOLDER, DONE_FOLDER):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
            for path in (self._folder / name).iterdir():
                path.unlink()
        (self._folder / NOTICE_FILE).unlink(missing_ok=True)

    def write_notice(self, reason: str, seconds: float) -> None:
        """Tell every process of the VM."""
        now = time.time()
        notice = {"at": now, "deadline": now + seconds, "reason": reason}
        write_atomically(self._folder / NOTICE_FILE, json.dumps(notice))

    def pending(self) -> tuple[str, ...]:
        """Hooks that are registered by a living process and have not answered."""
        done = {path.name for path in (self._folder / DONE_FOLDER).iterdir()}
        hooks = (path for path in (self._folder / HOOKS_FOLDER).iterdir() if path.name not in done)
        return tuple(sorted(path.name for path in hooks if _has_owner(path)))


def _has_owner(path: Path) -> bool:
    if path.name.startswith("."):
        return False  # half-written
    try:
        return is_running(int(path.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Arguments:
    """The command line of the agent."""

    metadata_url: str
    handover: Path
    power_off: Sequence[str]
    command: Sequence[str]
    """`ray start ... --block`."""


class Agent:
    """Carries out what `Lifecycle` decides."""

    def __init__(
        self,
        arguments: Arguments,
        metadata: Metadata,
        connect: Callable[[str], Any] = connect_to_gcs,
    ) -> None:
        config = json.loads(metadata.attribute("ironcliw-agent-config", "{}"))
        notice = float(metadata.attribute(NOTICE_ATTRIBUTE, "") or 0)
        known = {field.name for field in fields(Timing)}
        spans = {key: value for key, value in config.get("timing", {}).items() if key in known}
        self._arguments = arguments
        self._metadata = metadata
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._journal = Journal(metadata.get("instance/name")[0])
        self._head = Head(config["head"], self._journal, self._events.put, connect)
        self._handover = HandoverFolder(arguments.handover)
        self.timing = Timing(**{**spans, "notice": notice or Timing().notice})
        self._lifecycle = Lifecycle(self.timing, time.monotonic())
        self._versions: Mapping[str, Any] = config.get("versions", {})
        self._stop = threading.Event()
        self._ray: subprocess.Popen[bytes] | None = None
        self._raylet: int | None = None

    def run(self) -> None:
        """Live until the power-off."""
        self._handover.prepare()
        if self._versions:
            differs = mismatch(self._versions, platform.python_version(), installed_version)
            if differs:
                self._events.put(Event(Kind.MISMATCHED, differs))
        self._head.start()
        self._events.put(Event(Kind.TICK))  # Ray starts now, not a tick later
        threading.Thread(target=self._watch_metadata, name="metadata", daemon=True).start()
        while self._lifecycle.phase is not Phase.OFF:
            for event in self._gather():
                for instruction in self._lifecycle.handle(event, time.monotonic()):
                    self._perform(instruction)

    def shut_down(self, why: str) -> None:
        """Leave as soon as the hooks are done; may be called from a signal handler."""
        self._events.put(Event(Kind.SHUTDOWN, why))

    def _watch_metadata(self) -> None:
        if self._metadata.wait_preempted(self._stop):
            self._events.put(Event(Kind.PREEMPTED))

    def _gather(self) -> Iterator[Event]:
        leaving = self._lifecycle.deadline is not None
        with contextlib.suppress(queue.Empty):
            yield self._events.get(timeout=_LAST_TICK_SECONDS if leaving else _TICK_SECONDS)
        if self._ray is not None:
            yield from self._watch_ray(self._ray)
        if self._lifecycle.phase is Phase.LEAVING:
            yield Event(Kind.HOOKS_PENDING, names=self._handover.pending())
        yield Event(Kind.TICK)

    def _watch_ray(self, ray: subprocess.Popen[bytes]) -> Iterator[Event]:
        if self._raylet is None:
            self._raylet = raylet_of(ray.pid)
            self._head.expect(node_id_of(self._raylet) if self._raylet else "")
        elif not is_running(self._raylet):
            yield Event(Kind.RAYLET_GONE, "the raylet ended by itself")
        if ray.poll() is not None:
            self._ray = self._raylet = None
            yield Event(Kind.RAY_EXITED, f"`ray start` ended with exit code {ray.returncode}")

    def _perform(self, instruction: Instruction) -> None:
        match instruction.action:
            case Action.REPORT:
                self._journal.add(instruction.report, instruction.message)
            case Action.START_RAY:
                # in this process group: whoever ends the VM's processes finds Ray's there too
                self._ray = subprocess.Popen(self._arguments.command, stdin=subprocess.DEVNULL)
            case Action.WRITE_NOTICE:
                # looked at before: a hook may answer the notice sooner than the next look
                self._events.put(Event(Kind.HOOKS_PENDING, names=self._handover.pending()))
                self._handover.write_notice(instruction.message, instruction.seconds)
            case Action.DRAIN:
                self._head.drain(instruction.message, instruction.seconds)
            case Action.STOP_RAYLET:
                self._stop_raylet()
            case Action.POWER_OFF:
                self._power_off()

    def _stop_raylet(self) -> None:
        # not `ray start`: on SIGTERM it drains once more, with a deadline of its own
        if self._raylet is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._raylet, signal.SIGTERM)

    def _power_off(self) -> None:
        self._stop.set()
        deadline = self._lifecycle.deadline
        left = 0.0 if deadline is None else deadline - time.monotonic()
        self._head.flush(min(10.0, max(2.0, left)))
        if self._ray is not None:
            self._ray.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ray.wait(timeout=3.0)
            self._ray.kill()
        subprocess.run(self._arguments.power_off, check=True)


def parse(arguments: Sequence[str]) -> Arguments:
    """Read the command line; the power-off has no default, for this may run on a user's machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metadata-url", required=True)
    parser.add_argument("--handover", type=Path, required=True)
    parser.add_argument("--power-off", type=shlex.split, required=True)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    return Arguments(given.metadata_url, given.handover, given.power_off, given.command)


def main() -> None:
    """Run on the VM: `python -m cluster.vm.agent OPTIONS -- ray start ... --block`."""
    arguments = parse(sys.argv[1:])
    agent = Agent(arguments, Metadata(arguments.metadata_url))
    signal.signal(signal.SIGTERM, lambda *_: agent.shut_down("SIGTERM"))
    agent.run()


if __name__ == "__main__":
    main()
