"""A model placed in the cloud: asleep, awake, its machine gone, and asleep again.

Everything is real but the cloud: `ironcliw up` starts the head, Ray's autoscaler orders machines
from the fake Compute API, and they join as processes of this machine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.testing.faults import CutLink, Fault, Preempt
from cluster.testing.network import Network
from cluster.testing.served import Served, served
from tests.requirements import need_namespaces

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MINILM, SMOLLM = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"
AT_WORK = {"IRONCLIW_MODELS": json.dumps({m: {"placement": "spot"} for m in (MINILM, SMOLLM)})}
# long before a test is over nothing ends for lack of work
AWAKE = {"idle_minutes": 10.0}
CLIENT_SECONDS = 10.0
RATE = 10.0
# for texts that were never asked for: an answer from the cache would say nothing
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Answer:
    status: int
    seconds: float
    headers: httpx.Headers

    @property
    def variant(self) -> str:
        return str(self.headers.get("x-ironcliw-variant", ""))

    @property
    def node(self) -> str:
        return str(self.headers.get("x-ironcliw-node", ""))

    @property
    def degraded(self) -> str:
        return str(self.headers.get("x-ironcliw-degraded", ""))


def ask(service: Served) -> Answer:
    body = {"model": MINILM, "input": f"text {next(NUMBERS)}"}
    answer = service.inside(
        lambda: httpx.post(service.url + "/v1/embeddings", json=body, timeout=60, trust_env=False)
    )
    return Answer(answer.status_code, answer.elapsed.total_seconds(), answer.headers)


def wait_for_spot(service: Served) -> Answer:
    """The first answer from the cloud."""

    def answer() -> Answer | None:
        found = ask(service)
        return found if found.variant == "spot" else None

    found = service.wait_for(answer, 420, "an answer from the cloud", every=0.5)
    assert isinstance(found, Answer)
    return found


async def steady(url: str, seconds: float) -> list[Answer]:
    """Ten requests a second, whether or not the service keeps up."""
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def one(client: httpx.AsyncClient) -> Answer:
        sent = loop.time()
        body = {"model": MINILM, "input": f"text {next(NUMBERS)}"}
        try:
            answer = await client.post(url + "/v1/embeddings", json=body)
        except httpx.HTTPError as error:
            failed = httpx.Headers({"error": type(error).__name__})
            return Answer(0, loop.time() - sent, failed)
        return Answer(answer.status_code, loop.time() - sent, answer.headers)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=CLIENT_SECONDS, limits=limits, trust_env=False) as client:
        async with asyncio.TaskGroup() as group:
            tasks = []
            for number in range(int(seconds * RATE)):
                await asyncio.sleep(begun + number / RATE - loop.time())
                tasks.append(group.create_task(one(client)))
        return [task.result() for task in tasks]


def answers_through(service: Served, fault: Fault, seconds: float) -> list[Answer]:
    service.world.add(fault)
    return service.inside(lambda: asyncio.run(steady(service.url, seconds)))


def check(answers: list[Answer], node: str) -> None:
    """None failed, the cloud answered first, and then somebody else did."""
    failed = [(a.status, dict(a.headers), a.seconds) for a in answers if a.status != 200]
    assert not failed, failed[:5]
    assert (answers[0].variant, answers[0].node) == ("spot", node)
    assert answers[-1].node != node
    assert sorted(a.seconds for a in answers)[int(len(answers) * 0.99)] <= 5.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, cloud=AWAKE, variables=AT_WORK) as service:
        yield service


def test_the_cloud_wakes_answers_and_is_lost_without_a_failed_request(service: Served) -> None:
    first = ask(service)
    assert (first.status, first.variant) == (200, "local")
    assert first.degraded not in ("", "none")
    woken = wait_for_spot(service)
    assert woken.degraded in ("", "none")
    [node] = service.live()
    assert woken.node == node
    # what the replica runs came from the head, not from what is installed where it runs
    temp = Path(service.environment["IRONCLIW_CLUSTER__TEMP_DIR"]) / "session_latest"
    [code] = temp.glob("runtime_resources/py_modules_files/ironcliw_*/serve/replica.py")
    assert code.read_bytes() == Path("serve/replica.py").read_bytes()
    check(answers_through(service, Preempt(notice=0, name=node, at=2), 12), node)


@pytest.mark.slow
def test_a_noticed_preemption_costs_no_request(service: Served) -> None:
    node = wait_for_spot(service).node
    check(answers_through(service, Preempt(name=node, at=3), 45), node)
    # another machine has taken its place, or is about to
    assert wait_for_spot(service).node != node


@pytest.mark.slow
@pytest.mark.netns
def test_a_cut_link_costs_no_request(tmp_path: Path) -> None:
    need_namespaces()
    with (
        Network() as network,
        served(tmp_path, cloud=AWAKE, variables=AT_WORK, network=network) as service,
    ):
        node = wait_for_spot(service).node
        check(answers_through(service, CutLink(name=node, at=3, seconds=30), 45), node)


@pytest.mark.slow
def test_an_unused_replica_ends_and_its_machine_goes(tmp_path: Path) -> None:
    variables = {**AT_WORK, "IRONCLIW_SERVE__SPOT_IDLE_SECONDS": "5"}
    with served(tmp_path, cloud={"idle_minutes": 0.1}, variables=variables) as service:
        node = wait_for_spot(service).node
        # short requests, far apart: Serve itself would hardly see one of them
        answers = service.inside(lambda: asyncio.run(steady(service.url, 20)))
        assert {(a.status, a.node) for a in answers} == {(200, node)}
        service.wait_for(lambda: not service.live(), 120, "the end of an unused machine")
        asleep = ask(service)
        assert (asleep.status, asleep.variant) == (200, "local")


def text_of(service: Served, seen: threading.Event | None = None) -> tuple[str, httpx.Headers]:
    """A sampled answer of 240 tokens, streamed; `seen` is set when its first words are there."""
    body: dict[str, Any] = {
        "model": SMOLLM,
        "messages": [{"role": "user", "content": "Tell me a long story about a fox."}],
        "max_tokens": 240,
        "temperature": 0.8,
        "seed": 7,
        "stream": True,
    }
    text = ""
    url = service.url + "/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=120, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
            if text and seen is not None:
                seen.set()
        return text, answer.headers


@pytest.mark.slow
def test_a_stream_goes_on_elsewhere_as_if_nothing_had_happened(service: Served) -> None:
    """The machine dies amid an answer: the rest comes from home, and not one word differs."""
    wait_for_spot(service)

    def from_spot() -> str | None:
        text, headers = text_of(service)
        return text if headers["x-ironcliw-variant"] == "spot" else None

    undisturbed = service.wait_for(from_spot, 120, "a stream from the cloud")
    seen = threading.Event()
    node = ask(service).node

    def kill() -> None:
        assert seen.wait(60)
        service.world.add(Preempt(notice=0, name=node))

    killer = threading.Thread(target=kill)
    killer.start()
    text, headers = text_of(service, seen)
    killer.join()
    assert headers["x-ironcliw-variant"] == "spot"
    assert node not in service.vms.names()
    assert text == undisturbed
