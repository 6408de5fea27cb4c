"""A precision that a model cannot be computed in: warned of, and shown with its reason."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.status import write_status
from ironcliw.catalog import Catalog
from ironcliw.cli import main
from ironcliw.settings import Settings
from native_ops import binary
from serve.host import ModelHost
from serve.precision import precision_reason
from tests.contract.http_service import running

Host = Callable[[str], ModelHost]
ABSENT = binary.NativeState(None, reason="there are no compiled kernels; run `make native`")


@pytest.mark.parametrize(
    ("wanted", "used", "task"),
    [
        ("auto", "bfloat16", "embedding"),
        ("int8", "int8", "embedding"),
        ("float32", "float32", "nli"),
        ("int8", "bfloat16", "generation"),  # the setting is not about these
    ],
)
def test_there_is_nothing_to_say(wanted: str, used: str, task: str) -> None:
    assert precision_reason(wanted, used, task=task, device="cpu") is None


@pytest.mark.parametrize(
    ("wanted", "device", "cause"),
    [
        ("int8", "cpu", "no kernel computes its architecture in int8"),
        ("int8", "cuda:0", "int8 is computed on a CPU, and it is on cuda:0"),
        ("bfloat16", "cpu", "its engine has no other"),
    ],
)
def test_the_reason_names_both_and_the_cause(wanted: str, device: str, cause: str) -> None:
    found = precision_reason(wanted, "float32", task="embedding", device=device)
    assert found == f"serve.precision is {wanted}, but it computes in float32: {cause}"


@pytest.fixture
async def host_of(tmp_path: Path, make_folder: Any) -> AsyncIterator[Host]:
    """`host_of(precision)` serves a small `bert` and a small `t5` on the CPU."""
    models = {
        kind: {"source": f"dir:{make_folder(kind)}", "task": "embedding", "bytes": 100_000}
        for kind in ("bert", "t5")
    }
    made: list[ModelHost] = []

    def make(precision: str) -> ModelHost:
        settings = Settings(models=models, serve={"precision": precision, "device": "cpu"})
        made.append(ModelHost(Catalog(settings.models), settings.serve, tmp_path, "here"))
        return made[-1]

    yield make
    for host in made:
        await host.close()


async def loaded(host: ModelHost, model: str) -> dict[str, Any]:
    """The model's row."""
    await host.residency.load(model)
    return next(row for row in host.stats()["models"] if row["id"] == model)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "serve.host" and r.levelno >= 30]


async def test_another_architecture_is_warned_of_once(
    host_of: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host = host_of("int8")
    row = await loaded(host, "bert")
    assert (row["precision"], row["precision_reason"]) == ("int8", None)
    assert warnings_of(caplog) == []
    row = await loaded(host, "t5")
    assert row["precision_reason"] == (
        f"serve.precision is int8, but it computes in {row['precision']}: "
        "no kernel computes its architecture in int8"
    )
    await host.residency.unload("t5")
    [absent] = [row for row in host.stats()["models"] if row["id"] == "t5"]
    assert (absent["precision"], absent["precision_reason"]) == (None, None)
    assert (await loaded(host, "t5"))["precision_reason"] == row["precision_reason"]
    assert warnings_of(caplog) == [f"model t5: {row['precision_reason']}"]


async def test_absent_kernels_are_the_reason(
    host_of: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(binary, "state", lambda: ABSENT)
    row = await loaded(host_of("int8"), "bert")
    assert row["precision"] in {"bfloat16", "float32"}
    assert str(row["precision_reason"]).endswith(f": {ABSENT.reason}")
    with caplog.at_level(logging.WARNING):
        assert (await loaded(host_of("auto"), "bert"))["precision_reason"] is None
    assert len(warnings_of(caplog)) == 1


def command(*words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert not caught.value.code


def test_every_report_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = (
        "serve.precision is int8, but it computes in float32: "
        "no kernel computes its architecture in int8"
    )
    with running(tmp_path, precision="int8") as service:
        monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", service.url)
        command("models", "load", "fake")
        assert reason in capsys.readouterr().err
        models = httpx.get(f"{service.url}/v1/models", timeout=60).json()["data"]
        [model] = [row for row in models if row["id"] == "fake"]
        status = httpx.get(f"{service.url}/v1/status", timeout=60).json()
        command("models")
    [line] = [row for row in capsys.readouterr().out.splitlines() if row.startswith("fake ")]
    assert "float32 (not as set)" in line
    assert (model["precision"], model["precision_reason"]) == ("float32", reason)
    assert status["degraded"] == [f"model fake: {reason}"]
    write_status(status)
    shown = capsys.readouterr().out
    assert f"DEGRADED  model fake: {reason}" in shown
    assert "float32 (not as set)" in shown
