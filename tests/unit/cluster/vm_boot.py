"""A folder that stands for a VM's disk, on which the startup script runs with watched programs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cluster.testing.fake_metadata import FakeMetadata
from cluster.vm.join_check import HeadVersions
from cluster.vm.startup import HeadAddress, WorkerFacts, metadata
from ironcliw.setting_sections import CloudSettings
from tests.unit.cluster.vm_stand_ins import FakeRay

NAME = "ironcliw-0badcafe"
SECRET = "s3cret-of-ray-9f8e7d6c5b4a"
# A head where nobody listens: the agent goes on asking.
HEAD = HeadAddress("127.0.0.1", 9)
VERSIONS = HeadVersions("3.11.7", "minor", ("ray[serve]==2.60.0", "torch==2.13.0"), ())
LABELS = {"ray.io/market-type": "spot", "odd": 'it\'s $(touch /tmp/x) "quoted" `id`'}
CLOUD = CloudSettings(project="p-1", vpn="none", image_is_baked=True, head_gone_minutes=5)
FACTS = WorkerFacts("spot", {"CPU": 4, "spot": 1}, LABELS, VERSIONS, token=SECRET)

SPY = """#!/bin/bash
printf '%s ' "{name}" "$@" >>{log}
printf '\\n' >>{log}
{then}
"""


class Vm:
    """A folder that stands for a VM's disk, with watched programs and a metadata server."""

    def __init__(self, folder: Path, server: FakeMetadata) -> None:
        self.root = folder / "root"
        self.server = server
        self.ray = FakeRay(folder / "image")
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.log = folder / "arguments"
        self.environment = {
            "PATH": f"{self.programs}:/usr/local/bin:/usr/bin:/bin",
            "IRONCLIW_VM_DIR": str(self.root),
            "IRONCLIW_VM_BIN": str(self.ray.folder),
            "IRONCLIW_METADATA_URL": server.url,
            "IRONCLIW_POWER_OFF": "poweroff now",
            "IRONCLIW_RAY_OPTIONS": "--num-cpus 1",
        }
        self.program("poweroff", "exit 0")
        self.program("curl", 'exec /usr/bin/curl --retry 0 "$@"')
        self.script = folder / "startup-script"

    def program(self, name: str, then: str) -> None:
        """A program that notes its arguments."""
        path = self.programs / name
        path.write_text(SPY.format(name=name, log=self.log, then=then), encoding="utf-8")
        path.chmod(0o755)

    def create(self, cloud: CloudSettings = CLOUD, facts: WorkerFacts = FACTS) -> None:
        """Give it the metadata of its creation."""
        found = metadata(cloud, HEAD, facts)
        self.script.write_text(found["startup-script"], encoding="utf-8")
        for key, value in found.items():
            self.server.set_attribute(key, value)
        self.server.set_attribute("ironcliw-notice-seconds", "1")

    def boot(self, meanwhile: Callable[[], None] = lambda: None) -> tuple[int, str]:
        """Run the startup script to its end; its exit code and the serial console."""
        process = subprocess.Popen(
            ["/bin/bash", str(self.script)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            meanwhile()
            console, _ = process.communicate(timeout=150.0)
        finally:
            process.kill()
            process.communicate()
        return process.returncode, console

    def preempt_when_ray_runs(self) -> None:
        ends = time.monotonic() + 100.0
        while not (self.ray.folder / "raylet-pid").exists():
            assert time.monotonic() < ends, "`ray start` was not run"
            time.sleep(0.02)
        self.server.preempt()

    def arguments(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""
