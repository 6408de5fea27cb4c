"""What a VM that becomes an image is given, and what it then does; the programs are watched."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.testing.fake_metadata import FakeMetadata
from cluster.vm.image import (
    KERNELS_ATTRIBUTE,
    READY,
    image_labels,
    image_metadata,
    write_image_files,
)
from cluster.vm.join_check import HeadVersions
from ironcliw.errors import SettingsError
from ironcliw.setting_sections import CloudSettings

ROOT = Path(__file__).resolve().parents[4]
VERSIONS = HeadVersions(
    "3.11.7",
    "patch",
    ("ray[serve]==2.60.0",),
    (("ray", "2.60.0"), ("torch", "2.13.0+cpu")),
    ("a-model==1.0",),
)
CLOUD = CloudSettings(project="p-1", vpn="tailscale")
_SPY = '#!/bin/bash\nprintf "%s " "{name}" "$@" >>{log}\nprintf "\\n" >>{log}\n{then}\n'


def test_labels_hold_no_dots() -> None:
    assert image_labels(VERSIONS) == {"ironcliw-python": "3-11-7", "ironcliw-ray": "2-60-0"}


def test_the_sources_of_the_kernels_fit_and_are_whole() -> None:
    found = image_metadata(CLOUD, VERSIONS, ROOT / "native_ops")[KERNELS_ATTRIBUTE]
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(found))) as archive:
        names = archive.getnames()
    assert {"pyproject.toml", "csrc/CMakeLists.txt"} <= set(names)
    assert not [name for name in names if {"tests", "fuzz"} & set(Path(name).parts)]
    again = image_metadata(CLOUD, VERSIONS, ROOT / "native_ops")[KERNELS_ATTRIBUTE]
    assert again == found


def test_too_much_is_refused(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "csrc" / "noise").write_bytes(os.urandom(250_000))
    with pytest.raises(SettingsError, match=r"ironcliw-kernels has more than 262144 bytes"):
        image_metadata(CLOUD, VERSIONS, tmp_path)


def test_files_for_gcloud(tmp_path: Path) -> None:
    write_image_files(tmp_path, CLOUD, VERSIONS, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "facts.sh",
        "ironcliw-constraints",
        "ironcliw-requirements",
        "startup-script",
    ]
    facts = (tmp_path / "facts.sh").read_text(encoding="ascii")
    assert "LABELS=ironcliw-python=3-11-7,ironcliw-ray=2-60-0\n" in facts
    assert f"READY='{READY}'\n" in facts
    with pytest.raises(SettingsError, match=r"set cloud\.project"):
        write_image_files(tmp_path, CloudSettings(), VERSIONS, None)


class Vm:
    def __init__(self, folder: Path, server: FakeMetadata) -> None:
        self.root = folder / "root"
        self.log = folder / "arguments"
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.server = server
        self.environment = {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "IRONCLIW_VM_DIR": str(self.root),
            "IRONCLIW_METADATA_URL": server.url,
            "IRONCLIW_POWER_OFF": "poweroff now",
        }
        for name in ("poweroff", "tailscale", "apt-get"):
            self.program(name, "exit 0")
        self.program("systemctl", "[[ $1 != is-active ]] || exit 3")
        # `uv venv` makes a Python that finds all it imports
        uv = f'mkdir -p {self.root}/opt/ironcliw/venv/bin; cp /bin/true "$_"/python; exit 0'
        (folder / "uv").write_text(_SPY.format(name="uv", log=self.log, then=uv), encoding="ascii")
        (folder / "uv").chmod(0o755)
        pack = f'exec tar -czf "{self.root}/opt/ironcliw/uv.tar.gz" -C {folder} --xform=s,^,d/, uv'
        self.program(
            "curl", f'[[ "$*" == *github.com* ]] && {pack}\nexec /usr/bin/curl --retry 0 "$@"'
        )

    def program(self, name: str, then: str) -> None:
        path = self.programs / name
        path.write_text(_SPY.format(name=name, log=self.log, then=then), encoding="ascii")
        path.chmod(0o755)

    def boot(self, given: dict[str, str]) -> tuple[int, str]:
        for name, value in given.items():
            self.server.set_attribute(name, value)
        done = subprocess.run(
            ["/bin/bash"],
            input=given["startup-script"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=150,
        )
        return done.returncode, done.stdout + done.stderr

    def arguments(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    with FakeMetadata({}) as server:
        yield Vm(tmp_path, server)


def test_a_vm_becomes_an_image(vm: Vm) -> None:
    state = vm.root / "var/lib/tailscale"
    state.mkdir(parents=True)
    code, console = vm.boot(image_metadata(CLOUD, VERSIONS, ROOT / "native_ops"))
    assert code == 0, console
    assert console.splitlines()[-1] == READY
    # it waits to be stopped; and no two machines of the image are one to Tailscale
    assert "poweroff now " not in vm.arguments()
    assert not state.exists()
    calls = [line for line in vm.arguments() if line.startswith("uv ")]
    assert "venv --clear --managed-python --python 3.11.7" in calls[0]
    assert "--torch-backend cpu --constraints" in calls[1]
    assert calls[2].endswith("--no-deps a-model==1.0 ")
    assert "--no-deps --no-build-isolation" in calls[-1]
    left = {path.name for path in (vm.root / "opt/ironcliw").iterdir()}
    assert "venv" in left
    assert left.isdisjoint({"kernels", "cache", "uv.tar.gz"})


def test_one_that_fails_powers_off(vm: Vm) -> None:
    vm.program("apt-get", "exit 100")
    code, console = vm.boot(image_metadata(CLOUD, VERSIONS, ROOT / "native_ops"))
    assert code == 100
    assert "baking the image failed with exit code 100" in console
    assert READY not in console
    assert vm.arguments()[-1] == "poweroff now "


def test_without_kernels_nothing_is_compiled(vm: Vm) -> None:
    code, console = vm.boot(image_metadata(CLOUD, VERSIONS, None))
    assert code == 0, console
    assert not [line for line in vm.arguments() if line.startswith("apt-get")]
