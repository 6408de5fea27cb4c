"""The smoke run of a GCP worker, whole, on the test bed: real commands, real Ray, a fake cloud."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import psutil
import pytest

from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import Preempt
from cluster.testing.instances import Timings
from cluster.testing.process_vms import SMALL_NODE, SYSTEM_PATH, ProcessVms
from cluster.testing.smoke import Smoke
from cluster.testing.smoke_gcp import bounded_environment, load_bounded, smoke_gcp
from cluster.testing.smoke_mac import own_environment
from cluster.testing.world import World
from ironcliw.settings import load_settings

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]

BIN = Path(sys.executable).parent


def of_the_bed(compute: FakeCompute, folder: Path) -> dict[str, str]:
    """Settings of a head on 127.0.0.2 whose workers are at 127.0.1.N."""
    return {
        **own_environment(folder),
        "IRONCLIW_CLUSTER__NODE_IP": "127.0.0.2",
        "IRONCLIW_CLUSTER__START_TIMEOUT_SECONDS": "300",
        "IRONCLIW_CLOUD__PROJECT": compute.project,
        "IRONCLIW_CLOUD__ZONES": json.dumps(list(compute.world.catalogue.zones)),
        "IRONCLIW_CLOUD__API_ENDPOINT": compute.url,
        "IRONCLIW_CLOUD__VPN": "none",
        "IRONCLIW_CLOUD__IMAGE_IS_BAKED": "true",
        "IRONCLIW_CLOUD__NOTICE_SECONDS": "0",
        "IRONCLIW_BUDGET__MONTH_USD": "50",
        "HF_HUB_OFFLINE": "1",
    }


def test_a_worker_comes_moves_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(
        timings=Timings(provisioning=0.5, staging=0.5),
        address=lambda count: f"127.0.1.{1 + count % 250}",
    )
    machine = {"PATH": f"{BIN}:{SYSTEM_PATH}", "IRONCLIW_VM_BIN": str(BIN)}
    machine["IRONCLIW_RAY_OPTIONS"] = SMALL_NODE
    vms = ProcessVms(world, tmp_path / "vms", environment=machine, longest_seconds=1100)
    with FakeCompute(world) as compute, vms:
        base = of_the_bed(compute, tmp_path)
        for name, value in base.items():
            monkeypatch.setenv(name, value)
        settings = load_settings()
        changes = bounded_environment(settings, workers=2)
        lines: list[str] = []
        code = smoke_gcp(
            Smoke({**base, **changes}, lines.append, cwd=tmp_path),
            load_bounded(settings, changes),
            preempt=lambda cloud, vm: world.add(Preempt(name=vm.name, notice=30)),
            boot_seconds=400,
        )
        told = "\n".join(lines)
        consoles = "\n".join(vms.serial(name)[-2000:] for name in vms.names())
        shutil.rmtree(settings.ray_temp_dir, ignore_errors=True)
        assert code == 0, told + consoles
        assert "ok      a task on a worker" in told
        assert "ran on ironcliw-smoke-" in told
        assert "moved from ironcliw-smoke-" in told
        assert "no machine is left" in told
        assert not world.instances
        assert vms.names() == []
    assert not [one for one in psutil.process_iter() if str(tmp_path) in " ".join(_words(one))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
