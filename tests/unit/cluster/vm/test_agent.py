from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.handover import Handover
from cluster.testing.fake_metadata import FakeMetadata
from cluster.vm.agent import Agent, Arguments, HandoverFolder, parse
from cluster.vm.facts import Metadata, is_running
from ironcliw.errors import IroncliwError
from tests.unit.cluster.vm_stand_ins import FakeGcs, FakeRay
from tests.waiting import wait_for

NAME = "ironcliw-0badcafe"
# A life in which everything takes a tenth of its usual time.
TIMING = {"margin": 0.6, "last_margin": 0.2, "farewell": 1.0, "join": 20.0, "retry": 0.1}


class Bed:
    """An agent with stand-ins around it; `run` lives until the power-off."""

    def __init__(self, folder: Path, metadata: FakeMetadata) -> None:
        self.ray = FakeRay(folder / "bin")
        self.gcs = FakeGcs(NAME)
        self.metadata = metadata
        self.folder = folder / "handover"
        self.off = folder / "off"
        self.ray_command = [str(self.ray.ray), "start", "--block"]
        self.configure()

    def configure(self, notice: str = "3", **config: object) -> None:
        found = {"head": "head:6380", "timing": TIMING, **config}
        self.metadata.set_attribute("ironcliw-agent-config", json.dumps(found))
        self.metadata.set_attribute("ironcliw-notice-seconds", notice)

    def agent(self) -> Agent:
        arguments = Arguments(
            self.metadata.url, self.folder, ["touch", str(self.off)], self.ray_command
        )
        return Agent(arguments, Metadata(self.metadata.url), self.gcs.connect)

    def run(self, meanwhile: Callable[[Agent], None]) -> list[str]:
        """Run an agent, and something beside it once the node has joined."""
        agent = self.agent()
        failures: list[BaseException] = []

        def beside() -> None:
            try:
                wait_for(lambda: "joined" in self.gcs.kinds())
                meanwhile(agent)
            except (AssertionError, IroncliwError, OSError) as error:
                failures.append(error)
                agent.shut_down("the test failed")

        thread = threading.Thread(target=beside)
        thread.start()
        agent.run()
        thread.join(60)
        assert not failures, failures
        return self.gcs.kinds()


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    with FakeMetadata({"instance/name": NAME}) as metadata:
        bed = Bed(tmp_path, metadata)
        yield bed
        for line in bed.ray.runs():
            pid = int(line.split()[0])
            assert not is_running(pid), "`ray start` is left"


def test_a_preemption_from_notice_to_power_off(bed: Bed) -> None:
    began: list[float] = []

    def preempt(_: Agent) -> None:
        handover = Handover(bed.folder)
        handover.register("train")
        began.append(time.monotonic())
        bed.metadata.preempt()
        wait_for(handover.notice)
        notice = handover.notice()
        assert notice is not None
        assert notice.deadline - notice.at == pytest.approx(2.8)
        handover.done("train")

    kinds = bed.run(preempt)
    assert 2.3 <= time.monotonic() - began[0]
    assert bed.off.exists()
    assert [kind for kind in kinds if kind != "drained"] == [
        "joined",
        "preempted",
        "hook_done",
        "raylet_stopped",
        "power_off",
    ]
    assert len(bed.gcs.drains) == 1
    assert not is_running(bed.ray.raylet_pid())


def test_a_hook_that_answers_at_once_is_told_of(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    handover, write = Handover(bed.folder), HandoverFolder.write_notice

    def write_and_answer(self: HandoverFolder, reason: str, seconds: float) -> None:
        write(self, reason, seconds)
        handover.done("train")

    monkeypatch.setattr(HandoverFolder, "write_notice", write_and_answer)

    def preempt(_: Agent) -> None:
        handover.register("train")
        bed.metadata.preempt()

    assert "hook_done" in bed.run(preempt)


def test_a_node_that_was_drained_away_powers_the_vm_off(bed: Bed) -> None:
    kinds = bed.run(lambda _: os.kill(bed.ray.raylet_pid(), signal.SIGKILL))
    assert kinds == ["joined", "power_off"]
    assert bed.off.exists()
    assert bed.gcs.drains == []


def test_a_mismatch_never_joins(bed: Bed) -> None:
    pins = {"ray": "2.59.0", "no-such-distribution": "1"}
    bed.configure(versions={"python": "3.11.99", "match": "minor", "pins": pins})
    bed.agent().run()
    assert bed.gcs.kinds() == ["mismatched", "power_off"]
    assert bed.ray.runs() == []
    assert b"ray 2.60.0 here, 2.59.0 on the head" in bed.gcs.stored[NAME.encode()]
    assert bed.off.exists()


def test_a_lost_head_ends_the_vm(bed: Bed) -> None:
    bed.configure(timing={**TIMING, "head_gone": 1.5})

    def lose(_: Agent) -> None:
        bed.gcs.is_reachable = False
        wait_for(Handover(bed.folder).notice)

    bed.run(lose)
    assert bed.off.exists()
    assert bed.gcs.drains == []


def test_the_systems_own_shutdown_is_a_notice_too(bed: Bed) -> None:
    kinds = bed.run(lambda agent: agent.shut_down("SIGTERM"))
    assert "shutdown" in kinds
    assert kinds[-1] == "power_off"
    assert len(bed.gcs.drains) == 1


def test_a_failed_join_is_repeated(bed: Bed) -> None:
    bed.ray.refuse(2)
    kinds = bed.run(lambda _: os.kill(bed.ray.raylet_pid(), signal.SIGKILL))
    assert kinds == ["join_failed", "join_failed", "joined", "power_off"]


@pytest.mark.parametrize(("given", "expected"), [("120", 120.0), ("0", 30.0), ("", 30.0)])
def test_the_notice_is_what_the_vm_was_created_with(bed: Bed, given: str, expected: float) -> None:
    bed.configure(notice=given)
    assert bed.agent().timing.notice == expected


def test_the_folder_is_empty_after_a_boot(tmp_path: Path) -> None:
    folder = HandoverFolder(tmp_path / "handover")
    folder.prepare()
    handover = Handover(tmp_path / "handover")
    handover.register("train")
    handover.done("train")
    folder.write_notice("preempted", 5.0)
    assert handover.notice() is not None
    folder.prepare()
    assert handover.notice() is None
    assert folder.pending() == ()
    assert not any((tmp_path / "handover").rglob("train"))


def test_a_hook_of_a_dead_process_is_not_waited_for(tmp_path: Path) -> None:
    folder = HandoverFolder(tmp_path)
    folder.prepare()
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "hooks" / "gone").write_text(str(ended.pid), encoding="ascii")
    (tmp_path / "hooks" / "damaged").write_text("", encoding="ascii")
    (tmp_path / "hooks" / "alive").write_text(str(os.getpid()), encoding="ascii")
    assert folder.pending() == ("alive",)


def test_the_power_off_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--metadata-url", "http://x", "--handover", "/x", "--", "ray"])
    assert "--power-off" in capsys.readouterr().err


def test_the_command_line(tmp_path: Path) -> None:
    options = [
        "--metadata-url",
        "http://x",
        "--handover",
        "/x",
        "--power-off",
        "systemctl poweroff",
    ]
    found = parse([*options, "--", "ray", "start", "--address", "head:6380"])
    assert found.power_off == ["systemctl", "poweroff"]
    assert found.command == ["ray", "start", "--address", "head:6380"]


def test_the_agent_needs_nothing_else_of_the_project() -> None:
    code = (
        "import sys, cluster.vm.agent\n"
        "known = {name for name in sys.modules if name.split('.')[0] in ('cluster', 'ironcliw')}\n"
        "print(sorted(known | ({'ray'} & set(sys.modules))))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names = ["agent", "facts", "head", "lifecycle"]
    assert ran.stdout.strip() == str(
        ["cluster", "cluster.vm", *(f"cluster.vm.{name}" for name in names)]
    )
