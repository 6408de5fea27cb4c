"""What clients see of a service with two sides: headers, refusals, the status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.contract.http_service import HttpService, running
from tests.unit.serve.two_sides import MODELS, TEXT, TwoSides


class Service:
    """A server before two sides; the one in the cloud sleeps at first."""

    def __init__(self, folder: Path, news: str | None = None) -> None:
        self.sides = TwoSides(folder / "sides", there=False, attempt_seconds=1.0, news=news)
        self.server: HttpService

    def embed(self, model: str, **headers: str) -> httpx.Response:
        body = {"model": model, "input": f"text of {time.monotonic()}"}
        url = f"{self.server.url}/v1/embeddings"
        return httpx.post(url, json=body, headers=headers, timeout=60)

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = httpx.get(f"{self.server.url}/v1/status", timeout=60).json()
        return report

    def in_loop(self, function: Callable[[], object]) -> None:
        self.server.loop.call_soon_threadsafe(function)

    def wake(self) -> None:
        self.in_loop(self.sides.spot.there.set)
        deadline = time.monotonic() + 20
        while self.embed("cloudy").headers["x-ironcliw-variant"] != "spot":
            assert time.monotonic() < deadline, "the cloud did not wake"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, news="refused: the month's cap of 25 USD is reached")
    with running(tmp_path, made.sides.variant, MODELS) as server:
        made.server = server
        yield made
        asyncio.run_coroutine_threadsafe(_close(made.sides), server.loop).result(60)


def origin(response: httpx.Response) -> tuple[str, str, str]:
    names = ("x-ironcliw-variant", "x-ironcliw-node", "x-ironcliw-degraded")
    variant, node, degraded = (response.headers[name] for name in names)
    return variant, node, degraded


def test_headers_say_who_answered_and_why_not_another(service: Service) -> None:
    asleep = service.embed("cloudy")
    assert asleep.status_code == 200
    assert origin(asleep) == ("local", "home", "spot is waking")
    assert origin(service.embed("either")) == ("local", "home", "none")
    service.wake()
    assert origin(service.embed("cloudy")) == ("spot", "vm-1", "none")
    service.sides.spot.faults.append("silent")
    assert origin(service.embed("cloudy"))[:2] == ("local", "home")


def test_a_stream_says_so_at_its_start(service: Service) -> None:
    url = f"{service.server.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": "talker", "prompt": "> ", "max_tokens": 100, "temperature": 0}
        assert client.completions.create(**asked).choices[0].text == TEXT
        service.wake()
        service.sides.spot.faults.append("silent")
        service.sides.spot.after = 5
        raw = client.completions.with_raw_response.create(stream=True, **asked)
        assert raw.headers["x-ironcliw-variant"] == "spot"
        assert raw.headers["x-ironcliw-node"] == "vm-1"
        assert raw.headers["x-ironcliw-degraded"] == "none"
        assert "".join(chunk.choices[0].text for chunk in raw.parse()) == TEXT
        again = client.completions.with_raw_response.create(stream=True, **asked)
        assert again.headers["x-ironcliw-variant"] == "local"
        assert again.headers["x-ironcliw-degraded"].startswith("spot rests")
        assert "".join(chunk.choices[0].text for chunk in again.parse()) == TEXT


def test_decisions_and_labels_say_so_too(service: Service) -> None:
    body = {"model": "judge", "inputs": "some text"}
    found = httpx.post(f"{service.server.url}/v1/classify", json=body, timeout=60)
    assert found.status_code == 200, found.text
    assert origin(found) == ("local", "home", "spot is waking")


def test_what_fits_nowhere_is_a_503_with_the_reason(service: Service) -> None:
    refused = service.embed("huge", **{"x-request-timeout-seconds": "1"})
    assert refused.status_code == 503
    error = refused.json()["error"]
    assert error["code"] == "spot_unavailable"
    assert "25 USD" in error["message"]
    assert int(refused.headers["retry-after"]) > 60


def test_the_status_shows_the_cloud_and_why_it_is_not_there(service: Service) -> None:
    before = service.status()
    assert [row["name"] for row in before["variants"]] == ["local", "spot"]
    assert before["variants"][1] == {"name": "spot", "state": "asleep", "reason": None}
    assert before["degraded"] == []
    service.embed("cloudy")
    during = service.status()
    assert during["variants"][1]["state"] == "waking"
    assert any("25 USD" in reason for reason in during["degraded"])
    service.wake()
    after = service.status()
    assert after["variants"][1]["state"] == "awake"
    assert after["variants"][1]["node"] == "vm-1"
    assert after["degraded"] == []


async def _close(sides: TwoSides) -> None:
    await sides.router.close()
    for host in sides.hosts:
        await host.close()
