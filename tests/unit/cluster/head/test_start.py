"""Starts and stops at the same time; what starts processes is replaced, the rest is real."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.head import lifecycle as head
from cluster.head import services as head_processes
from cluster.head.gcs_storage import GcsStorage
from cluster.head.lock import head_lock
from cluster.head.processes import end_processes, tagged_processes
from cluster.head.record import HeadRecord, record_path
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from ironcliw.errors import ClusterError, SettingsError
from ironcliw.settings import Settings
from ironcliw.store import Store
from tests.unit.cluster.vm_requests import vm_request
from tests.waiting import wait_for


class Machine:
    """Stands in for Ray: a start is one tagged process, readiness and health are events."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.starts: list[str] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.told: list[str] = []
        self.ready = threading.Event()
        self.healthy = threading.Event()

    def start(self, settings: Settings, session: str, report: head.Report) -> None:
        self.starts.append(session)
        self.children.append(
            subprocess.Popen(
                [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"],
                env={**os.environ, "IRONCLIW_SESSION": session},
                start_new_session=True,
                stdout=subprocess.PIPE,
            )
        )
        pipe = self.children[-1].stdout
        assert pipe is not None
        pipe.readline()

    def wait_ready(self, settings: Settings, session: str, report: head.Report) -> None:
        wait_for(lambda: self.ready.is_set() or not tagged_processes(session))
        if not tagged_processes(session):
            raise ClusterError("lost")

    def up(self) -> tuple[HeadRecord, bool]:
        return head.start_head(self.settings, self.told.append)

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.communicate()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(state_dir=tmp_path / "state")
    # never the folder of a head that may run for this user
    cluster = settings.cluster.model_copy(
        update={"temp_dir": tmp_path / "ray", "start_timeout_seconds": 0.3}
    )
    return settings.model_copy(update={"cluster": cluster})


@pytest.fixture
def machine(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(settings)
    monkeypatch.setattr(head, "check_settings", lambda settings: None)
    monkeypatch.setattr(head, "check_ports", lambda settings: None)
    monkeypatch.setattr(head, "run_cloud_check", lambda settings: ["the cloud is slow"])
    monkeypatch.setattr(head, "start_processes", machine.start)
    monkeypatch.setattr(head, "wait_ready", machine.wait_ready)
    monkeypatch.setattr(head, "is_answering", lambda url: machine.healthy.is_set())
    yield machine
    machine.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


class TestTurns:
    def test_a_second_up_joins_a_first_that_is_still_starting(
        self, machine: Machine, pool: ThreadPoolExecutor
    ) -> None:
        first = pool.submit(machine.up)
        wait_for(lambda: machine.starts)
        second = pool.submit(machine.up)
        wait_for(lambda: any("waiting for another `ironcliw up`" in t for t in machine.told))
        assert not second.done()
        machine.healthy.set()
        machine.ready.set()
        (one, started), (two, joined) = first.result(60), second.result(60)
        assert (started, joined) == (True, False)
        assert one == two
        assert len(machine.starts) == 1
        assert tagged_processes(one.session)

    def test_a_failed_start_gives_the_lock_back(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise ClusterError("broken")

        with monkeypatch.context() as patch:
            patch.setattr(head, "wait_ready", fail)
            with pytest.raises(ClusterError, match="broken"):
                machine.up()
        assert tagged_processes(machine.starts[0]) == []
        assert not record_path(machine.settings.state_dir).exists()
        machine.ready.set()
        assert machine.up()[1]
        assert machine.told == []

    @pytest.mark.parametrize("stop", [head.stop_head, head.stop_every_head])
    def test_down_during_a_start_makes_it_fail(
        self,
        machine: Machine,
        pool: ThreadPoolExecutor,
        monkeypatch: pytest.MonkeyPatch,
        stop: Callable[[Settings, head.Report], int],
    ) -> None:
        # other heads of this user are none of a test's business
        monkeypatch.setattr(head, "session_tags", lambda: set(machine.starts))
        start = pool.submit(machine.up)
        wait_for(lambda: machine.children and tagged_processes(machine.starts[0]))
        assert stop(machine.settings, machine.told.append) == 1
        with pytest.raises(ClusterError, match="lost"):
            start.result(60)
        assert not record_path(machine.settings.state_dir).exists()

    def test_down_leaves_a_head_that_another_up_starts_meanwhile(self, machine: Machine) -> None:
        machine.ready.set()
        path = record_path(machine.settings.state_dir)
        HeadRecord("old", "http://a", "http://b", 1.5).write(path)
        newer = HeadRecord("newer", "http://a", "http://b", 2.5)
        with ThreadPoolExecutor() as pool:
            with head_lock(machine.settings.state_dir, machine.told.append):
                stop = pool.submit(head.stop_head, machine.settings, machine.told.append)
                wait_for(lambda: machine.told)
                newer.write(path)
            assert stop.result(60) == 0
        assert HeadRecord.read(path) == newer

    def test_the_lock_is_free_after_an_up(self, machine: Machine) -> None:
        machine.ready.set()
        machine.up()
        told: list[str] = []
        assert head.stop_head(machine.settings, told.append) == 1
        assert told == []


def with_workers(settings: Settings, before_down: str | None) -> Settings:
    cloud = settings.cloud.model_copy(update={"project": "a-project"})
    cluster = settings.cluster.model_copy(update={"before_down": before_down})
    return settings.model_copy(update={"cloud": cloud, "cluster": cluster})


def started_with_state(machine: Machine, before_down: str | None) -> HeadRecord:
    """A head that runs, with stored state, as after a whole start."""
    machine.settings = with_workers(machine.settings, before_down)
    machine.ready.set()
    record, _ = machine.up()
    storage = GcsStorage(machine.settings)
    storage.prepare(machine.told.append)
    storage.note_application()
    return record


class TestStoredState:
    """What `down` forgets, and what it keeps for the next `up`."""

    def hook(self, folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
        (folder / "before_down_hook.py").write_text(
            "from pathlib import Path\n"
            "from cluster.head.processes import tagged_processes\n"
            "from cluster.head.record import HeadRecord, record_path\n"
            "from ironcliw.errors import ClusterError\n"
            f"def before(settings):\n    {body}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(folder))
        return "before_down_hook:before"

    def test_what_launches_machines_ends_before_they_do(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And what would start it anew ends before that."""
        ended: list[tuple[str, ...]] = []
        monkeypatch.setattr(head, "end_named", lambda _, *parts: ended.append(parts) or 0)
        monkeypatch.setattr(head, "run_before_down", lambda _: ended.append(("the machines",)))
        started_with_state(machine, "named:nowhere")
        head.stop_head(machine.settings, machine.told.append)
        monitor = "autoscaler/v2/monitor.py"
        assert ended == [
            ("cluster.head.supervisor",),
            (monitor, "cluster.control.controller"),
            ("the machines",),
        ]

    def test_a_cloud_that_cannot_be_used_is_told_before_anything_starts(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(settings: Settings) -> list[str]:
            raise SettingsError("no credentials")

        started_with_state(machine, "named:nowhere")
        assert "the cloud is slow" in machine.told
        head.stop_head(machine.settings)
        monkeypatch.setattr(head, "run_cloud_check", refuse)
        starts = list(machine.starts)
        with pytest.raises(SettingsError, match="no credentials"):
            machine.up()
        assert machine.starts == starts

    def test_machines_are_told_to_go_while_the_head_lives(
        self, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = tmp_path / "seen"
        body = (
            "record = HeadRecord.read(record_path(settings.state_dir)); "
            f"Path({str(seen)!r}).write_text(str(len(tagged_processes(record.session))))"
        )
        started_with_state(machine, self.hook(tmp_path, monkeypatch, body))
        assert head.stop_head(machine.settings, machine.told.append) == 1
        assert seen.read_text() == "1"
        assert not GcsStorage(machine.settings).exists()
        assert head.stop_head(machine.settings, machine.told.append) == 0

    @pytest.mark.parametrize("body", ["raise ClusterError('no way out')", "1 / 0"])
    def test_state_is_kept_when_machines_may_be_left(
        self, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
    ) -> None:
        started_with_state(machine, self.hook(tmp_path, monkeypatch, body))
        assert head.stop_head(machine.settings, machine.told.append) == 1
        assert not record_path(machine.settings.state_dir).exists()
        assert GcsStorage(machine.settings).exists()
        expected = "no way out" if "ClusterError" in body else "ZeroDivisionError"
        assert expected in machine.told[-1]
        assert "what is left powers off 10 minutes after the head" in machine.told[-1]
        # a second `down`, with the way out mended, tells them and forgets
        self.hook(tmp_path, monkeypatch, "return")
        assert head.stop_head(machine.settings, machine.told.append) == 0
        assert not GcsStorage(machine.settings).exists()

    def test_down_all_forgets_it_too(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(head, "session_tags", lambda: set(machine.starts))
        started_with_state(machine, None)
        assert head.stop_every_head(machine.settings, machine.told.append) == 1
        assert not GcsStorage(machine.settings).exists()

    @pytest.mark.parametrize("is_known", [True, False])
    def test_a_failed_start_keeps_only_what_an_earlier_head_left(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch, is_known: bool
    ) -> None:
        storage = GcsStorage(machine.settings)
        if is_known:
            storage.prepare(machine.told.append)

        def fail(settings: Settings, *_: object) -> None:
            GcsStorage(settings).prepare(machine.told.append)
            raise ClusterError("broken")

        monkeypatch.setattr(head, "wait_ready", fail)
        with pytest.raises(ClusterError, match="broken"):
            machine.up()
        assert storage.exists() is is_known
        assert any("`ironcliw down` forgets it" in text for text in machine.told) is is_known

    def test_a_head_that_is_killed_leaves_it_for_the_next(self, machine: Machine) -> None:
        record = started_with_state(machine, None)
        assert end_processes(record.session) == 1
        machine.up()
        assert GcsStorage(machine.settings).holds_application()


def moved(settings: Settings, **cloud: object) -> Settings:
    return settings.model_copy(update={"cloud": settings.cloud.model_copy(update=cloud)})


class TestChangedProject:
    """The project or the cluster's name was changed while the machines were in the old one."""

    @pytest.mark.parametrize("project", ["another", None])
    @pytest.mark.parametrize("stop", [head.stop_head, head.stop_every_head])
    def test_down_deletes_them_where_they_are(
        self,
        machine: Machine,
        monkeypatch: pytest.MonkeyPatch,
        project: str | None,
        stop: Callable[[Settings, head.Report], int],
    ) -> None:
        asked: list[tuple[str | None, str]] = []
        monkeypatch.setattr(head, "session_tags", lambda: set(machine.starts))
        monkeypatch.setattr(
            head,
            "run_before_down",
            lambda one: asked.append((one.cloud.project, one.cloud.cluster_name)),
        )
        started_with_state(machine, "named:nowhere")
        stop(moved(machine.settings, project=project, cluster_name="office"), machine.told.append)
        assert asked == [("a-project", "ironcliw")]
        assert not GcsStorage(machine.settings).exists()

    def left_behind(self, machine: Machine) -> str:
        """A machine that was ordered by a head that was then killed."""
        record = started_with_state(machine, None)
        end_processes(record.session)
        settings = machine.settings
        with Store(settings.store_url) as store:
            store.migrate()
            ledger = Ledger(store, PriceTable.of(settings.budget), settings.budget)
            ledger.observe([])
            assert ledger.reserve(vm_request(name="ironcliw-1")).granted
        return "ironcliw-1"

    @pytest.mark.parametrize(
        ("change", "now"),
        [
            ({"project": "another"}, "project another, cluster ironcliw"),
            ({"cluster_name": "office"}, "project a-project, cluster office"),
        ],
    )
    def test_up_elsewhere_is_refused_while_machines_are_left(
        self, machine: Machine, change: dict[str, object], now: str
    ) -> None:
        name = self.left_behind(machine)
        starts = list(machine.starts)
        machine.settings = moved(machine.settings, **change)
        told = rf"mean {now}, .* machines in project a-project, cluster ironcliw .*: {name} in "
        with pytest.raises(SettingsError, match=told + ".*run `ironcliw down` first"):
            machine.up()
        assert machine.starts == starts

    def test_up_elsewhere_is_fine_when_none_is_left(self, machine: Machine) -> None:
        record = started_with_state(machine, None)
        end_processes(record.session)
        machine.settings = moved(machine.settings, project="another")
        assert machine.up()[1]

    def test_up_where_they_are_is_fine(self, machine: Machine) -> None:
        self.left_behind(machine)
        assert machine.up()[1]

    def test_up_without_a_cloud_says_what_down_will_do(self, machine: Machine) -> None:
        self.left_behind(machine)
        machine.settings = moved(machine.settings, project=None)
        assert machine.up()[1]
        text = "had workers in project a-project, cluster ironcliw: `ironcliw down` deletes"
        assert any(text in told for told in machine.told)


class TestSilentHead:
    def test_it_is_given_time_to_answer(self, machine: Machine, pool: ThreadPoolExecutor) -> None:
        machine.ready.set()
        record, _ = machine.up()
        cluster = machine.settings.cluster.model_copy(update={"start_timeout_seconds": 10.0})
        machine.settings = machine.settings.model_copy(update={"cluster": cluster})
        second = pool.submit(machine.up)
        wait_for(lambda: any("does not answer: waiting up to 10 s" in t for t in machine.told))
        machine.healthy.set()
        assert second.result(60) == (record, False)
        assert tagged_processes(record.session)

    def test_it_is_replaced_when_it_stays_silent(self, machine: Machine) -> None:
        machine.ready.set()
        silent, _ = machine.up()
        record, started = machine.up()
        assert started
        assert record.session != silent.session
        assert tagged_processes(silent.session) == []
        assert "stopping the head that does not answer" in machine.told


def test_waiting_ends_when_the_processes_are_gone(settings: Settings) -> None:
    cluster = settings.cluster.model_copy(update={"start_timeout_seconds": 60.0})
    serve = settings.serve.model_copy(update={"port": 1})
    changed = settings.model_copy(update={"cluster": cluster, "serve": serve})
    with pytest.raises(ClusterError, match="were ended, perhaps by `ironcliw down`"):
        head.wait_ready(changed, "no-such-session", lambda text: None)


def test_a_child_that_was_ended_is_told_from_one_that_failed(tmp_path: Path) -> None:
    child = head_processes.spawn(
        [sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path / "log"
    )
    child.terminate()
    with pytest.raises(ClusterError, match=r"ray start was ended by signal 15.*`ironcliw down`"):
        head_processes.wait_for_exit(child, "ray start", tmp_path / "log", 10)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a service that is healthy and ready; the environment names a proxy that is not."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_readiness_is_asked_of_this_machine(settings: Settings, service: int) -> None:
    serve = settings.serve.model_copy(update={"port": service})
    client = settings.client.model_copy(update={"base_url": "http://127.0.0.1:1"})
    changed = settings.model_copy(update={"serve": serve, "client": client})
    assert head.is_answering(changed.service_url)
    head.wait_ready(changed, "no-such-session", lambda text: None)


def test_the_record_names_this_machine(machine: Machine) -> None:
    client = machine.settings.client.model_copy(update={"base_url": "http://elsewhere:9"})
    machine.settings = machine.settings.model_copy(update={"client": client})
    machine.ready.set()
    record, _ = machine.up()
    assert record.base_url == "http://127.0.0.1:8000"
    assert end_processes(record.session) == 1
