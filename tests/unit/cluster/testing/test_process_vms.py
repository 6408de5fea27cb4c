"""VMs as processes: what they see, how they end, and that nothing is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.testing.control_plane import ControlPlane
from cluster.testing.fake_metadata import etag
from cluster.testing.faults import CutLink, Hook, Preempt, SlowBoot
from cluster.testing.instances import Timings
from cluster.testing.process_vms import ProcessVms, processes_of
from cluster.testing.world import World
from tests.waiting import wait_for

from .conftest import ZONE, Cloud

Body = Callable[..., dict[str, Any]]
SLEEP = "echo up; sleep 600"
# leaves its session, its parent and its group, as a daemon does
DAEMON = "setsid -f sleep 601; (setsid sleep 602 &); echo up; sleep 603"
CURL = 'curl -s -H "Metadata-Flavor: Google" "$IRONCLIW_METADATA_URL/instance'


def leftovers(folder: Path) -> list[str]:
    """Command lines of the processes of VMs that have their files in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            home = process.environ().get("HOME", "")
            if home.startswith(f"{folder}/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


@pytest.fixture
def vms(cloud: Cloud, tmp_path: Path) -> Iterator[ProcessVms]:
    with ProcessVms(cloud.world, tmp_path, longest_seconds=60) as running:
        yield running
    assert leftovers(tmp_path) == []


@pytest.fixture
def boot(cloud: Cloud, vms: ProcessVms, body: Body) -> Callable[..., None]:
    """Inserts a VM with a startup script and waits for its word `up`."""

    def insert(script: str, name: str = "vm-1", **changes: Any) -> None:
        items = [{"key": "startup-script", "value": script}]
        cloud.insert(body(name, metadata={"items": items}, **changes))
        cloud.advance(1)
        wait_for(lambda: "up" in vms.serial(name))

    return insert


def test_the_cloud_shows_what_a_vm_wrote_also_when_it_is_off(
    cloud: Cloud, boot: Callable[..., None]
) -> None:
    boot("echo up; echo the disk is full; exec poweroff")
    instance = cloud.world.named("vm-1")
    assert instance is not None
    wait_for(lambda: not instance.is_powered(cloud.world.step()))
    assert cloud.world.console(instance) == b"up\nthe disk is full\n"


class TestBoot:
    def test_the_script_runs_when_the_vm_does(
        self, cloud: Cloud, vms: ProcessVms, body: Body
    ) -> None:
        cloud.insert(body(metadata={"items": [{"key": "startup-script", "value": SLEEP}]}))
        # several looks of the VMs at the world
        calls = cloud.world.now
        wait_for(lambda: cloud.world.step() >= calls)
        assert vms.names() == []
        cloud.advance(1)
        wait_for(lambda: vms.serial("vm-1") == "up\n")
        assert vms.names() == ["vm-1"]

    def test_it_knows_itself_from_its_metadata_server(
        self, vms: ProcessVms, boot: Callable[..., None]
    ) -> None:
        lines = [f'{CURL}/{path}"; echo' for path in ("name", "zone", "attributes/startup-script")]
        boot("\n".join([*lines[:2], "echo up"]))
        assert vms.serial("vm-1").split() == ["vm-1", f"projects/123456789012/zones/{ZONE}", "up"]

    def test_it_inherits_nothing(
        self, vms: ProcessVms, boot: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
        boot('env; echo "dir=$PWD"; echo up')
        text = vms.serial("vm-1")
        vm = vms.vm("vm-1")
        assert vm is not None
        assert "SECRET_OF_THE_TEST" not in text
        assert f"dir={vm.folder}\n" in text
        assert f"IRONCLIW_VM_DIR={vm.folder}/root\n" in text

    def test_two_vms_have_each_their_own(self, vms: ProcessVms, boot: Callable[..., None]) -> None:
        for name in ("vm-1", "vm-2"):
            boot(f'{CURL}/name"; echo; echo up; sleep 600', name)
        assert [vms.serial(name) for name in vms.names()] == ["vm-1\nup\n", "vm-2\nup\n"]

    def test_a_slow_guest_is_waited_for(self, cloud: Cloud, vms: ProcessVms, body: Body) -> None:
        cloud.world.add(SlowBoot(extra=100))
        cloud.insert(body(metadata={"items": [{"key": "startup-script", "value": SLEEP}]}))
        cloud.advance(99)
        assert (cloud.status("vm-1"), vms.names()) == ("RUNNING", [])
        cloud.advance(2)
        wait_for(lambda: vms.names() == ["vm-1"])

    def test_the_end_of_the_script_is_not_the_end_of_the_vm(
        self, cloud: Cloud, vms: ProcessVms, boot: Callable[..., None]
    ) -> None:
        boot("echo up")
        cloud.advance(1000)
        assert (cloud.status("vm-1"), vms.names()) == ("RUNNING", ["vm-1"])


class TestEnd:
    @pytest.mark.parametrize("script", [SLEEP, DAEMON, f"trap '' TERM HUP; {SLEEP}"])
    def test_a_deleted_vm_leaves_no_process(
        self, cloud: Cloud, vms: ProcessVms, boot: Callable[..., None], script: str
    ) -> None:
        boot(script)
        vm = vms.vm("vm-1")
        assert vm is not None and len(processes_of(vm)) >= 2
        with cloud.world.lock:
            cloud.plane.end(ZONE, "vm-1", None, delete=True)
        wait_for(lambda: vms.names() == [])
        assert leftovers(vms.folder) == []

    def test_nor_one_without_its_environment(
        self, cloud: Cloud, vms: ProcessVms, boot: Callable[..., None]
    ) -> None:
        # as programs do that write their title over their environment
        boot("setsid -f bash -c 'env -i sleep 604 & echo $! up; exec sleep 605'")
        hidden = psutil.Process(int(vms.serial("vm-1").split()[0]))
        wait_for(lambda: hidden.name() == "sleep")
        with cloud.world.lock:
            cloud.plane.end(ZONE, "vm-1", None, delete=True)
        wait_for(lambda: vms.names() == [])
        assert not hidden.is_running() or hidden.status() == psutil.STATUS_ZOMBIE

    @pytest.mark.parametrize("word", ["poweroff", "shutdown -h now", "$IRONCLIW_POWER_OFF"])
    def test_the_guest_powers_off(
        self, cloud: Cloud, vms: ProcessVms, boot: Callable[..., None], word: str
    ) -> None:
        boot(f"echo up; {word}; sleep 600")
        wait_for(lambda: cloud.status("vm-1") in ("STOPPING", "TERMINATED"))
        wait_for(lambda: vms.names() == [])
        cloud.advance(1)
        assert cloud.status("vm-1") == "TERMINATED"

    def test_the_longest_run_time(
        self, cloud: Cloud, vms: ProcessVms, boot: Callable[..., None]
    ) -> None:
        boot(SLEEP, scheduling={"maxRunDuration": {"seconds": "3600"}})
        cloud.advance(3599.5)
        wait_for(lambda: vms.names() == [])
        cloud.advance(1)
        assert cloud.status("vm-1") is None

    def test_a_preemption_tells_before_it_ends(
        self, cloud: Cloud, vms: ProcessVms, boot: Callable[..., None]
    ) -> None:
        query = f"wait_for_change=true&timeout_sec=50&last_etag={etag('FALSE')}"
        boot(f'{CURL}/preempted"; echo " up"; {CURL}/preempted?{query}"; echo " told"; sleep 600')
        cloud.world.add(Preempt(notice=30))
        wait_for(lambda: "TRUE told" in vms.serial("vm-1"))
        assert vms.names() == ["vm-1"]
        cloud.advance(29)
        assert vms.names() == ["vm-1"]
        cloud.advance(1)
        wait_for(lambda: vms.names() == [])
        assert leftovers(vms.folder) == []

    def test_without_notice_nothing_is_told(
        self, cloud: Cloud, vms: ProcessVms, boot: Callable[..., None]
    ) -> None:
        boot(f'{CURL}/preempted"; echo " up"; {CURL}/preempted?wait_for_change=true"; sleep 600')
        cloud.world.add(Preempt(notice=0))
        wait_for(lambda: vms.names() == [])
        assert vms.serial("vm-1") == "FALSE up\n"

    def test_a_cut_link_freezes_it(
        self, cloud: Cloud, vms: ProcessVms, boot: Callable[..., None]
    ) -> None:
        boot(SLEEP)
        vm = vms.vm("vm-1")
        assert vm is not None

        def states() -> set[str]:
            return {process.status() for process in processes_of(vm)}

        cloud.world.add(CutLink(seconds=60))
        wait_for(lambda: states() == {psutil.STATUS_STOPPED})
        cloud.advance(60)
        wait_for(lambda: psutil.STATUS_STOPPED not in states())
        assert vms.names() == ["vm-1"]


class TestBounds:
    def test_the_context_ends_all(self, cloud: Cloud, tmp_path: Path, body: Body) -> None:
        with ProcessVms(cloud.world, tmp_path) as vms:
            for name in ("vm-1", "vm-2"):
                script = {"key": "startup-script", "value": DAEMON}
                cloud.insert(body(name, metadata={"items": [script]}))
            cloud.advance(1)
            wait_for(lambda: all("up" in vms.serial(name) for name in ("vm-1", "vm-2")))
            files = psutil.Process().num_fds()
        assert leftovers(vms.folder) == []
        assert psutil.Process().num_fds() < files

    def test_time_ends_all(self, cloud: Cloud, tmp_path: Path, body: Body) -> None:
        with ProcessVms(cloud.world, tmp_path, longest_seconds=1.5) as vms:
            cloud.insert(body(metadata={"items": [{"key": "startup-script", "value": SLEEP}]}))
            cloud.advance(1)
            wait_for(lambda: "up" in vms.serial("vm-1"))
            wait_for(lambda: vms.names() == [])
            cloud.insert(body("vm-2"))
            cloud.advance(1)
        assert not list(tmp_path.glob("vm-2*"))
        assert leftovers(vms.folder) == []

    def test_a_failure_of_the_test_bed_is_raised_and_ends_all(
        self, cloud: Cloud, tmp_path: Path, body: Body
    ) -> None:
        cloud.world.hooks["fail"] = lambda cause: 1 / 0
        with (
            pytest.raises(ZeroDivisionError, match="division by zero"),
            ProcessVms(cloud.world, tmp_path) as vms,
        ):
            cloud.insert(body(metadata={"items": [{"key": "startup-script", "value": SLEEP}]}))
            cloud.advance(1)
            wait_for(lambda: "up" in vms.serial("vm-1"))
            cloud.world.faults.add(Hook(label="fail"), cloud.world.now)
            wait_for(lambda: vms.names() == [])
        assert leftovers(vms.folder) == []

    def test_in_real_time_a_vm_is_up_within_a_second(self, tmp_path: Path, body: Body) -> None:
        world = World(timings=Timings(provisioning=0.1, staging=0.1))
        with ProcessVms(world, tmp_path) as vms:
            with world.lock:
                items = [{"key": "startup-script", "value": "date +%s.%N; echo up; sleep 60"}]
                ControlPlane(world).insert(ZONE, body(metadata={"items": items}), None)
                begin = time.time()
            wait_for(lambda: "up" in vms.serial("vm-1"))
        assert 0.15 < float(vms.serial("vm-1").split()[0]) - begin < 3
