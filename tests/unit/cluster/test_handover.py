from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.handover import (
    ActorSnapshot,
    Handover,
    Notice,
    ServeGrace,
    TrainingFlag,
    load_hook,
)
from cluster.vm.agent import HandoverFolder
from ironcliw.errors import ClusterError, SettingsError

# A process that registers, waits for the notice and answers.
CHILD = """
import sys, time
from pathlib import Path
from cluster.handover import Handover
handover = Handover(Path(sys.argv[1]))
handover.register("train")
print("registered", flush=True)
while handover.notice() is None:
    time.sleep(0.01)
print(handover.notice().reason, flush=True)
handover.done("train")
"""


@pytest.fixture
def agent(tmp_path: Path) -> HandoverFolder:
    folder = HandoverFolder(tmp_path)
    folder.prepare()
    return folder


def write(folder: Path, text: str) -> None:
    (folder / "notice.json").write_text(text, encoding="utf-8")


def test_between_two_processes(agent: HandoverFolder, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "registered\n"
        assert agent.pending() == ("train",)
        agent.write_notice("preempted", 28.0)
        assert child.stdout.readline() == "preempted\n"
        assert child.wait(60) == 0
    assert agent.pending() == ()
    assert (tmp_path / "done" / "train").exists()


def test_a_process_that_dies_is_not_waited_for(agent: HandoverFolder, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert agent.pending() == ("train",)
        child.kill()
        child.wait(60)
        assert agent.pending() == ()


def test_the_notice_says_how_long(agent: HandoverFolder, tmp_path: Path) -> None:
    handover = Handover(tmp_path)
    assert handover.notice() is None
    agent.write_notice("preempted", 28.0)
    notice = handover.notice()
    assert notice is not None
    assert notice.deadline - notice.at == pytest.approx(28.0)
    assert notice.seconds_left(notice.at + 8.0) == pytest.approx(20.0)
    assert notice.seconds_left(notice.deadline + 1.0) == 0.0


def test_without_a_folder_there_is_no_notice(tmp_path: Path) -> None:
    assert Handover(tmp_path / "absent").notice() is None
    (tmp_path / "file").touch()
    assert Handover(tmp_path / "file").notice() is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"at": 1}', '{"at": "x", "deadline": 2}', '{"at": [], "deadline": 1}'],
)
def test_a_file_that_says_nothing_is_no_notice(text: str, tmp_path: Path) -> None:
    write(tmp_path, text)
    assert Handover(tmp_path).notice() is None


def test_unknown_fields_are_ignored_and_a_new_file_is_read(tmp_path: Path) -> None:
    handover = Handover(tmp_path)
    write(tmp_path, json.dumps({"at": 1, "deadline": 2, "reason": "x", "later": True}))
    assert handover.notice() == Notice(1.0, 2.0, "x")
    write(tmp_path, json.dumps({"at": 1, "deadline": 22}))
    assert handover.notice() == Notice(1.0, 22.0, "")


def test_a_poll_reads_the_file_once(
    agent: HandoverFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.write_notice("preempted", 28.0)
    handover = Handover(tmp_path)
    first = handover.notice()
    monkeypatch.setattr(Path, "read_bytes", None)
    assert handover.notice() is first


def test_a_poll_is_cheap_enough_for_every_step(agent: HandoverFolder, tmp_path: Path) -> None:
    handover = Handover(tmp_path)
    began = time.thread_time()  # what others do meanwhile does not count
    for _ in range(1000):
        handover.notice()
    # 2 us on a quiet machine; this one may be a hundred times slower
    assert time.thread_time() - began < 0.2


def test_a_hook_that_comes_again_is_waited_for_again(agent: HandoverFolder, tmp_path: Path) -> None:
    handover = Handover(tmp_path)
    handover.register("train")
    handover.done("train")
    assert agent.pending() == ()
    handover.register("train")
    assert agent.pending() == ("train",)
    assert (tmp_path / "hooks" / "train").read_text(encoding="ascii") == str(os.getpid())
    handover.unregister("train")
    assert agent.pending() == ()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".hidden", "a b", "x" * 101, "a\n"])
def test_a_name_is_a_file_of_the_folder(agent: HandoverFolder, tmp_path: Path, name: str) -> None:
    with pytest.raises(ClusterError, match="cannot name a hand-over hook"):
        Handover(tmp_path).register(name)


def test_a_folder_that_is_absent_is_said(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"No such file.*serial console"):
        Handover(tmp_path / "absent").register("train")


class Flag:
    def raised(self) -> Notice | None:
        return None

    def saved(self, step: int) -> None:
        pass


class Grace:
    async def finish(self, notice: Notice) -> None:
        pass


class Snapshot:
    def snapshot(self, notice: Notice) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


def test_hooks_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hooks_of_a_test", sys.modules[__name__])
    assert load_hook("hooks_of_a_test:Flag", TrainingFlag) is Flag
    assert load_hook("hooks_of_a_test:Grace", ServeGrace) is Grace
    assert load_hook("hooks_of_a_test:Snapshot", ActorSnapshot) is Snapshot
    assert isinstance(Flag(), TrainingFlag)
    with pytest.raises(SettingsError, match="is no ActorSnapshot: it lacks restore, snapshot"):
        load_hook("hooks_of_a_test:Flag", ActorSnapshot)
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_hook("hooks_of_a_test:Absent", TrainingFlag)
