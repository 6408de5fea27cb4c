"""Decisions by a causal language model: which letter comes next after a list of lettered options?

The log-probabilities of the letters as the next token, made to sum to 1 over the options, are the
answer (as in Robinson et al. 2022, arXiv:2210.12353). They are not calibrated: a small model is
surer than it is right, and prefers some letters.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ironcliw.errors import RequestError
from serve.decisions.answers import Estimate, Estimates, softmax
from serve.decisions.questions import Options, Question, UnfitQuestionError
from serve.decisions.together import together
from serve.embeddings import Served
from serve.engines.protocol import Tokens

LETTERS = string.ascii_uppercase + string.ascii_lowercase
"""Names of options: one token each in the tokenizers that models have today."""

_AT_ONCE = 8


Prompt = str | Sequence[Mapping[str, Any]]


class ModelText(Protocol):
    """What of `serve.generation.text.TextSide` is needed here."""

    def encode(self, text: str, *, special: bool = True) -> Tokens:
        """int32 [P]."""
        ...

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text of a conversation; RequestError `no_chat_template` where there is none."""
        ...


class NextTokenScorer(Protocol):
    """What of `serve.generation.service.GenerationService` is needed here."""

    async def next_token_logprobs(
        self,
        model_id: str,
        prompt: Prompt,
        token_texts: Sequence[str],
        deadline: float | None,
        priority: str,
    ) -> list[float]:
        """Log-probability of each text as the next token; each must be a single token."""
        ...

    async def served(self, model_id: str) -> Served:
        """Who answers."""
        ...

    async def text_side(self, model_id: str) -> ModelText:
        """The model's tokenizer and chat template."""
        ...


class LmMethod:
    """One prompt a question; a language model reads instructions and descriptions as well.

    A model with a chat template is asked in a conversation, another goes on with the text.

    Args:
        scorer: Where log-probabilities come from.
    """

    def __init__(self, scorer: NextTokenScorer) -> None:
        self._scorer = scorer

    async def estimate(
        self,
        model_id: str,
        text: str,
        questions: Sequence[Question],
        options: Options,
        deadline: float | None,
    ) -> Estimates:
        """See `serve.decisions.answers.Method`."""
        for question in questions:
            if len(question.options) > len(LETTERS):
                raise UnfitQuestionError(
                    f"{question.param} has {len(question.options)} options; the method lm names "
                    f"each by one letter and takes at most {len(LETTERS)}: use a model for "
                    "embeddings",
                    param=question.param,
                )
        side = await self._scorer.text_side(model_id)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(question: Question) -> tuple[Estimate, int]:
            async with gate:
                # a template is a program of somebody else's: never in the event loop
                asked, tokens = await asyncio.to_thread(_ask, side, task(text, question))
                space = " " if isinstance(asked, str) else ""
                names = [space + name for name in answer_names(question)]
                found = await self._scorer.next_token_logprobs(
                    model_id, asked, names, deadline, options.priority
                )
            return _estimate(question, found), tokens

        found = await together([one(question) for question in questions])
        total = sum([tokens for _, tokens in found])
        served = await self._scorer.served(model_id)
        return Estimates([estimate for estimate, _ in found], total, served)

    def forget(self, model_id: str) -> None:
        """Nothing is kept here."""


def answer_names(question: Question) -> list[str]:
    """What the model may answer, in the order of the options."""
    if question.kind == "predicate":
        return ["Yes", "No"]
    return list(LETTERS[: len(question.options)])


def task(text: str, question: Question) -> str:
    """What the model is asked to do, as a message of a conversation."""
    if question.kind == "predicate":
        return (
            f"Read the text and decide whether the statement about it is true.\n\nText: {text}\n\n"
            f"Statement: {question.instructions}\n\nIs the statement true? Answer Yes or No."
        )
    lines = []
    for letter, option in zip(LETTERS, question.options, strict=False):
        meaning = f": {option.description}" if option.description else ""
        lines.append(f"{letter}. {option.text}{meaning}")
    scale = " The levels go from the lowest to the highest." if question.kind == "score" else ""
    return (
        f"Read the text and answer the question with the letter of the best option.{scale}\n\n"
        f"Text: {text}\n\nQuestion: {question.instructions}\n\nOptions:\n"
        + "\n".join(lines)
        + "\n\nAnswer with one letter."
    )


def _ask(side: ModelText, wanted: str) -> tuple[Prompt, int]:
    """The prompt in the model's form, and its tokens."""
    messages = [{"role": "user", "content": wanted}]
    try:
        rendered = side.render(messages)
    except RequestError as error:
        if error.code != "no_chat_template":
            raise
    else:
        return messages, len(side.encode(rendered, special=False))
    plain = f"{wanted}\nAnswer:"
    return plain, len(side.encode(plain))


def _estimate(question: Question, logprobs: list[float]) -> Estimate:
    probabilities = softmax(np.array(logprobs))
    if question.kind == "predicate":
        return Estimate(probabilities[:1])
    return Estimate(probabilities, float(probabilities.max()), fit_is_own=False)
