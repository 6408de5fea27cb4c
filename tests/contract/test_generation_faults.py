"""Streams in the middle of which a replica dies, or a bug shows, with the official client."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from safetensors.numpy import save_file

from ironcliw.catalog import Catalog
from ironcliw.settings import Settings
from serve.engines.decoders.fake import fake_tokenizer
from serve.generation.protocol import Delta, GenerationJob
from serve.host import ModelHost
from serve.variants import LocalVariant, ReplicaLostError
from tests.contract.http_service import MODELS, running

HELLO = "Hello w\u00f6rld, \U0001f600!"
TALKERS = {
    "talker": {"source": f"fake:300?context=256&seconds=0.005&text={HELLO}", "task": "generation"},
}
USER: Any = [{"role": "user", "content": "hi"}]


class Mortal(LocalVariant):
    """Dies after some tokens of an answer, as a replica does."""

    def __init__(self, host: ModelHost, losses: int, lose_after: int) -> None:
        super().__init__(host)
        self.losses = losses
        self.lose_after = lose_after
        self.calls = 0

    async def generate(
        self, model_id: str, job: GenerationJob, deadline: float
    ) -> AsyncGenerator[Delta, None]:
        self.calls += 1
        count = 0
        deltas = super().generate(model_id, job, deadline)
        try:
            async for delta in deltas:
                yield delta
                count += len(delta.tokens)
                if self.losses and count >= self.lose_after:
                    self.losses -= 1
                    raise ReplicaLostError("a local replica was lost during generate")
        finally:
            await deltas.aclose()


class Buggy(LocalVariant):
    """Fails as no replica should, in the middle of an answer."""

    async def generate(
        self, model_id: str, job: GenerationJob, deadline: float
    ) -> AsyncGenerator[Delta, None]:
        deltas = super().generate(model_id, job, deadline)
        async with aclosing(deltas):
            yield await anext(deltas)
            raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_bug_in_mid_stream_becomes_an_error_event_and_a_log_line(
    tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(models={**MODELS, **TALKERS})
    host = ModelHost(Catalog(settings.models), settings.serve, tmp_path, "test-node")
    asked = {"messages": USER} if "chat" in path else {"prompt": "> "}
    with (
        running(tmp_path, Buggy(host), TALKERS) as server,
        httpx.Client(base_url=server.url) as http,
    ):
        response = http.post(path, json={"model": "talker", "stream": True, **asked})
        first, last, rest = response.text.split("\n\n")
    assert json.loads(first.removeprefix("data: "))["choices"]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "internal_error"
    assert response.headers["x-request-id"] in error["message"]
    assert "ZeroDivisionError" not in error["message"]
    assert rest == ""
    (record,) = [one for one in caplog.records if "in the middle of its stream" in one.message]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


class TestLostReplicas:
    @pytest.mark.parametrize(("losses", "whole"), [(1, True), (3, True), (99, False)])
    def test_mid_stream(self, tmp_path: Path, losses: int, whole: bool) -> None:
        settings = Settings(models={**MODELS, **TALKERS})
        host = ModelHost(Catalog(settings.models), settings.serve, tmp_path, "test-node")
        variant = Mortal(host, losses, 2)
        text = ""
        with (
            running(tmp_path, variant, TALKERS) as server,
            openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client,
        ):
            stream = client.chat.completions.create(model="talker", messages=USER, stream=True)
            try:
                for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
            except openai.APIError as error:
                assert not whole
                assert "replica was lost" in error.message
        assert variant.calls == min(losses, 3) + 1
        assert (text == HELLO) is whole
        assert HELLO.startswith(text)


def test_a_tokenizer_that_cannot_be_read_shows_in_the_status(tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    mute.mkdir()
    (mute / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 32}')
    save_file({"w": np.zeros(1, np.float32)}, mute / "model.safetensors")
    models = {"mute": {"source": f"dir:{mute}", "task": "generation"}}
    with (
        running(tmp_path / "state", models=models) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        assert client.get("/v1/models/mute").json()["error"] is None
        answer = client.post("/v1/chat/completions", json={"model": "mute", "messages": USER})
        assert answer.status_code == 500, answer.text
        assert "tokenizer.json is absent" in client.get("/v1/models/mute").json()["error"]
        status = client.get("/v1/status").json()
        [row] = [row for row in status["models"] if row["id"] == "mute"]
        assert (row["state"], row["bytes"]) == ("absent", 0)
        assert "tokenizer.json is absent" in row["error"]
        assert [one for one in status["degraded"] if one.startswith("model mute: ")]
        mute.joinpath("tokenizer.json").write_text(fake_tokenizer().to_str())
        client.post("/v1/chat/completions", json={"model": "mute", "messages": USER})
        assert "tokenizer" not in str(client.get("/v1/models/mute").json()["error"])
