"""The controller beside plain Ray, where nobody has prepared anything for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.control.loop import make_controller
from cluster.control.report import ControllerReport, read_report
from cluster.control.status import cloud_status
from cluster.testing.fake_compute import FakeCompute
from ironcliw.errors import StoreError
from ironcliw.settings import load_settings

REPORT_SECONDS = 60.0


def first_report(state: Path, process: subprocess.Popen[str]) -> ControllerReport:
    deadline = time.monotonic() + REPORT_SECONDS
    while (report := read_report(state)) is None:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, "the controller did not report in time"
        time.sleep(0.05)
    return report


def test_it_makes_its_tables(tmp_path: Path) -> None:
    """`python -m cluster.control.controller </dev/null`, as `ray_cluster.yaml` says it."""
    state = tmp_path / "state"
    # a port on which nobody listens: the head is not up yet, either
    with FakeCompute() as compute, socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        environment = {
            **os.environ,
            "IRONCLIW_STATE_DIR": str(state),
            "IRONCLIW_CLOUD__PROJECT": compute.project,
            "IRONCLIW_CLOUD__API_ENDPOINT": compute.url,
            "IRONCLIW_CLUSTER__GCS_PORT": str(held.getsockname()[1]),
        }
        with subprocess.Popen(
            [sys.executable, "-m", "cluster.control.controller"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            report = first_report(state, process)
            process.terminate()
            assert process.wait(60) == 0
    assert not report.reaches_head
    status = cloud_status(load_settings().model_copy(update={"state_dir": state}))
    assert [one.spent for one in status.standings] == [0.0, 0.0]


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"no database of SQLite at all" * 100)
    with FakeCompute() as compute:
        settings = load_settings().model_copy(
            update={"state_dir": tmp_path, "cloud": compute.cloud()}
        )
        with pytest.raises(StoreError, match=r"state\.db cannot be used: .*not a database"):
            make_controller(settings)
