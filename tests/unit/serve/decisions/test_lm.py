"""Letters as the next token of a prompt."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from ironcliw.errors import RequestError
from serve.decisions.lm import LETTERS, LmMethod, answer_names, task
from serve.decisions.questions import Option, Options, Question
from serve.embeddings import Served
from serve.engines.protocol import Tokens

CHOICE = Question(
    "choice", "c", "What is wanted?", (Option("music", "songs"), Option(True), Option("travel"))
)
PREDICATE = Question("predicate", "p", "It is a wish.")


class Text:
    """One token a word; a conversation gets two more."""

    def __init__(self, error: RequestError | None) -> None:
        self._error = error

    def encode(self, text: str, *, special: bool = True) -> Tokens:
        return np.arange(len(text.split()) + special, dtype=np.int32)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        if self._error is not None:
            raise self._error
        return f"user {messages[0]['content']} assistant"


class Scorer:
    """The first name is half as likely as the second, and so on."""

    def __init__(self, error: RequestError | None = None) -> None:
        self.asked: list[tuple[Any, list[str]]] = []
        self.priorities: list[str] = []
        self._text = Text(error)

    async def next_token_logprobs(
        self,
        model_id: str,
        prompt: Any,
        token_texts: Sequence[str],
        deadline: float | None,
        priority: str,
    ) -> list[float]:
        self.asked.append((prompt, list(token_texts)))
        self.priorities.append(priority)
        return [math.log(2.0**index) - 20 for index in range(len(token_texts))]

    async def served(self, model_id: str) -> Served:
        return Served(model_id, "local", "node-1")

    async def text_side(self, model_id: str) -> Text:
        return self._text


class OneFails(Scorer):
    """The first question fails as soon as the others are being answered."""

    def __init__(self) -> None:
        super().__init__()
        self.running = 0
        self._others = asyncio.Event()

    async def next_token_logprobs(self, *arguments: Any) -> list[float]:
        names = await super().next_token_logprobs(*arguments)
        if len(names) == 2:
            await self._others.wait()
            raise RequestError("no room")
        self.running += 1
        self._others.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1
        return names


async def ask(scorer: Scorer, *questions: Question) -> Any:
    options = Options("{}", priority="high")
    return await LmMethod(scorer).estimate("m", "play a song", questions, options, None)


async def test_log_probabilities_become_probabilities_of_the_options() -> None:
    scorer = Scorer()
    found = await ask(scorer, CHOICE, PREDICATE)
    choice, predicate = found.estimates
    assert choice.probabilities == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert choice.threshold is None
    assert predicate.probabilities == pytest.approx([1 / 3])
    assert found.served == Served("m", "local", "node-1")
    assert scorer.priorities == ["high", "high"]


async def test_a_question_that_fails_ends_the_others() -> None:
    scorer = OneFails()
    async with asyncio.timeout(60):
        with pytest.raises(RequestError, match="no room"):
            await ask(scorer, PREDICATE, CHOICE)
    assert len(scorer.asked) == 2
    assert scorer.running == 0


async def test_a_model_for_conversation_is_asked_in_one() -> None:
    scorer = Scorer()
    found = await ask(scorer, CHOICE)
    ((messages, names),) = scorer.asked
    assert messages == [{"role": "user", "content": task("play a song", CHOICE)}]
    assert names == ["A", "B", "C"]
    assert found.tokens == len(task("play a song", CHOICE).split()) + 2


async def test_another_model_goes_on_with_the_text() -> None:
    scorer = Scorer(RequestError("no template", code="no_chat_template"))
    found = await ask(scorer, PREDICATE)
    ((text, names),) = scorer.asked
    assert text == task("play a song", PREDICATE) + "\nAnswer:"
    assert names == [" Yes", " No"]
    assert found.tokens == len(text.split()) + 1


async def test_a_template_that_fails_is_not_hidden() -> None:
    with pytest.raises(RequestError, match="roles must alternate"):
        await ask(Scorer(RequestError("roles must alternate")), PREDICATE)


def test_the_task_has_text_question_and_every_option() -> None:
    text = task("play a song", CHOICE)
    for part in ("Text: play a song", "Question: What is wanted?", "A. music: songs", "B. true"):
        assert part in text
    assert "Statement: It is a wish." in task("play a song", PREDICATE)
    scale = Question("score", None, "How loud?", (Option("low"), Option("high")))
    assert "from the lowest to the highest" in task("a", scale)


async def test_more_options_than_letters() -> None:
    options = tuple(Option(str(number)) for number in range(53))
    asked = Question("choice", None, "?", options, "questions[0]")
    with pytest.raises(RequestError, match=r"questions\[0\] has 53 options; .* at most 52"):
        await ask(Scorer(), asked)
    fits = Question("choice", None, "?", options[:52])
    assert len(set(answer_names(fits))) == 52 == len(LETTERS)
