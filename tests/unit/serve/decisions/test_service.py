"""Which method answers, what is refused, and the JSON that leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from openai.types import Decision

from ironcliw.catalog import Catalog
from ironcliw.errors import ModelNotFoundError, RequestError, RequestTooLargeError
from ironcliw.schemas.decisions import ClassifyRequest, DecisionRequest
from ironcliw.settings import Settings
from serve.decisions.answers import Estimate, answer
from serve.decisions.questions import Option, Question
from serve.decisions.service import DecisionService
from serve.embeddings import EmbeddingResult, Served
from serve.engines.fake import FakeEngine, FakeTextEncoder
from serve.engines.protocol import PackedTokens
from serve.host import ModelHost
from serve.variants import LocalVariant

MODELS = {
    "embedder": {"source": "fake:8", "task": "embedding"},
    "entailer": {"source": "fake:3?labels=contradiction|neutral|entailment", "task": "nli"},
    "sorter": {"source": "fake:3?labels=music|travel|food", "task": "classifier"},
    "writer": {"source": "fake:4", "task": "generation"},
    "painter": {"source": "fake:4", "task": "vision"},
    "summariser": {"source": "fake:4", "task": "seq2seq"},
}
CHOICES = [{"value": "music"}, {"value": "travel"}]


class Embedder:
    """Vectors by hashing."""

    async def vectors_of(
        self, model_id: str, texts: Sequence[str], priority: str, deadline: float | None
    ) -> EmbeddingResult:
        encoded = FakeTextEncoder().encode(texts)
        tokens = [item.tokens for item in encoded]
        vectors = FakeEngine("fake:8").embed(PackedTokens.pack(tokens))
        cut = [(index, item.truncated) for index, item in enumerate(encoded) if item.truncated]
        return EmbeddingResult(vectors, sum(map(len, tokens)), cut, Served(model_id, "local", "n"))


class Scorer:
    """Every token is as likely, and a text has one token."""

    async def next_token_logprobs(
        self,
        model_id: str,
        prompt: Any,
        token_texts: Sequence[str],
        deadline: float | None,
        priority: str,
    ) -> list[float]:
        return [-1.0] * len(token_texts)

    async def served(self, model_id: str) -> Served:
        return Served(model_id, "local", "n")

    async def text_side(self, model_id: str) -> Any:
        return self

    def render(self, messages: Any) -> str:
        return str(messages)

    def encode(self, text: str, *, special: bool = True) -> Any:
        return np.zeros(1, np.int32)


@pytest.fixture
async def service(tmp_path: Path) -> Any:
    settings = Settings(
        models=MODELS, serve={"pinned_models": ["painter", "embedder"], "max_batch_items": 4}
    )
    catalog = Catalog(settings.models)
    host = ModelHost(catalog, settings.serve, tmp_path, "node-1")
    made = DecisionService(
        catalog, settings.serve, LocalVariant(host), tmp_path, Embedder(), Scorer()
    )
    yield made
    await made.close()
    await host.close()


async def decide(service: DecisionService, model: str, **changes: Any) -> Any:
    question = {"type": "choice", "name": "q", "instructions": "What?", "choices": CHOICES}
    body = {"model": model, "input": "play a song", "questions": [question], **changes}
    content, served = await service.decide(DecisionRequest.model_validate(body), None)
    assert served.model == model
    return Decision.model_validate(orjson.loads(content))


async def classify(service: DecisionService, **body: Any) -> Any:
    content, *_ = await service.classify(ClassifyRequest.model_validate(body), None)
    return orjson.loads(content)


class TestAnswers:
    CHOICE = Question("choice", "c", "?", (Option("a"), Option(True), Option("b")))
    SCORE = Question("score", None, "?", (Option("low"), Option("mid"), Option("high")))
    THIRDS = Estimate(np.array([0.2, 0.5, 0.3]), fit=0.4, threshold=None)

    def test_a_choice_is_the_likeliest_with_its_type(self) -> None:
        found = answer(self.CHOICE, self.THIRDS, None)
        assert found["choice"] is True
        assert found["confidence"] == 0.5
        assert [row["value"] for row in found["probabilities"]] == ["a", True, "b"]

    def test_a_score_is_the_mean_of_the_levels_from_one_on(self) -> None:
        found = answer(self.SCORE, self.THIRDS, None)
        assert found["score"] == pytest.approx(0.2 * 1 + 0.5 * 2 + 0.3 * 3)
        assert [row["value"] for row in found["probabilities"]] == [1, 2, 3]

    @pytest.mark.parametrize(
        ("own", "given", "refused"),
        [(None, None, False), (0.5, None, True), (0.5, 0.3, False), (None, 0.5, True)],
    )
    def test_the_clients_threshold_wins_over_the_methods(
        self, own: float | None, given: float | None, refused: bool
    ) -> None:
        estimate = Estimate(self.THIRDS.probabilities, fit=0.4, threshold=own)
        found = answer(self.CHOICE, estimate, given)
        assert (found == {"type": "refusal", "name": "c"}) is refused

    def test_a_predicate_never_refuses(self) -> None:
        question = Question("predicate", None, "It is so.")
        found = answer(question, Estimate(np.array([0.1]), fit=0.0, threshold=1.0), 1.0)
        assert found == {"type": "predicate", "name": None, "probability": 0.1}


class TestMethods:
    @pytest.mark.parametrize("model", ["embedder", "entailer", "sorter", "writer"])
    async def test_every_task_answers_every_kind_of_question(
        self, service: DecisionService, model: str
    ) -> None:
        questions = [
            {"type": "choice", "name": "q", "instructions": "What?", "choices": CHOICES},
            {"type": "predicate", "instructions": "music"},
            {
                "type": "score",
                "instructions": "How?",
                "levels": [{"label": "music"}, {"label": "food"}],
            },
        ]
        found = await decide(service, model, questions=questions, refusal_threshold=0.0)
        assert [one.type for one in found.answers] == ["choice", "predicate", "score"]
        assert found.answers[0].name == "q"
        assert sum(row.probability for row in found.answers[0].probabilities) == pytest.approx(1)
        assert 1 <= found.answers[2].score <= 2
        assert found.model == model
        usage = found.usage
        assert usage.input_tokens == usage.total_tokens
        assert usage.output_tokens == 0

    async def test_a_high_threshold_refuses_and_other_questions_are_answered(
        self, service: DecisionService
    ) -> None:
        questions = [
            {"type": "choice", "name": "q", "instructions": "What?", "choices": CHOICES},
            {"type": "predicate", "instructions": "It is so."},
        ]
        found = await decide(service, "entailer", questions=questions, refusal_threshold=1.0)
        assert [one.type for one in found.answers] == ["refusal", "predicate"]

    async def test_an_nli_model_can_be_asked_for_its_own_classes(
        self, service: DecisionService
    ) -> None:
        question = {
            "type": "choice",
            "instructions": "?",
            "choices": [{"value": "entailment"}, {"value": "neutral"}],
        }
        found = await decide(service, "entailer", questions=[question], method="classifier")
        assert found.answers[0].choice in {"entailment", "neutral"}

    @pytest.mark.parametrize("model", ["sorter", "embedder"])
    async def test_a_cut_text_is_said(self, service: DecisionService, model: str) -> None:
        found = await decide(service, model, input="play " * 600, refusal_threshold=0.0)
        assert found.model_extra == {"truncated_tokens": 88}
        again = await decide(service, model, input="play", refusal_threshold=0.0)
        assert not again.model_extra

    async def test_the_setting_refuses_where_the_request_names_no_threshold(
        self, service: DecisionService
    ) -> None:
        strict = service._settings.model_copy(update={"refusal_threshold": 1.0})
        service._settings = strict
        assert (await decide(service, "entailer")).answers[0].type == "refusal"
        found = await decide(service, "entailer", refusal_threshold=0.0)
        assert found.answers[0].type == "choice"

    @pytest.mark.parametrize(
        ("model", "changes", "message", "param"),
        [
            (
                "embedder",
                {"method": "nli"},
                "cannot do the method .*; it can do embedding",
                "method",
            ),
            ("entailer", {"method": "lm"}, "it can do nli and classifier", "method"),
            ("writer", {"method": "embedding"}, "it can do lm", "method"),
            ("painter", {}, "is for vision and cannot decide; models for embedding", "model"),
            ("summariser", {}, "is for seq2seq and cannot decide", "model"),
            (
                "entailer",
                {"hypothesis_template": "no place"},
                "must contain {}",
                "hypothesis_template",
            ),
            (
                "embedder",
                {"hypothesis_template": "It is {}."},
                "is for the method nli, and this model decides by embedding",
                "hypothesis_template",
            ),
            ("sorter", {"multi_label": True}, "multi_label is for the method nli", "multi_label"),
            ("embedder", {"input": ""}, "input is empty", "input"),
            (
                "entailer",
                {
                    "questions": [
                        {
                            "type": "choice",
                            "instructions": "?",
                            "choices": [{"value": "a"}, {"value": "b", "examples": ["c"]}],
                        }
                    ]
                },
                "is for the method embedding, and this model decides by nli",
                "questions[0].choices[1].examples",
            ),
        ],
    )
    async def test_what_does_not_go_together(
        self,
        service: DecisionService,
        model: str,
        changes: dict[str, Any],
        message: str,
        param: str,
    ) -> None:
        with pytest.raises(RequestError, match=message) as caught:
            await decide(service, model, **changes)
        assert caught.value.param == param

    async def test_unknown_models(self, service: DecisionService) -> None:
        with pytest.raises(ModelNotFoundError, match="no model 'nobody'"):
            await decide(service, "nobody")

    async def test_without_generation_there_is_no_lm(
        self, service: DecisionService, tmp_path: Path
    ) -> None:
        settings = Settings(models=MODELS)
        catalog = Catalog(settings.models)
        host = ModelHost(catalog, settings.serve, tmp_path, "n")
        alone = DecisionService(
            catalog, settings.serve, LocalVariant(host), tmp_path, Embedder(), None
        )
        with pytest.raises(RequestError, match="'lm' is not offered here; offered are embedding"):
            await decide(alone, "writer")
        await host.close()


class TestClassify:
    async def test_one_text_gives_an_object_and_a_list_a_list(
        self, service: DecisionService
    ) -> None:
        parameters = {"candidate_labels": "music, travel,food"}
        one = await classify(service, model="entailer", inputs="a song", parameters=parameters)
        assert one["sequence"] == "a song"
        assert sorted(one["labels"]) == ["food", "music", "travel"]
        assert one["scores"] == sorted(one["scores"], reverse=True)
        assert sum(one["scores"]) == pytest.approx(1)
        many = await classify(
            service, model="entailer", inputs=["a song", "b"], parameters=parameters
        )
        assert many[0] == one
        assert [row["sequence"] for row in many] == ["a song", "b"]

    async def test_labels_by_themselves(self, service: DecisionService) -> None:
        parameters = {"candidate_labels": ["music", "travel"], "multi_label": True}
        both = await classify(service, model="entailer", inputs="a song", parameters=parameters)
        alone = await classify(
            service, model="entailer", inputs="a song", parameters={"candidate_labels": ["music"]}
        )
        scores = dict(zip(both["labels"], both["scores"], strict=True))
        assert alone["scores"] == [pytest.approx(scores["music"])]

    async def test_the_first_pinned_model_that_can_is_the_default(
        self, service: DecisionService
    ) -> None:
        found = await classify(
            service, inputs="a song", parameters={"candidate_labels": ["music", "travel"]}
        )
        assert sorted(found["labels"]) == ["music", "travel"]

    async def test_a_classifier_says_its_own_labels(self, service: DecisionService) -> None:
        found = await classify(service, model="sorter", inputs="a song")
        assert sorted(row["label"] for row in found) == ["food", "music", "travel"]
        assert [row["score"] for row in found] == sorted(
            [row["score"] for row in found], reverse=True
        )
        assert sum(row["score"] for row in found) == pytest.approx(1)
        assert (await classify(service, model="sorter", inputs=["a song", "b"]))[0] == found

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"inputs": []}, "inputs is an empty list"),
            ({"inputs": ["a", " "]}, r"inputs\[1\] is empty"),
            ({"inputs": "a"}, "is for embedding and has no labels of its own"),
            ({"inputs": "a", "parameters": {"candidate_labels": []}}, "none at all"),
            ({"inputs": "a", "parameters": {"candidate_labels": ["a", ""]}}, "an empty label"),
            ({"inputs": "a", "parameters": {"candidate_labels": "a,b,a"}}, "'a' twice"),
            ({"inputs": "a", "parameters": {"candidate_labels": ["a"]}}, "needs two"),
            (
                {"inputs": "a", "parameters": {"candidate_labels": [str(n) for n in range(256)]}},
                "has 256 labels; at most 255",
            ),
            (
                {"inputs": "a", "parameters": {"candidate_labels": "a,b", "multi_label": True}},
                "multi_label is for the method nli",
            ),
        ],
    )
    async def test_wrong_requests(
        self, service: DecisionService, body: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(RequestError, match=message):
            await classify(service, model="embedder", **body)

    @pytest.mark.parametrize("labels", [None, "music,travel"])
    async def test_texts_that_were_cut_are_counted(
        self, service: DecisionService, labels: str | None
    ) -> None:
        request = ClassifyRequest.model_validate(
            {
                "model": "entailer" if labels else "sorter",
                "inputs": ["play " * 600, "play", "play " * 600],
                "parameters": {"candidate_labels": labels},
            }
        )
        _, _, cut = await service.classify(request, None)
        assert cut == 2

    async def test_too_many_pairs(
        self, service: DecisionService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("serve.decisions.service.MOST_PAIRS", 8)
        parameters = {"candidate_labels": "a,b,c"}
        with pytest.raises(RequestTooLargeError, match=r"3 inputs with 3 .* make 9 pairs"):
            await classify(service, model="entailer", inputs=["a"] * 3, parameters=parameters)

    async def test_too_many_texts(self, service: DecisionService) -> None:
        with pytest.raises(RequestTooLargeError, match="inputs has 5 texts; at most 4"):
            await classify(service, model="sorter", inputs=["a"] * 5)
