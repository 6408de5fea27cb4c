from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.testing.fake_metadata import FakeMetadata
from cluster.testing.http_server import HttpServer, Request, Response
from cluster.vm.facts import (
    Metadata,
    egress_bytes,
    installed_version,
    is_running,
    mismatch,
    node_id_of,
    raylet_of,
    write_atomically,
)
from tests.unit.cluster.vm_stand_ins import NODE_ID, FakeRay

HEAD = {"python": "3.11.7", "match": "patch", "pins": {"ray": "2.60.0", "torch": "2.13.0"}}


@pytest.fixture
def server() -> Iterator[FakeMetadata]:
    with FakeMetadata({"instance/name": "vm-1"}) as fake:
        yield fake


def wait_in_thread(metadata: Metadata) -> tuple[threading.Thread, list[bool], threading.Event]:
    found: list[bool] = []
    stop = threading.Event()
    thread = threading.Thread(target=lambda: found.append(metadata.wait_preempted(stop)))
    thread.start()
    return thread, found, stop


def wait_for_requests(server: FakeMetadata, count: int) -> None:
    ends = time.monotonic() + 10.0
    while len(server.requests) < count:
        assert time.monotonic() < ends, "the metadata server was not asked"
        time.sleep(0.01)


def test_values_and_attributes(server: FakeMetadata) -> None:
    server.set_attribute("ironcliw-notice-seconds", "120")
    metadata = Metadata(server.url + "/")
    assert metadata.get("instance/name")[0] == "vm-1"
    assert metadata.attribute("ironcliw-notice-seconds", "30") == "120"
    assert metadata.attribute("absent", "30") == "30"


def test_an_attribute_that_cannot_be_read_is_not_taken_for_absent(server: FakeMetadata) -> None:
    with server.failing(500), pytest.raises(OSError, match="500"):
        Metadata(server.url).attribute("absent", "30")


def test_a_preemption_before_the_first_question_is_seen(server: FakeMetadata) -> None:
    server.preempt()
    assert Metadata(server.url).wait_preempted(threading.Event())
    assert len(server.requests) == 1


def test_the_change_ends_the_waiting_request(server: FakeMetadata) -> None:
    thread, found, _ = wait_in_thread(Metadata(server.url))
    wait_for_requests(server, 2)
    server.preempt()
    thread.join(60)
    assert found == [True]
    assert len(server.requests) == 2
    assert server.requests[1].query["wait_for_change"] == "true"


def test_it_survives_a_server_that_fails(server: FakeMetadata) -> None:
    with server.failing():
        thread, found, _ = wait_in_thread(Metadata(server.url))
        wait_for_requests(server, 2)
    server.preempt()
    thread.join(60)
    assert found == [True]


def test_a_server_that_does_not_wait_is_not_asked_without_pause() -> None:
    asked: list[str] = []

    def answer(request: Request) -> Response:
        asked.append(request.query.get("last_etag", ""))
        value = b"TRUE" if len(asked) == 3 else b"FALSE"
        return Response(200, value, {"ETag": f"never-the-same-{len(asked)}"})

    began = time.monotonic()
    with HttpServer(answer) as fake:
        assert Metadata(fake.url).wait_preempted(threading.Event())
    assert asked == ["", "never-the-same-1", "never-the-same-2"]
    assert time.monotonic() - began >= 0.9


def test_it_ends_when_told(server: FakeMetadata) -> None:
    with server.failing():
        thread, found, stop = wait_in_thread(Metadata(server.url))
        wait_for_requests(server, 1)
        stop.set()
        thread.join(60)
    assert found == [False]


def test_egress_counts_network_cards_alone() -> None:
    table = (
        "Inter-|   Receive  |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n"
        "    lo: 900 9 0 0 0 0 0 0 900 9 0 0 0 0 0 0\n"
        "  ens4: 5000 50 0 0 0 0 0 0 1234 12 0 0 0 0 0 0\n"
        "tailscale0: 70 7 0 0 0 0 0 0 1000 7 0 0 0 0 0 0\n"
        "  ens5:1 1 0 0 0 0 0 0 66 1 0 0 0 0 0 0\n"
    )
    assert egress_bytes(table) == 1300


def test_egress_of_this_machine_is_readable() -> None:
    assert egress_bytes(Path("/proc/net/dev").read_text(encoding="ascii")) >= 0


@pytest.mark.parametrize(
    ("python", "match", "torch", "expected"),
    [
        ("3.11.7", "patch", "2.13.0", ""),
        ("3.11.7", "patch", "2.13.0+cpu", ""),
        ("3.11.2", "minor", "2.13.0", ""),
        ("3.11.2", "patch", "2.13.0", "Python 3.11.2 here, 3.11.7 on the head"),
        ("3.12.7", "minor", "2.13.0", "Python 3.12.7 here, 3.11.7 on the head"),
        ("3.11.7", "patch", "2.13.1", "torch 2.13.1 here, 2.13.0 on the head"),
        # what is absent here cannot clash
        ("3.11.7", "patch", None, ""),
    ],
)
def test_mismatch(python: str, match: str, torch: str | None, expected: str) -> None:
    here = {"ray": "2.60.0", "torch": torch}
    assert mismatch({**HEAD, "match": match}, python, here.get) == expected


def test_mismatch_names_all_that_differs() -> None:
    found = mismatch(HEAD, "3.12.0", {"ray": "2.59.0", "torch": "2.12.0"}.get)
    assert [part.split()[0] for part in found.split("; ")] == ["Python", "ray", "torch"]


def test_installed_version() -> None:
    assert installed_version("pytest") == pytest.__version__
    assert installed_version("no-such-distribution") is None


def test_only_a_raylet_of_our_own_is_found(tmp_path: Path) -> None:
    fake = FakeRay(tmp_path)
    ours = subprocess.Popen([fake.ray])
    stranger = subprocess.Popen([fake.raylet, "-c", f"read -t 60 <>{tmp_path}/fifo", "raylet"])
    try:
        ends = time.monotonic() + 10.0
        while (found := raylet_of(ours.pid)) is None and time.monotonic() < ends:
            time.sleep(0.01)
        assert found == fake.raylet_pid()
        assert found != stranger.pid
        assert node_id_of(found) == NODE_ID.hex()
        assert node_id_of(stranger.pid) == ""
        assert is_running(found)
        subprocess.run(["kill", "-9", str(found)], check=True)
        while is_running(found) and time.monotonic() < ends:
            time.sleep(0.01)
        assert raylet_of(ours.pid) is None
        assert node_id_of(found) == ""
    finally:
        for process in (ours, stranger):
            process.kill()
            process.wait()


def test_a_process_that_waits_for_its_parent_does_not_run() -> None:
    child = subprocess.Popen(["true"])
    ends = time.monotonic() + 10.0
    while is_running(child.pid) and time.monotonic() < ends:
        time.sleep(0.01)
    assert not is_running(child.pid)
    assert Path(f"/proc/{child.pid}").exists(), "nobody has waited for it yet"
    child.wait()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "notice.json"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text(encoding="utf-8") == "two"
    assert list(tmp_path.iterdir()) == [path]
