"""Steps that ask models, against the real service around fake ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from actors.steps.model_calls import ModelCalls, client_of
from actors.workflow.tasks import StepError, StepTask
from ironcliw.catalog import Catalog
from ironcliw.settings import Settings
from tests.contract.http_service import HttpService, running

MODELS = {
    "talker": {"source": "fake:300?text=hello-there", "task": "generation"},
    "here": {"source": "fake:8", "task": "embedding", "placement": "local"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    with running(tmp_path_factory.mktemp("state"), models=MODELS) as service:
        yield service


async def ask(
    server: HttpService, kind: Any, place: Any = "any", has_cloud: bool = False, **inputs: Any
) -> Any:
    client = client_of(server.url, None)
    calls = ModelCalls(client, Catalog.of(server.settings), has_cloud)
    task = StepTask("w", "s", None, 1, kind, "", inputs, "w/s", place=place, priority="low")
    try:
        done = await calls.run(task, "local", lambda node: None)
    finally:
        await client.close()
    return json.loads(done.content)


async def test_embed_gives_a_vector_a_text(server: HttpService) -> None:
    value = await ask(server, "embed", model="fake", input=["a", "b"])
    assert [len(vector) for vector in value["embeddings"]] == [8, 8]
    assert value["usage"]["prompt_tokens"] > 0
    one = await ask(server, "embed", model="fake", input="a")
    assert one["embeddings"] == value["embeddings"][:1]


async def test_decide_gives_label_and_confidence(server: HttpService) -> None:
    value = await ask(server, "decide", model="fake", input="a text", labels=["one", "two"])
    assert set(value) >= {"label", "confidence", "scores"}
    expected = 0.0 if value["label"] is None else value["scores"][value["label"]]
    assert value["confidence"] == expected


async def test_decide_answers_questions(server: HttpService) -> None:
    questions = [{"type": "predicate", "name": "urgent", "instructions": "It is urgent."}]
    value = await ask(server, "decide", model="fake", input="a text", questions=questions)
    assert [answer["name"] for answer in value["answers"]] == ["urgent"]


async def test_generate_gives_text(server: HttpService) -> None:
    messages = [{"role": "user", "content": "hello"}]
    value = await ask(server, "generate", model="talker", messages=messages, max_tokens=200)
    assert "hello" in value["text"]
    assert value["finish_reason"] in {"stop", "length"}
    prompted = await ask(server, "generate", model="talker", prompt="hello", max_tokens=4)
    assert prompted["finish_reason"] == "length"
    assert prompted["usage"]["output_tokens"] == 4


@pytest.mark.parametrize(
    ("kind", "inputs", "why"),
    [
        ("embed", {"model": "fake"}, "'input' is required"),
        ("embed", {"input": "a", "colour": 1}, "unknown field colour; known are dimensions"),
        ("embed", {"input": "a", "model": "absent"}, "absent"),
        ("decide", {"input": "a"}, "'questions' is required"),
        ("generate", {}, "'messages' is required"),
        ("generate", {"prompt": "a", "stream": True}, r"generate\.stream: a step has one"),
        ("generate", {"prompt": "a", "model": "talker", "max_tokens": -1}, "max_tokens"),
    ],
)
async def test_what_is_wrong_is_final(
    server: HttpService, kind: str, inputs: dict[str, Any], why: str
) -> None:
    with pytest.raises(StepError, match=why) as caught:
        await ask(server, kind, **inputs)
    assert (caught.value.failure, caught.value.retryable) == ("invalid", False)


async def test_a_private_step_needs_a_model_that_stays_at_home(server: HttpService) -> None:
    with pytest.raises(StepError, match=r"may be served in the cloud; set models\.fake\.placement"):
        await ask(server, "embed", "private", True, model="fake", input="a")
    await ask(server, "embed", "private", True, model="here", input="a")
    await ask(server, "embed", "private", False, model="fake", input="a")


async def test_nobody_listens() -> None:
    client = client_of("http://127.0.0.1:9", None)
    client._session.max_retries = 0
    calls = ModelCalls(client, Catalog.of(Settings()), has_cloud=False)
    task = StepTask("w", "s", None, 1, "embed", "", {"input": "a"}, "w/s")
    with pytest.raises(StepError, match="no server answers") as caught:
        await calls.run(task, "local", lambda node: None)
    assert (caught.value.failure, caught.value.retryable) == ("refused", True)
    await client.close()
