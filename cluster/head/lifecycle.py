"""Start, join and stop the Ray head of this machine together with the Serve application.

What is started runs as child processes: this one stays small, since `make serve` keeps it in the
foreground. With workers in the cloud, a head that was killed is started again with its state.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import time
from collections.abc import Callable, Collection

import httpx

from cluster.head.farewell import say_farewell
from cluster.head.gcs_storage import CloudOrigin, GcsStorage, of_record
from cluster.head.lock import head_lock
from cluster.head.ports import check_ports
from cluster.head.preflight import (
    run_before_down,
    run_cloud_check,
    run_elsewhere_check,
    run_preflight,
)
from cluster.head.processes import (
    MONITOR,
    SUPERVISOR,
    end_named,
    end_processes,
    session_tags,
    tagged_processes,
)
from cluster.head.ray_environment import dashboard_url, has_workers, token_path
from cluster.head.record import HeadRecord, ensure_token, record_path
from cluster.head.services import start_processes
from cluster.head.temp_folder import prepare_temp_folder
from ironcliw.errors import (
    ClusterError,
    IroncliwError,
    SettingsError,
    UnsupportedError,
)
from ironcliw.settings import Settings

logger = logging.getLogger(__name__)

Report = Callable[[str], None]
_POLL_SECONDS = 0.05
_LIVENESS_SECONDS = 0.5
# How long a head that runs but does not answer is given before it is replaced.
_PATIENCE_SECONDS = 20.0
# A socket path may have 107 bytes on Linux and 103 on macOS; Ray appends about 60 to its folder.
_MAX_TEMP_DIR = 40


def running_head(settings: Settings) -> HeadRecord | None:
    """The head of this state directory, or None when none of its processes is left."""
    record = HeadRecord.read(record_path(settings.state_dir))
    if record is None or not tagged_processes(record.session):
        return None
    return record


def start_head(settings: Settings, report: Report = logger.info) -> tuple[HeadRecord, bool]:
    """Start a head and the application, or join the one that runs already.

    Calls for one state directory take turns, so that nobody stops a head that another one is still
    starting; a call that had to wait then joins the head of the other.

    Returns:
        The head's record, and whether it was started by this call.

    Raises:
        UnsupportedError: Ray is not installed.
        SettingsError: a setting makes a safe start impossible, or the VPN's address is absent.
        PortInUseError: somebody else listens on a port we need.
        ClusterError: a step failed or took too long; whatever had started is ended again.
    """
    if importlib.util.find_spec("ray") is None:
        raise UnsupportedError(
            "a head needs Ray, which is not installed: pip install 'ironcliw[local]'"
        )
    with head_lock(settings.state_dir, report):
        check_settings(settings)
        record = _answering_head(settings, report)
        if record is not None:
            return record, False
        clean_stale(settings, report)
        check_ports(settings)
        check_moved(settings, report)
        if has_workers(settings):
            report("asking the cloud")
            for note in run_cloud_check(settings):
                report(note)
        prepare_temp_folder(settings)
        ensure_token(token_path(settings))
        return _start_new(settings, report), True


def _answering_head(settings: Settings, report: Report) -> HeadRecord | None:
    """The running head, given time to answer; a silent one is stopped."""
    record = running_head(settings)
    if record is None or is_answering(record.base_url):
        return record
    # an ingress that died is replaced within seconds, and then this head is as good as new
    patience = min(settings.cluster.start_timeout_seconds, _PATIENCE_SECONDS)
    report(f"a head of this state directory runs but does not answer: waiting up to {patience:g} s")
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and running_head(settings) == record:
        if is_answering(record.base_url):
            return record
        time.sleep(_LIVENESS_SECONDS)
    report("stopping the head that does not answer")
    end_processes(record.session)
    record_path(settings.state_dir).unlink(missing_ok=True)
    return None


def _start_new(settings: Settings, report: Report) -> HeadRecord:
    storage = GcsStorage(settings)
    has_state = storage.exists()
    session = secrets.token_hex(8)
    record = HeadRecord(session, settings.service_url, dashboard_url(settings), time.time())
    record.write(record_path(settings.state_dir))
    try:
        start_processes(settings, session, report)
        wait_ready(settings, session, report)
    except BaseException:
        # also on Ctrl-C: a half-started head must not stay behind
        end_processes(session)
        record_path(settings.state_dir).unlink(missing_ok=True)
        if has_state:
            report("the state of the earlier head is kept; `ironcliw down` forgets it")
        else:
            storage.clear()
        raise
    return record


def stop_head(settings: Settings, report: Report = logger.info) -> int:
    """End every process of this state directory's head; returns how many there were.

    Machines in the cloud are told to go before the head does. A start that is under way loses its
    processes and fails; this call returns when that one has cleaned up. A head that is started
    meanwhile by yet another call is left alone.
    """
    path = record_path(settings.state_dir)
    record = HeadRecord.read(path)
    storage = GcsStorage(settings)
    if record is None and not storage.exists():
        return 0
    # before the lock: the start that holds it gives it back only when it notices its loss
    sessions = [] if record is None else [record.session]
    ended, released = _end_in_order(settings, sessions, report)
    with head_lock(settings.state_dir, report):
        ended += sum(end_processes(session) for session in sessions)
        if HeadRecord.read(path) == record:
            path.unlink(missing_ok=True)
            if released:
                storage.clear()
    return ended


def stop_every_head(settings: Settings, report: Report = logger.info) -> int:
    """End the processes of every head of this user; returns how many there were.

    It works with a damaged record too, and removes it. Machines in the cloud that belong to another
    state directory's head are left to power off by themselves.
    """
    ended, released = _end_in_order(settings, session_tags(), report)
    with head_lock(settings.state_dir, report):
        ended += sum(end_processes(tag) for tag in session_tags())
        record_path(settings.state_dir).unlink(missing_ok=True)
        if released:
            GcsStorage(settings).clear()
    return ended


def _end_in_order(
    settings: Settings, sessions: Collection[str], report: Report
) -> tuple[int, bool]:
    """Let what runs end, then end what may launch machines, the machines, and all the rest.

    Returns:
        How many processes there were, and whether no machine is left to come back.
    """
    ended = 0
    storage = GcsStorage(settings)
    # while everything is there: what runs in the cloud, too, has to tell its state to the head
    say_farewell(settings, report)
    # a head that is still starting goes at once: it would start what launches machines later
    if storage.holds_application():
        launching = (MONITOR, *settings.cluster.side_modules)
        for session in sessions:
            # first, or it would start the others anew
            ended += end_named(session, SUPERVISOR)
            ended += end_named(session, *launching)
    else:
        ended = sum(end_processes(session) for session in sessions)
    released = not storage.exists() or _release_machines(settings, report)
    return ended + sum(end_processes(session) for session in sessions), released


def _release_machines(settings: Settings, report: Report) -> bool:
    settings = of_record(settings)
    if not has_workers(settings):
        return True
    try:
        run_before_down(settings)
    except IroncliwError as error:
        report(
            f"not all machines in the cloud could be told to go: {error.message}; what is left "
            f"powers off {settings.cloud.head_gone_minutes:g} minutes after the head, and "
            "`ironcliw down` tries again"
        )
        return False
    return True


def check_moved(settings: Settings, report: Report) -> None:
    """Refuse a start in another project, or with another name, while machines may be left.

    Raises:
        SettingsError: the ledger has machines of the earlier head that have not ended.
    """
    before, now = GcsStorage(settings).cloud(), CloudOrigin.of(settings.cloud)
    if before is None or (now is not None and now.place == before.place):
        return
    if now is None:
        report(
            f"cloud.project is unset, and the earlier head had workers in {before}: `ironcliw "
            "down` deletes what is left there"
        )
        return
    run_elsewhere_check(settings)


def check_settings(settings: Settings) -> None:
    """Refuse what would be unsafe or would fail late.

    Raises:
        SettingsError: with what to change.
    """
    if len(os.fsencode(settings.ray_temp_dir)) > _MAX_TEMP_DIR:
        raise SettingsError(
            f"setting cluster.temp_dir is {str(settings.ray_temp_dir)!r}; it may have "
            f"{_MAX_TEMP_DIR} bytes at most, since Ray puts sockets below it"
        )
    run_preflight(settings)


def clean_stale(settings: Settings, report: Report) -> None:
    """End what a killed run left behind; its record says which processes were its own."""
    path = record_path(settings.state_dir)
    record = HeadRecord.read(path)
    if record is None:
        return
    ended = end_processes(record.session)
    path.unlink(missing_ok=True)
    report(f"cleaned up after an earlier run that was not stopped ({ended} processes ended)")


def is_answering(base_url: str) -> bool:
    """Whether an HTTP service of ours answers there."""
    try:
        response = httpx.get(base_url + "/healthz", timeout=2.0, trust_env=False)
        return response.status_code == 200
    except httpx.HTTPError:
        return False


def wait_ready(settings: Settings, session: str, report: Report) -> None:
    """Wait until `/readyz` is 200: a real forward pass of each pinned model.

    Raises:
        ClusterError: it took too long, or somebody ended the session's processes.
    """
    report("waiting for the models")
    started_at = looked_at = time.monotonic()
    answer = "nothing listens"
    while (now := time.monotonic()) < started_at + settings.cluster.start_timeout_seconds:
        if now - looked_at > _LIVENESS_SECONDS:
            looked_at = now
            if not tagged_processes(session):
                raise ClusterError("the head's processes were ended, perhaps by `ironcliw down`")
        try:
            # this machine's own service: a proxy of the environment would not reach it
            response = httpx.get(settings.service_url + "/readyz", timeout=10.0, trust_env=False)
            if response.status_code == 200:
                return
            answer = response.text
            if response.status_code == 500:
                break
        except httpx.HTTPError as error:
            answer = str(error)
        time.sleep(_POLL_SECONDS)
    raise ClusterError(f"the service did not become ready: {answer}")
