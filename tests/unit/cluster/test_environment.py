"""Machines that this is not: each is described through probes that answer as it would."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.environment import (
    GIBIBYTE,
    Environment,
    Gpu,
    MachineKind,
    Probes,
    detect,
    program_output,
    read_metadata,
    recommended_profile,
    this_machine,
)

ZONE = "projects/123/zones/us-central1-a"
TYPE = "projects/123/machineTypes/e2-highmem-4"


def silent(*_: str) -> None:
    return None


LINUX = Probes(
    system=lambda: "Linux",
    architecture=lambda: "x86_64",
    cores=lambda: 4,
    memory_bytes=lambda: int(31.3 * GIBIBYTE),
    product=lambda: "ThinkPad",
    output=silent,
    metadata=silent,
)
MAC = dataclasses.replace(
    LINUX,
    system=lambda: "Darwin",
    architecture=lambda: "arm64",
    cores=lambda: 8,
    memory_bytes=lambda: 16 * GIBIBYTE,
    product=lambda: None,
    output=lambda *words: "Apple M1\n" if words[0] == "sysctl" else None,
)


def vm(preemptible: str, product: str | None = "Google Compute Engine") -> Probes:
    values = {
        "instance/scheduling/preemptible": preemptible,
        "instance/zone": ZONE,
        "instance/machine-type": TYPE,
    }
    return dataclasses.replace(LINUX, product=lambda: product, metadata=values.get)


class TestDetect:
    def test_the_mac(self) -> None:
        found = detect(MAC)
        assert found == Environment(
            MachineKind.MAC,
            "Darwin",
            "arm64",
            "Apple M1",
            8,
            16 * GIBIBYTE,
            (Gpu("mps", "Apple M1"),),
        )
        described = "apple-silicon-mac (Apple M1), 8 cores, 16.0 GiB; mps: Apple M1"
        assert found.describe() == described

    def test_an_intel_mac_is_another_machine(self) -> None:
        found = detect(dataclasses.replace(MAC, architecture=lambda: "x86_64"))
        assert (found.kind, found.gpus) == (MachineKind.OTHER, ())

    def test_a_mac_never_waits_for_the_metadata_server(self) -> None:
        def forbidden(path: str) -> str:
            raise AssertionError(path)

        assert detect(dataclasses.replace(MAC, metadata=forbidden)).spot is None

    @pytest.mark.parametrize(("answer", "spot"), [("TRUE", True), ("FALSE\n", False)])
    def test_a_vm_knows_whether_it_can_be_taken_back(self, answer: str, spot: bool) -> None:
        found = detect(vm(answer))
        assert (found.kind, found.spot) == (MachineKind.GCE, spot)
        assert (found.zone, found.chip) == ("us-central1-a", "e2-highmem-4")
        assert found.describe().endswith(f"{'Spot' if spot else 'regular'} in us-central1-a")

    def test_where_the_firmware_is_silent_the_server_is_asked(self) -> None:
        assert detect(vm("TRUE", product=None)).kind is MachineKind.GCE

    def test_another_machine(self) -> None:
        found = detect(dataclasses.replace(vm("TRUE"), product=lambda: "KVM"))
        assert (found.kind, found.spot, found.gpus) == (MachineKind.OTHER, None, ())
        assert detect(LINUX).describe() == "other (x86_64), 4 cores, 31.3 GiB"

    def test_nvidia_gpus(self) -> None:
        listing = "NVIDIA L4, 23034\nNVIDIA H100, 80GB, [N/A]\n\n"
        found = detect(dataclasses.replace(LINUX, output=lambda *words: listing))
        assert found.gpus == (Gpu("cuda", "NVIDIA L4", 23034 * 2**20),)


@pytest.mark.parametrize(
    ("gibibytes", "name", "trains"),
    [
        (8, "inference-only", False),
        (16, "inference-only", False),
        (29.9, "inference-only", False),
        # e2-highmem-4 as its kernel sees it
        (31.3, "full training", True),
        (32, "full training", True),
    ],
)
def test_memory_decides_what_runs(gibibytes: float, name: str, trains: bool) -> None:
    machine = dataclasses.replace(LINUX, memory_bytes=lambda: int(gibibytes * GIBIBYTE))
    profile = recommended_profile(detect(machine))
    assert (profile.name, profile.trains) == (name, trains)
    assert f"{gibibytes:.1f} GiB" in profile.reason


@pytest.fixture
def server() -> Iterator[str]:
    """A metadata server; below /other stands a service that is none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            genuine = self.path.startswith("/v1/") and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(404 if self.path.endswith("absent") else 200)
            if genuine:
                self.send_header("Metadata-Flavor", "Google")
            self.send_header("content-length", "4")
            self.end_headers()
            self.wfile.write(b"TRUE")

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_metadata_is_believed_only_from_googles_server(server: str) -> None:
    path = "instance/scheduling/preemptible"
    assert read_metadata(server + "/v1/", path) == "TRUE"
    assert read_metadata(server + "/v1", "absent") is None
    assert read_metadata(server + "/other", path) is None
    assert read_metadata("http://127.0.0.1:1", path) is None


def test_a_program_that_is_absent_or_fails_says_nothing() -> None:
    assert program_output(sys.executable, "-c", "print('yes')") == "yes\n"
    assert program_output(sys.executable, "-c", "print('no'); raise SystemExit(1)") is None
    assert program_output("no-such-program-anywhere") is None


def test_this_machine_is_something() -> None:
    found = detect(this_machine("http://127.0.0.1:1"))
    assert found.cores >= 1
    assert found.memory_bytes > GIBIBYTE / 2
    assert found.system in found.describe() or found.architecture
