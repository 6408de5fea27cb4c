"""The hand-over before a VM's end, seen by the processes that run on it.

The VM's agent and everything that Ray runs there share a folder, `Settings.handover_dir`:

    notice.json     {"at", "deadline", "reason"}: Ray ends here at `deadline`; written once
    hooks/NAME      somebody wants a word before the end; holds the pid of the process
    done/NAME       it has said it

The agent ends Ray at the deadline while a hook is busy, and two seconds before it once every hook
is done or its process is gone; the VM's power goes two seconds after it. The clock is the VM's own
(Unix time), which all of them share.

What is told by these files is up to three protocols. Their implementations stand in upper layers
and are named in the settings, so `load_hook` finds them.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from cluster.names import load_by_name
from cluster.vm.agent import DONE_FOLDER, HOOKS_FOLDER, NOTICE_FILE
from cluster.vm.facts import write_atomically
from ironcliw.errors import ClusterError, SettingsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_Hook = TypeVar("_Hook")


@dataclass(frozen=True, slots=True)
class Notice:
    """This VM ends soon.

    Attributes:
        at: when the agent learned of it, Unix time.
        deadline: when this process will be ended, Unix time.
        reason: such as "preempted", for people.
    """

    at: float
    deadline: float
    reason: str

    def seconds_left(self, now: float) -> float:
        """Time until the deadline, never negative; `now` is Unix time."""
        return max(0.0, self.deadline - now)


class Handover:
    """One process's view of the folder; cheap enough to be asked at every training step.

    Args:
        folder: `Settings.handover_dir`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = os.fspath(folder / NOTICE_FILE)
        self._seen: tuple[int, int, int] | None = None
        self._notice: Notice | None = None

    def notice(self) -> Notice | None:
        """The notice, once there is one: a `stat` (2 us), and a read when the file is new."""
        try:
            stat = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            self._seen = self._notice = None
            return None
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen != self._seen:
            self._notice = _read_notice(Path(self._path))
            self._seen = seen
        return self._notice

    def register(self, name: str) -> None:
        """Say that this process has something to do before the end; again after a restart.

        Raises:
            ClusterError: the name cannot be a file's, or the folder is absent or full.
        """
        self._write(HOOKS_FOLDER, name)
        # an answer of an earlier process of this name would make the agent wait no longer
        (self._folder / DONE_FOLDER / name).unlink(missing_ok=True)

    def unregister(self, name: str) -> None:
        """Take the word back: the process ends in the ordinary way."""
        for kind in (HOOKS_FOLDER, DONE_FOLDER):
            (self._folder / kind / _checked(name)).unlink(missing_ok=True)

    def done(self, name: str) -> None:
        """Say that all is saved, and that this process no longer needs the VM."""
        self._write(DONE_FOLDER, name)

    def _write(self, kind: str, name: str) -> None:
        try:
            write_atomically(self._folder / kind / _checked(name), str(os.getpid()))
        except OSError as error:
            raise ClusterError(
                f"hand-over folder {self._folder}: {error}; the VM's agent makes it: see its lines "
                "on the serial console, and whether the disk is full"
            ) from error


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ClusterError(
            f"{name!r} cannot name a hand-over hook: use up to 100 letters, digits, '_', '-' and "
            "'.', beginning with a letter or digit"
        )
    return name


def _read_notice(path: Path) -> Notice | None:
    """What the file says; unknown fields are ignored, and a file that says nothing is none."""
    try:
        found = json.loads(path.read_bytes())
        return Notice(float(found["at"]), float(found["deadline"]), str(found.get("reason", "")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


@runtime_checkable
class TrainingFlag(Protocol):
    """A training loop that stops at a step that all ranks agree on.

    The flag of each rank travels in the gradients' all-reduce, so no rank waits for another.
    """

    def raised(self) -> Notice | None:
        """Whether this rank's VM ends soon; asked at every optimizer step."""

    def saved(self, step: int) -> None:
        """The checkpoint of `step` is committed: the VM may go."""


@runtime_checkable
class ActorSnapshot(Protocol):
    """An actor whose state survives its VM."""

    def snapshot(self, notice: Notice) -> bytes:
        """The state, taken between two calls and within the time left."""

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot, in a new process on another VM."""


@runtime_checkable
class ServeGrace(Protocol):
    """A replica that takes nothing new and finishes, or hands on, what it has."""

    async def finish(self, notice: Notice) -> None:
        """Return when no accepted request depends on this replica any more."""


def load_hook(name: str, protocol: type[_Hook]) -> Any:
    """The implementation of a protocol that `package.module:attribute` names.

    Args:
        name: a class, or an object.
        protocol: one of the three above.

    Raises:
        SettingsError: it does not exist, or lacks a method of the protocol.
    """
    found = load_by_name(name)
    methods = [method for method in vars(protocol) if not method.startswith("_")]
    absent = [method for method in methods if not callable(getattr(found, method, None))]
    if absent:
        raise SettingsError(
            f"{name!r} is no {protocol.__name__}: it lacks {', '.join(sorted(absent))}"
        )
    return found
