"""What the first token over HTTP is measured against: the server's own account of its steps."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from benchmarks import generation_http
from benchmarks.generation_work import MODEL
from benchmarks.harness import BenchmarkError

URL = "http://127.0.0.1:1/v1/completions"


def answer(monkeypatch: pytest.MonkeyPatch, models: list[dict[str, Any]]) -> None:
    body = {"models": models, "degraded": ["variant local: busy"]}
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(200, json=body))
    monkeypatch.setattr(generation_http, "_STATS_FRESH", 0.0)


def test_the_seconds_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"id": "other", "generation": {"step_seconds": 1.0}}
    answer(monkeypatch, [other, {"id": MODEL, "generation": {"step_seconds": 2.5}}])
    assert generation_http._step_seconds(URL) == 2.5


def test_a_status_without_the_model_says_what_is_degraded(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, [])
    with pytest.raises(BenchmarkError, match=r"no row of .*variant local: busy"):
        generation_http._step_seconds(URL)
