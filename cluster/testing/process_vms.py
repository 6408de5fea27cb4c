"""The VMs of a world as processes of this machine.

Each running VM is its startup script in a POSIX session of its own, with a folder, a metadata
server and a serial console (a file). The power goes off by SIGKILL. The VMs share the machine's
network, so a cut link freezes their processes instead: they are silent, and live.

What a startup script is told: `IRONCLIW_METADATA_URL` and Google's own `GCE_METADATA_HOST`, since
169.254.169.254 is not there; `IRONCLIW_VM_DIR`, a folder that stands for `/`; `IRONCLIW_POWER_OFF`,
a command that ends the VM, as do `poweroff` and `shutdown` on its `PATH`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from cluster.testing.fake_metadata import FakeMetadata, metadata_of
from cluster.testing.instances import Instance
from cluster.testing.world import World

logger = logging.getLogger(__name__)

TAG = "CLUSTER_TEST_VM"
"""In the environment of every process of a VM: its id. No setting of the project is named so."""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STORE_BYTES = 80_000_000  # Ray asks for 75 MB at the least
SMALL_NODE = (
    f"--object-store-memory={STORE_BYTES} --dashboard-agent-listen-port=0 "
    "--include-log-monitor=false"
)
"""Options of `ray start` for IRONCLIW_RAY_OPTIONS: a small node that shares its machine.

Ray's agent listens on 127.0.0.1 as well, on port 52365 if not told otherwise. A second node of the
machine waits 3.4 s for that port, gives it up, and joins then. Nobody reads the workers' output.
"""
_TICK_SECONDS = 0.03
_KILL_POLL_SECONDS = 0.005
_POWER_OFF = '#!/bin/sh\n# ends this VM, and nothing else\nexec touch "{path}"\n'
_POWER_OFF_NAMES = ("poweroff", "shutdown", "halt")


@dataclass(slots=True)
class Vm:
    """A VM with its power on."""

    instance: Instance
    folder: Path
    metadata: FakeMetadata
    process: subprocess.Popen[bytes]
    is_cut: bool = False

    @property
    def serial_file(self) -> Path:
        """What it wrote on its serial console."""
        return self.folder / "serial.log"

    @property
    def wants_power_off(self) -> bool:
        """Whether the guest has turned its power off."""
        return (self.folder / "power-off").exists()


class ProcessVms:
    """Boots the VMs of a world, and turns them off; a context manager.

    Args:
        world: Whose VMs.
        folder: For the files of the VMs.
        environment: Further variables of the startup scripts, which inherit nothing else. Put what
            they run on its `PATH`.
        longest_seconds: After so much real time every VM is turned off and no further one boots,
            even if the test hangs.
    """

    def __init__(
        self,
        world: World,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        longest_seconds: float = 120.0,
    ) -> None:
        self.world = world
        self.folder = folder
        world.console = self._console
        self._environment = dict(environment or {})
        self._longest_seconds = longest_seconds
        self._vms: dict[str, Vm] = {}
        self._booted: set[str] = set()
        self._guard = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process-vms", daemon=True)
        self.failures: list[BaseException] = []
        """What went wrong in the test bed itself; raised by `__exit__`."""

    def __enter__(self) -> Self:
        self._ends_at = time.monotonic() + self._longest_seconds
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self.failures and error is None:
            raise self.failures[0]

    def vm(self, name: str) -> Vm | None:
        """The VM of a name if its power is on."""
        with self._guard:
            found = [vm for vm in self._vms.values() if vm.instance.name == name]
            return found[0] if found else None

    def names(self) -> list[str]:
        """The VMs with power, sorted."""
        with self._guard:
            return sorted(vm.instance.name for vm in self._vms.values())

    def serial(self, name: str) -> str:
        """What the VMs of a name wrote on their serial consoles, the first one first."""
        logs = sorted(self.folder.glob(f"{name}.*/serial.log"))
        return "".join(log.read_text(encoding="utf-8", errors="replace") for log in logs)

    def _console(self, instance: Instance) -> bytes:
        path = self.folder / f"{instance.name}.{instance.id}" / "serial.log"
        return path.read_bytes() if path.is_file() else b""

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and time.monotonic() < self._ends_at:
                self._tick()
                self._stop.wait(_TICK_SECONDS)
        except BaseException as error:  # noqa: BLE001  (shown where the test can see it)
            self.failures.append(error)
        finally:
            with self._guard:
                for vm in list(self._vms.values()):
                    self._turn_off(vm)

    def _tick(self) -> None:
        with self.world.lock:
            now = self.world.step()
            powered = {
                each.id: each for each in self.world.instances.values() if each.is_powered(now)
            }
            values = {
                key: metadata_of(each, now, self.world.catalogue.project)
                for key, each in powered.items()
            }
        with self._guard:
            for key, vm in list(self._vms.items()):
                if key not in powered or vm.wants_power_off:
                    self._turn_off(vm)
                    self.world.power_off(vm.instance)
                else:
                    vm.metadata.update(values[key])
                    self._cut(vm, self.world.link_is_cut(vm.instance))
            for key in powered.keys() - self._booted:
                self._boot(powered[key], values[key])

    def _boot(self, instance: Instance, values: Mapping[str, str]) -> None:
        self._booted.add(instance.id)
        folder = self.folder / f"{instance.name}.{instance.id}"
        for name in ("bin", "root"):
            (folder / name).mkdir(parents=True)
        for name in _POWER_OFF_NAMES:
            program = folder / "bin" / name
            program.write_text(_POWER_OFF.format(path=folder / "power-off"), encoding="utf-8")
            program.chmod(0o755)
        script = folder / "startup-script"
        script.write_text(instance.metadata.get("startup-script", ""), encoding="utf-8")
        with contextlib.ExitStack() as unless_started:
            metadata = self._metadata(instance, values)
            unless_started.enter_context(metadata)
            process = self._start(instance, script, metadata)
            unless_started.pop_all()
        self._vms[instance.id] = Vm(instance, folder, metadata, process)

    def _start(
        self, instance: Instance, script: Path, metadata: FakeMetadata
    ) -> subprocess.Popen[bytes]:
        folder = script.parent
        with (folder / "serial.log").open("wb") as serial:
            return subprocess.Popen(
                self._command(instance, script),
                cwd=folder,
                env=self._variables(instance, folder, metadata),
                stdin=subprocess.DEVNULL,
                stdout=serial,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _metadata(self, instance: Instance, values: Mapping[str, str]) -> FakeMetadata:
        return FakeMetadata(values)

    def _command(self, instance: Instance, script: Path) -> list[str]:
        # `timeout` ends the script even if this process was killed before it could
        longest = f"{self._longest_seconds + 5:.0f}"
        return ["timeout", "--signal=KILL", longest, "/bin/bash", str(script)]

    def _variables(
        self, instance: Instance, folder: Path, metadata: FakeMetadata
    ) -> dict[str, str]:
        given = self._environment
        return {
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "IRONCLIW_METADATA_URL": metadata.url,
            "IRONCLIW_VM_DIR": str(folder / "root"),
            "IRONCLIW_POWER_OFF": str(folder / "bin" / "poweroff"),
            "GCE_METADATA_HOST": metadata.host,
            **given,
            "PATH": f"{folder / 'bin'}:{given.get('PATH', SYSTEM_PATH)}",
            TAG: instance.id,
        }

    def _cut(self, vm: Vm, is_cut: bool) -> None:
        if vm.is_cut != is_cut:
            vm.is_cut = is_cut
            for process in processes_of(vm):
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGSTOP if is_cut else signal.SIGCONT)

    def _turn_off(self, vm: Vm) -> None:
        """Pull the plug: no process of the VM gets a chance to say goodbye."""
        while processes := processes_of(vm):
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(_KILL_POLL_SECONDS)
        vm.process.wait()
        vm.metadata.__exit__(None, None, None)
        del self._vms[vm.instance.id]


def processes_of(vm: Vm) -> list[psutil.Process]:
    """The living processes of a VM, those included that left its session or lost its environment.

    Only what did both, alone, is missed: no program does that which is not meant to hide.

    The script's own entry stays in the process table until the VM is turned off, so that its number
    cannot have gone to somebody else.
    """
    sessions = {vm.process.pid}
    everyone = list(psutil.process_iter())
    tagged = set()
    for process in everyone:
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(TAG) == vm.instance.id:
                tagged.add(process.pid)
                sessions.add(os.getsid(process.pid))
    return [process for process in everyone if _is_in(process, tagged, sessions)]


def _is_in(process: psutil.Process, tagged: set[int], sessions: set[int]) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        ours = process.pid in tagged or os.getsid(process.pid) in sessions
        return ours and process.status() != psutil.STATUS_ZOMBIE
    return False
