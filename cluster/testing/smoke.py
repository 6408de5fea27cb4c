"""What the smoke runs have in common: the real command line, step by step, told as it goes.

A smoke run is for what no test has: a Mac as the head, a project of GCP with money in it. It says
what it saw, so that its output can be put into a report as it is.
"""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ironcliw.errors import ClusterError
from ironcliw.settings import process_environment

Say = Callable[[str], None]
_AFTER_ENV = 'eval "$(ironcliw env)" && exec "$@"'
_TAIL = 2000
_IRONCLIW = str(Path(sys.executable).with_name("ironcliw"))


@dataclass(slots=True)
class Smoke:
    """One run.

    Attributes:
        changes: Of the environment of every command.
        say: Called with each line of the report.
        cwd: Where the commands run; None: here, so that an `ironcliw.toml` of here counts.
        failed: What went wrong on the way; steps after it are not made.
    """

    changes: Mapping[str, str]
    say: Say
    cwd: Path | None = None
    failed: list[str] = field(default_factory=list)

    def introduce(self, name: str) -> None:
        """Say where this runs."""
        system = f"{platform.system()} {platform.release()}, {platform.machine()}"
        self.say(f"{name} on {system}, Python {platform.python_version()}")

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """A step: put what was seen into the list; how long it took is told with it."""
        seen: list[str] = []
        started_at = time.monotonic()
        try:
            yield seen
        except (ClusterError, OSError) as problem:
            self.failed.append(title)
            self.say(f"FAILED  {title} ({time.monotonic() - started_at:.1f} s): {problem}")
            raise
        told = "; ".join(seen)
        self.say(f"ok      {title} ({time.monotonic() - started_at:.1f} s){told and ': ' + told}")

    def ironcliw(self, *words: str, seconds: float = 300.0) -> str:
        """Standard output of a command of ours.

        Raises:
            ClusterError: it failed, or took too long.
        """
        return self.run(_IRONCLIW, *words, seconds=seconds)

    def json(self, *words: str, seconds: float = 300.0) -> Any:
        """The same of a command that prints JSON."""
        return json.loads(self.ironcliw(*words, "--json", seconds=seconds))

    def after_env(self, *words: str, seconds: float = 600.0) -> str:
        """Standard output of a program, in a shell that has evaluated `ironcliw env`."""
        return self.run("bash", "-c", _AFTER_ENV, "smoke", *words, seconds=seconds)

    def job(self, folder: Path, program: str, seconds: float = 600.0) -> str:
        """What a job of Ray prints; its program is all that it is given."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.py").write_text(program, encoding="utf-8")
        words = ("ray", "job", "submit", "--working-dir", str(folder), "--", "python", "job.py")
        return self.after_env(*words, seconds=seconds)

    def run(self, *words: str, seconds: float) -> str:
        """Standard output of a program.

        Raises:
            ClusterError: it failed, or took too long.
        """
        done = self.attempt(*words, seconds=seconds)
        if done.returncode:
            told = (done.stdout + done.stderr)[-_TAIL:].strip()
            raise ClusterError(f"{' '.join(words)} ended with {done.returncode}: {told}")
        return done.stdout

    def attempt(self, *words: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """The same, whatever its exit code."""
        try:
            return subprocess.run(
                words,
                env=process_environment(**self.changes),
                cwd=self.cwd,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as problem:
            raise ClusterError(f"{words[0]} took longer than {seconds:g} s") from problem


def refuse_what_is_wrong(smoke: Smoke) -> list[str]:
    """What `ironcliw doctor` warns of.

    Raises:
        ClusterError: something does not work; the message says what to do next.
    """
    done = smoke.attempt(_IRONCLIW, "doctor", "--json", seconds=120.0)
    if not done.stdout:
        raise ClusterError(f"`ironcliw doctor` said nothing: {done.stderr[-_TAIL:].strip()}")
    checks = json.loads(done.stdout)["checks"]
    wrong = [one for one in checks if one["state"] == "error"]
    if wrong:
        steps = "".join(
            f"\n  {one['name']}: {one['found']}\n    {one['next_step']}" for one in wrong
        )
        raise ClusterError(f"not begun, since `ironcliw doctor` finds this wrong:{steps}")
    return [f"{one['name']}: {one['found']}" for one in checks if one["state"] == "warning"]


def finish(smoke: Smoke) -> int:
    """The exit code, after the last line."""
    if smoke.failed:
        smoke.say(f"\nnot well: {', '.join(smoke.failed)}")
        return 1
    smoke.say("\nall well")
    return 0
