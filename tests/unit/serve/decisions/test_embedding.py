"""Decisions by vectors: what is kept, what is shared, and what MiniLM makes of real texts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.catalog import Catalog
from ironcliw.errors import OverloadedError, RequestTooLargeError
from ironcliw.setting_sections import ServeSettings
from serve.decisions.embedding import EmbeddingMethod
from serve.decisions.heads import IN_SCOPE_THRESHOLD, Head, Scores, few_shot_head
from serve.decisions.questions import Option, Options, Question
from serve.embeddings import EmbeddingResult, Served
from serve.engines.protocol import PackedTokens
from serve.engines.registry import load_engine, load_preparer

SERVED = Served("m", "local", "node-1")
CHOICE = Question("choice", "c", "What?", (Option("play music"), Option("book a trip")))
PREDICATE = Question("predicate", "p", "It is about music.")


class Embedder:
    """MiniLM without a service around it; remembers what it was asked and can be held up."""

    def __init__(self) -> None:
        card = Catalog()["all-MiniLM-L6-v2"]
        self._engine = load_engine(card, ServeSettings(precision="float32"), Path())
        self._encoder = load_preparer(card, Path()).encoder
        self.asked: list[list[str]] = []
        self.go = asyncio.Event()
        self.fail: Exception | None = None

    async def vectors_of(
        self, model_id: str, texts: Sequence[str], priority: str, deadline: float | None
    ) -> EmbeddingResult:
        self.asked.append(list(texts))
        await self.go.wait()
        if self.fail is not None:
            raise self.fail
        encoded = self._encoder.encode(texts)
        tokens = [item.tokens for item in encoded]
        cut = [(index, item.truncated) for index, item in enumerate(encoded) if item.truncated]
        vectors = self._engine.embed(PackedTokens.pack(tokens))
        return EmbeddingResult(vectors, sum(map(len, tokens)), cut, SERVED)


@pytest.fixture(scope="module")
def loaded() -> Embedder:
    return Embedder()


@pytest.fixture
def embedder(loaded: Embedder) -> Embedder:
    loaded.asked = []
    loaded.fail = None
    loaded.go = asyncio.Event()
    loaded.go.set()
    return loaded


async def ask(method: EmbeddingMethod, text: str, *questions: Question, model: str = "m") -> Any:
    return await method.estimate(model, text, questions, Options("{}"), None)


async def test_the_label_that_fits_is_likelier(embedder: Embedder) -> None:
    method = EmbeddingMethod(embedder)
    for text, best in (("put on some jazz", 0), ("I need a flight to Rome", 1)):
        (found,) = (await ask(method, text, CHOICE)).estimates
        assert int(found.probabilities.argmax()) == best
        assert found.probabilities.sum() == pytest.approx(1)
        assert found.threshold == IN_SCOPE_THRESHOLD


async def test_a_statement_that_fits_is_likelier(embedder: Embedder) -> None:
    method = EmbeddingMethod(embedder)
    (fits,) = (await ask(method, "put on some jazz", PREDICATE)).estimates
    (not_so,) = (await ask(method, "what is the capital of France", PREDICATE)).estimates
    assert 0 <= not_so.probabilities[0] < fits.probabilities[0] <= 1
    assert fits.threshold is None


async def test_descriptions_and_examples_say_what_a_name_does_not(embedder: Embedder) -> None:
    method = EmbeddingMethod(embedder)
    described = Question(
        "choice", None, "?", (Option("A", "playing music"), Option("B", "booking flights"))
    )
    shown = Question(
        "choice",
        None,
        "?",
        (
            Option("A", None, ("play a song", "turn up the music", "put on the radio")),
            Option("B", None, ("book a flight", "find me a hotel", "I want to go to Paris")),
        ),
    )
    for question in (described, shown):
        (music,) = (await ask(method, "put on some jazz", question)).estimates
        (travel,) = (await ask(method, "get me a plane ticket to Rome", question)).estimates
        assert music.probabilities[0] > 0.5 > travel.probabilities[0]


async def test_examples_are_fitted_outside_the_event_loop(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    heard: list[Sequence[Sequence[str]] | Sequence[str]] = []

    def noticed(labels: Any, vectors: Any, examples: Any) -> Head:
        threads.append(threading.current_thread())
        heard.append(examples)
        head = few_shot_head(labels, vectors, examples)

        def judge(vectors: Any, texts: Sequence[str]) -> Scores:
            heard.append(texts)
            return head(vectors, texts)

        return judge

    monkeypatch.setattr("serve.decisions.embedding.few_shot_head", noticed)
    question = Question("choice", None, "?", (Option("a", None, ("jazz",)), Option("travel")))
    (found,) = (await ask(EmbeddingMethod(embedder), "put on some jazz", question)).estimates
    assert int(found.probabilities.argmax()) == 0
    assert heard == [[["jazz"], []], ["put on some jazz"]]  # words count beside the vectors
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_a_scale_does_not_refuse_by_itself(embedder: Embedder) -> None:
    scale = Question("score", None, "?", (Option("freezing"), Option("warm"), Option("hot")))
    (found,) = (await ask(EmbeddingMethod(embedder), "it is boiling in here", scale)).estimates
    assert found.threshold is None
    assert found.probabilities.sum() == pytest.approx(1)


async def test_a_question_asked_again_costs_one_text(embedder: Embedder) -> None:
    method = EmbeddingMethod(embedder)
    first = await ask(method, "put on some jazz", CHOICE, PREDICATE)
    del embedder.asked[:]
    again = await ask(method, "put on some jazz", CHOICE, PREDICATE)
    assert embedder.asked == [["put on some jazz"]]
    assert again.tokens == first.tokens  # usage does not depend on what is kept
    for one, other in zip(first.estimates, again.estimates, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


async def test_what_differs_in_content_is_not_mixed_up(embedder: Embedder) -> None:
    method = EmbeddingMethod(embedder)
    await ask(method, "a", CHOICE)
    for changed in (
        Question("choice", None, "?", CHOICE.options[::-1]),
        Question("choice", None, "?", (Option("play music", "songs"), CHOICE.options[1])),
        Question("choice", None, "?", (Option("play music", None, ("b",)), CHOICE.options[1])),
        Question("score", None, "?", CHOICE.options),
    ):
        before = len(embedder.asked)
        await ask(method, "a", changed)
        assert len(embedder.asked) == before + 2
    before = len(embedder.asked)
    await ask(method, "a", CHOICE, model="other")
    assert len(embedder.asked) == before + 2


async def test_requests_at_once_share_the_labels_and_one_may_leave(embedder: Embedder) -> None:
    method = EmbeddingMethod(embedder)
    embedder.go.clear()
    waiting = [asyncio.create_task(ask(method, f"text {n}", CHOICE)) for n in range(3)]
    async with asyncio.timeout(60):
        # three texts and one set of labels; nothing signals when they have been asked for
        while len(embedder.asked) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0)
    waiting[0].cancel()
    embedder.go.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [len(answer.estimates) for answer in answers[1:]] == [1, 1]  # type: ignore[union-attr]
    assert len(embedder.asked) == 4


async def test_what_was_cut_is_said_each_time(embedder: Embedder) -> None:
    method = EmbeddingMethod(embedder)
    window = 256
    long = Question("choice", None, "?", (Option("a", None, ("music " * 300,)), Option("b")))
    assert (await ask(method, "a", CHOICE)).truncated == 0
    for _ in range(2):  # made, then kept
        assert (await ask(method, "music " * 290, CHOICE)).truncated == 290 + 2 - window
        assert (await ask(method, "a", long)).truncated == 300 + 2 - window
        assert (await ask(method, "music " * 290, long)).truncated == 590 + 4 - 2 * window


async def test_kept_heads_are_bounded_by_their_labels(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.decisions.embedding._MOST_HEAD_LABELS", 5)
    method = EmbeddingMethod(embedder)
    others = [
        Question("choice", None, "?", (Option(f"play {n}"), Option("stop"))) for n in range(2)
    ]
    await ask(method, "a", CHOICE, others[0])
    await ask(method, "a", CHOICE)  # used again, so the other one goes first
    await ask(method, "a", others[1])
    del embedder.asked[:]
    await ask(method, "a", CHOICE, others[1])
    assert len(embedder.asked) == 1
    await ask(method, "a", others[0])
    assert len(embedder.asked) == 3
    method.forget("m")
    assert method._labels == 0


async def test_a_failure_is_not_kept(embedder: Embedder) -> None:
    method = EmbeddingMethod(embedder)
    embedder.fail = OverloadedError("the queue is full")
    with pytest.raises(OverloadedError, match="the queue is full"):
        await ask(method, "a", CHOICE)
    embedder.fail = None
    assert len((await ask(method, "a", CHOICE)).estimates) == 1


async def test_a_model_that_comes_back_is_asked_again(embedder: Embedder) -> None:
    method = EmbeddingMethod(embedder)
    await ask(method, "a", CHOICE)
    method.forget("other")
    await ask(method, "a", CHOICE)
    assert len(embedder.asked) == 3
    method.forget("m")
    await ask(method, "a", CHOICE)
    assert len(embedder.asked) == 5


async def test_too_many_texts(embedder: Embedder) -> None:
    examples = tuple(str(number) for number in range(20_000))
    question = Question("choice", None, "?", (Option("a", None, examples), Option("b")))
    with pytest.raises(RequestTooLargeError, match="have 20003 labels, statements and examples"):
        await ask(EmbeddingMethod(embedder), "a", question)
