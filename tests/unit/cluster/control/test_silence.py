"""Why nobody answers: an event once, and a line of `ironcliw status` while it lasts."""

from __future__ import annotations

import pytest

from cluster.control.report import ControllerReport, read_report, write_report
from cluster.control.status import cloud_status
from cluster.gce.client import ComputeClient
from cluster.gce.errors import GceError, of_credentials
from cluster.testing.faults import ApiStorm
from tests.unit.cluster.controller_bench import Bench


def status(bench: Bench) -> str:
    settings = bench.controller._settings
    return "\n".join(cloud_status(settings, now=bench.cloud.now()).lines())


def test_credentials_that_expire_are_said_with_the_next_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(20)
    assert "error" not in status(bench)
    words = iter(range(1000))

    def fail(*_: object) -> None:
        raise of_credentials("list of machines", OSError(f"expired, try {next(words)}"))

    monkeypatch.setattr(ComputeClient, "listing", fail)
    bench.run(4)
    assert bench.cloud.told("cloud") == []  # what was listed before still holds
    bench.run(3600)
    (told,) = bench.cloud.told("cloud")
    assert told.startswith("the cloud does not answer: list of machines failed: credentials cannot")
    text = status(bench)
    assert "CLOUD DOES NOT ANSWER, head answers" in text
    assert "cloud error: list of machines failed" in text
    assert "run `gcloud auth application-default login`" in text.splitlines()[1]

    def other(*_: object) -> None:
        raise GceError("the API is off; turn it on", kind="auth", code="accessNotConfigured")

    monkeypatch.setattr(ComputeClient, "listing", other)
    bench.run(10)
    assert bench.cloud.told("cloud")[1:] == [
        "the cloud does not answer: the API is off; turn it on"
    ]
    monkeypatch.undo()
    bench.run(10)
    assert "error" not in status(bench).splitlines()[1]


def test_preemptions_that_cannot_be_listed_are_said_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise GceError("list of preemptions failed: no permission", kind="auth", code="forbidden")

    monkeypatch.setattr(ComputeClient, "preemptions", fail)
    bench.run(60)
    assert len(bench.cloud.told("cloud")) == 1
    assert "cloud error: list of preemptions failed: no permission" in status(bench)


def test_a_head_that_is_gone_is_said(bench: Bench) -> None:
    bench.run()
    bench.head.is_up = False
    bench.run(20)
    bench.run(600)
    (told,) = bench.cloud.told("head")
    assert told.startswith("the head does not answer: ConnectionRefusedError")
    assert "`ironcliw up` starts a head that is gone" in told
    found = read_report(bench.folder)
    assert found is not None
    assert found.head_error in told
    assert found.cloud_error == ""


def test_one_storm_is_one_event(bench: Bench) -> None:
    bench.run()
    bench.cloud.compute.world.add(ApiStorm(seconds=1800))
    bench.run(1500)
    assert len(bench.cloud.told("cloud")) == 1


def test_a_report_of_an_earlier_release_has_no_errors(bench: Bench) -> None:
    write_report(bench.folder, ControllerReport(bench.cloud.now(), None, True, "why", "what"))
    path = bench.folder / "controller.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"cloud_error": "why", "head_error": "what", ', ""))
    found = read_report(bench.folder)
    assert found == ControllerReport(bench.cloud.now(), None, True)
