"""The supervisor as a process of its own, with stand-ins for Ray's processes and for a module."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.head.processes import end_processes, tagged_processes
from cluster.head.supervisor import own_programs
from ironcliw.settings import Settings
from tests.waiting import wait_for

STAND_IN = "import time; time.sleep(60)\n"
MODULE = """\
import pickle, sys, time
settings = pickle.load(sys.stdin.buffer)
print("state", settings.state_dir, flush=True)
time.sleep(60)
"""


def settings_with(folder: Path, *modules: str) -> Settings:
    settings = Settings(state_dir=folder / "state")
    cluster = settings.cluster.model_copy(update={"side_modules": modules})
    return settings.model_copy(update={"cluster": cluster})


class Bed:
    """A tagged session: files named as Ray's are run, and the supervisor beside them."""

    def __init__(self, folder: Path) -> None:
        self.session = f"test-{folder.name}-{os.getpid()}"
        self.logs = folder / "state" / "logs"
        self.logs.mkdir(parents=True)
        self.settings = settings_with(folder, "beside_module")
        (folder / "beside_module.py").write_text(MODULE)
        self.environment = {
            **os.environ,
            "IRONCLIW_SESSION": self.session,
            "PYTHONPATH": str(folder),
        }
        self.children: list[subprocess.Popen[bytes]] = []
        for name in ("gcs/gcs_server", "autoscaler/v2/monitor.py"):
            path = folder / name
            path.parent.mkdir(parents=True)
            path.write_text(STAND_IN)
            self.start(str(path))

    def start(self, *words: str, given: bytes = b"") -> None:
        child = subprocess.Popen(
            [sys.executable, *words],
            env=self.environment,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.children.append(child)
        assert child.stdin is not None
        child.stdin.write(given)
        child.stdin.close()

    def supervise(self) -> None:
        self.start("-m", "cluster.head.supervisor", given=pickle.dumps(self.settings))

    def named(self, part: str) -> list[psutil.Process]:
        found = []
        for process in tagged_processes(self.session):
            try:
                if part in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def said(self, module: str = "beside_module") -> str:
        path = self.logs / f"{module}.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    bed = Bed(tmp_path)
    yield bed
    end_processes(bed.session)
    for child in bed.children:
        child.wait(60)


def test_modules_and_rays_processes_come_back_until_the_head_ends(bed: Bed) -> None:
    wait_for(lambda: bed.named("gcs_server") and bed.named("monitor.py"))
    bed.supervise()
    wait_for(lambda: f"state {bed.settings.state_dir}" in bed.said())
    for part in ("beside_module", "gcs_server", "monitor.py"):
        [victim] = bed.named(part)
        victim.kill()
        wait_for(lambda part=part, old=victim: [p for p in bed.named(part) if p != old])  # type: ignore[misc]
    # the supervisor itself, three processes, and nothing that was started while they ended
    assert end_processes(bed.session) == 4
    assert tagged_processes(bed.session) == []


def test_a_mac_is_kept_awake_for_as_long_as_the_supervisor_lives(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "some.module")
    [module, awake] = own_programs(settings, b"given", {"A": "1"}, "darwin", 4711)
    assert awake.command == ("caffeinate", "-dis", "-w", "4711")
    assert awake.given == b""
    assert module.command == (sys.executable, "-m", "some.module")
    assert module.given == b"given"
    assert own_programs(settings, b"given", {"A": "1"}, "linux", 4711) == [module]
