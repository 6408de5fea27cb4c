"""`/v1/decisions` and `/v1/classify` against a real server, asked by the official client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import transformers

from tests.contract.http_service import HttpService, running
from tests.unit.serve.small_classifiers import save_classifier

MODELS = {
    "entailer": {"source": "fake:3?labels=contradiction|neutral|entailment", "task": "nli"},
    "sorter": {"source": "fake:3?labels=music|travel|food", "task": "classifier"},
    "slow-sorter": {"source": "fake:2?labels=a|b&seconds=0.5", "task": "classifier"},
    "painter": {"source": "fake:4", "task": "vision"},
}
CHOICE: dict[str, Any] = {
    "type": "choice",
    "name": "intent",
    "instructions": "What is wanted?",
    "choices": [
        {"value": "lights", "description": "turn the lights on or off"},
        {"value": "music", "description": "play music"},
    ],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    with running(tmp_path_factory.mktemp("state"), models=MODELS) as service:
        yield service


@pytest.fixture
def client(server: HttpService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(server: HttpService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def ask(http: httpx.Client, **changes: Any) -> httpx.Response:
    body = {"model": "fake", "input": "dim the lights", "questions": [CHOICE], **changes}
    return http.post("/v1/decisions", json=body)


def error_of(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


class TestOpenAIClient:
    def test_the_bundled_model_answers_out_of_the_box(self, client: openai.OpenAI) -> None:
        found = client.decisions.create(
            model="all-MiniLM-L6-v2",
            input=[{"role": "user", "content": [{"type": "input_text", "text": "lamp on please"}]}],
            questions=[
                CHOICE,  # type: ignore[list-item]
                {"type": "predicate", "instructions": "It is about lamps.", "name": "lamps"},
                {
                    "type": "score",
                    "instructions": "How urgent is it?",
                    "levels": [{"label": "can wait"}, {"label": "urgent"}],
                },
            ],
            extra_body={"refusal_threshold": 0.0},
        )
        choice, predicate, score = found.answers
        assert choice.type == "choice"
        assert choice.choice == "lights"
        assert choice.confidence == max(row.probability for row in choice.probabilities)
        assert choice.name == "intent"
        assert predicate.type == "predicate"
        assert 0 <= predicate.probability <= 1
        assert score.type == "score"
        assert 1 <= score.score <= 2
        assert [row.value for row in score.probabilities] == [1, 2]
        assert found.model == "all-MiniLM-L6-v2"
        assert found.usage.input_tokens == found.usage.total_tokens > 10
        assert found.usage.output_tokens_details.reasoning_tokens == 0

    def test_a_refusal_has_the_questions_name(self, client: openai.OpenAI) -> None:
        found = client.decisions.create(
            model="entailer",
            input="some text",
            questions=[CHOICE],  # type: ignore[list-item]
            extra_body={"refusal_threshold": 1.0, "multi_label": True},
        )
        assert found.answers[0].type == "refusal"
        assert found.answers[0].name == "intent"

    def test_booleans_stay_booleans(self, client: openai.OpenAI) -> None:
        found = client.decisions.create(
            model="entailer",
            input="some text",
            questions=[
                {
                    "type": "choice",
                    "instructions": "Is it?",
                    "choices": [{"value": True}, {"value": "true"}, {"value": False}],
                }
            ],
        )
        answer = found.answers[0]
        assert answer.type == "choice"
        assert [row.value for row in answer.probabilities] == [True, "true", False]

    def test_examples_and_a_method_travel_in_extra_body(self, client: openai.OpenAI) -> None:
        shown = {
            **CHOICE,
            "choices": [
                {"value": "a", "examples": ["dim the lights", "lamp on"]},
                {"value": "b", "examples": ["play a song", "louder music"]},
            ],
        }
        found = client.decisions.create(
            model="all-MiniLM-L6-v2",
            input="switch the lamp off",
            questions=[shown],  # type: ignore[list-item]
            prompt_cache_key="k",
            safety_identifier="s",
            extra_body={"method": "embedding", "refusal_threshold": 0, "priority": "high"},
        )
        answer = found.answers[0]
        assert answer.type == "choice"
        assert answer.choice == "a"

    def test_errors_become_the_clients_own_classes(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="no model 'nope'"):
            client.decisions.create(
                model="nope",
                input="a",
                questions=[CHOICE],  # type: ignore[list-item]
            )


def test_the_answer_says_who_served_it(http: httpx.Client) -> None:
    for model in ("fake", "sorter"):
        changes = {"model": model}
        if model == "sorter":
            changes["questions"] = [{"type": "predicate", "instructions": "music"}]  # type: ignore[assignment]
        response = ask(http, **changes)
        assert response.status_code == 200, response.text
        assert response.headers["x-ironcliw-model"] == model
        assert response.headers["x-ironcliw-variant"] == "in-process"
        assert response.headers["x-ironcliw-node"] == "test-node"
        assert response.headers["x-ironcliw-degraded"] == "none"


def test_a_known_question_gets_the_same_answer_and_its_rest_is_still_checked(
    http: httpx.Client,
) -> None:
    first, second = ask(http), ask(http)
    assert first.content == second.content
    assert "unknown field 'colour'" in error_of(ask(http, colour="red"))["message"]
    assert error_of(ask(http, input=5))["param"] == "input"
    assert error_of(ask(http, input=""))["param"] == "input"


IMAGE = [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}]


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message", "param"),
        [
            (
                {"questions": [{**CHOICE, "choices": [{"value": "a"}]}]},
                "at least 2 items",
                "questions[0].choices",
            ),
            (
                {"questions": [CHOICE, {**CHOICE, "choices": [{"value": "a"}, {"value": "a"}]}]},
                "questions[1].choices[1].value is 'a'",
                "questions[1].choices",
            ),
            (
                {"questions": [{**CHOICE, "choices": [{"value": str(n)} for n in range(256)]}]},
                "at most 255 items",
                "questions[0].choices",
            ),
            ({"questions": []}, "at least 1 item", "questions"),
            ({"questions": [CHOICE] * 401}, "at most 400 items", "questions"),
            (
                {"questions": [{"type": "predicate", "instructions": ""}]},
                "instructions is empty",
                "questions[0].instructions",
            ),
            ({"input": IMAGE}, "no model here reads images", "input[0].content[0]"),
            ({"method": "magic"}, "'embedding', 'nli', 'classifier', 'lm' or 'head'", "method"),
            ({"method": "nli"}, "cannot do the method 'nli'; it can do embedding", "method"),
            (
                {"model": "entailer", "hypothesis_template": "no place"},
                "must contain {}",
                "hypothesis_template",
            ),
            ({"colour": "red"}, "unknown field 'colour'; known fields: model, input", "colour"),
            (
                {"questions": [{**CHOICE, "options": []}]},
                "unknown field 'questions[0].options'; known fields: type, name, instructions",
                "questions[0].options",
            ),
            ({"input": ""}, "input is empty", "input"),
            ({"model": "painter"}, "is for vision and cannot decide", "model"),
            (
                {"questions": [{**CHOICE, "choices": [{"value": 1}, {"value": 2}]}]},
                "must be a string or a boolean; given: 1",
                "questions[0].choices[0].value",
            ),
            (
                {"input": [{"role": "wizard", "content": "a"}]},
                "'user', 'developer', 'system' or 'assistant'; given: 'wizard'",
                "input[0].role",
            ),
            (
                {"questions": [{"type": "predicate", "instructions": [{"type": "input_text"}]}]},
                "'questions[0].instructions[0].text' is required",
                "questions[0].instructions[0].text",
            ),
            ({"refusal_threshold": 2}, "less than or equal to 1", "refusal_threshold"),
        ],
    )
    def test_is_refused_with_its_place(
        self, http: httpx.Client, changes: dict[str, Any], message: str, param: str
    ) -> None:
        error = error_of(ask(http, **changes))
        assert message in error["message"]
        assert error["param"] == param
        assert error["type"] == "invalid_request_error"

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"questions": 5}'])
    def test_bodies_that_are_no_request(self, http: httpx.Client, body: bytes) -> None:
        for path in ("/v1/decisions", "/v1/classify"):
            error_of(http.post(path, content=body))

    def test_a_deeply_nested_body(self, http: httpx.Client) -> None:
        body = b'{"questions":[' + b"[" * 900 + b"]" * 900 + b"]}"
        error_of(http.post("/v1/decisions", content=body))


class TestClassify:
    def test_the_shape_of_hugging_face(self, http: httpx.Client) -> None:
        body = {
            "model": "entailer",
            "inputs": "a song",
            "parameters": {"candidate_labels": ["music", "travel"], "multi_label": True},
        }
        found = http.post("/v1/classify", json=body)
        assert found.status_code == 200, found.text
        assert set(found.json()) == {"sequence", "labels", "scores"}
        assert found.headers["x-ironcliw-model"] == "entailer"
        many = http.post("/v1/classify", json={**body, "inputs": ["a song"]}).json()
        assert many == [found.json()]

    def test_a_classifier_and_the_default_model(self, http: httpx.Client) -> None:
        found = http.post("/v1/classify", json={"model": "sorter", "inputs": "a song"}).json()
        assert {row["label"] for row in found} == {"music", "travel", "food"}
        default = http.post(
            "/v1/classify", json={"inputs": "a", "parameters": {"candidate_labels": "a, b"}}
        )
        assert default.headers["x-ironcliw-model"] == "fake"

    def test_wrong_requests(self, http: httpx.Client) -> None:
        found = http.post("/v1/classify", json={"inputs": "a", "parameters": {"labels": []}})
        assert error_of(found)["param"] == "parameters.labels"
        found = http.post("/v1/classify", json={"model": "sorter"})
        assert error_of(found)["code"] == "missing_field"


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("bart"), "bart")


@pytest.fixture(scope="module")
def real(bart: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    models = {"bart": {"source": f"dir:{bart}", "task": "nli"}}
    state = tmp_path_factory.mktemp("state")
    with (
        running(state, models=models, precision="float32") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        yield http


class TestRealWeights:
    """A small random BART over HTTP, against transformers' own pipelines."""

    LABELS = ("music", "travel", "the lights")
    TEXT = "play a song please"

    @pytest.mark.parametrize("multi", [False, True])
    @pytest.mark.parametrize("template", ["This example is {}.", "{} and a song"])
    def test_scores_are_the_pipeline_s(
        self, bart: Path, real: httpx.Client, template: str, multi: bool
    ) -> None:
        peer = transformers.pipeline(
            "zero-shot-classification",
            model=transformers.AutoModelForSequenceClassification.from_pretrained(bart).eval(),
            tokenizer=transformers.PreTrainedTokenizerFast.from_pretrained(bart),
            device="cpu",
        )
        options: dict[str, Any] = {"hypothesis_template": template, "multi_label": multi}
        theirs = peer(self.TEXT, list(self.LABELS), **options)
        body = {
            "model": "bart",
            "inputs": self.TEXT,
            "parameters": {"candidate_labels": self.LABELS, **options},
        }
        ours = real.post("/v1/classify", json=body).json()
        assert ours["labels"] == theirs["labels"]
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-4)
        choices = [{"value": label} for label in self.LABELS]
        question = {"type": "choice", "instructions": "?", "choices": choices}
        body = {"model": "bart", "input": self.TEXT, "questions": [question], **options}
        (answer,) = real.post("/v1/decisions", json={**body, "refusal_threshold": 0}).json()[
            "answers"
        ]
        scores = dict(zip(theirs["labels"], theirs["scores"], strict=True))
        assert [row["value"] for row in answer["probabilities"]] == list(self.LABELS)
        assert [row["probability"] for row in answer["probabilities"]] == pytest.approx(
            [scores[label] for label in self.LABELS], abs=1e-4
        )

    def test_a_predicate_is_entailment_and_a_cut_text_is_said(self, real: httpx.Client) -> None:
        question = {"type": "predicate", "instructions": "This example is about music."}
        body = {"model": "bart", "input": "play a song " * 40, "questions": [question]}
        found = real.post("/v1/decisions", json=body).json()
        assert 0 < found["answers"][0]["probability"] < 1
        assert found["truncated_tokens"] > 0
        asked: dict[str, Any] = {"model": "bart", "inputs": ["play a song " * 40, "play"]}
        asked["parameters"] = {"candidate_labels": ["music"]}
        response = real.post("/v1/classify", json=asked)
        assert response.headers["x-ironcliw-truncated"] == "1"

    def test_a_hypothesis_that_fills_the_window(self, real: httpx.Client) -> None:
        question = {"type": "predicate", "instructions": "music " * 60}
        body = {"model": "bart", "input": "play", "questions": [question]}
        error = error_of(real.post("/v1/decisions", json=body))
        assert error["code"] == "context_length_exceeded"


async def test_requests_at_once_share_batches_and_keep_their_answers(server: HttpService) -> None:
    texts = [f"text number {number}" for number in range(24)]

    def body(text: str) -> dict[str, Any]:
        return {"model": "entailer", "input": text, "questions": [CHOICE]}

    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        together = await asyncio.gather(
            *[http.post("/v1/decisions", json=body(text)) for text in texts]
        )
        alone = [await http.post("/v1/decisions", json=body(text)) for text in texts]
    assert [one.json() for one in together] == [one.json() for one in alone]
    assert len({one.content for one in alone}) == len(texts)


def test_a_deadline_holds_for_decisions(http: httpx.Client) -> None:
    http.post("/v1/models/slow-sorter/load")
    body = {"model": "slow-sorter", "inputs": "a text"}
    headers = {"x-request-timeout-seconds": "0.1"}
    response = http.post("/v1/classify", json=body, headers=headers)
    assert response.status_code in (408, 429)
