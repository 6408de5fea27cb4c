"""Steps that ask a model: embed, decide and generate, through the head's own HTTP service.

    embed: {input: TEXT or [TEXT, ...], model: ..., ...}        -> {model, embeddings, usage}
    decide: {input: TEXT, labels: [...], ...}                   -> {label, confidence, scores}
    decide: {input: ..., questions: [...], ...}                 -> {model, answers, usage}
    generate: {messages: [...], model: ..., ...}                -> {text, finish_reason, usage, ...}
    generate: {prompt: TEXT, ...}                               -> the same

So a step waits in the same queue, is answered by the same replicas and fails over as a request of
any other client. The other fields are those of the service's routes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from actors.steps.kinds import Done, step_error
from actors.workflow.tasks import StepError, StepTask
from ironcliw.catalog import Catalog
from ironcliw.client import DEFAULT_CHAT_MODEL, DEFAULT_MODEL, AsyncClient
from ironcliw.errors import IroncliwError

Answer = tuple[Any, str | None, str | None]
"""Result, node and variant."""

_LONGEST_SECONDS = 3600.0
_EMBED = frozenset({"input", "model", "dimensions", "prompt_name", "truncate", "priority"})


class ModelCalls:
    """Executes embed, decide and generate.

    Args:
        client: Of the head's service.
        catalog: Says where models are served.
        has_cloud: Whether there may be replicas in the cloud.
    """

    def __init__(self, client: AsyncClient, catalog: Catalog, has_cloud: bool) -> None:
        self._client = client
        self._catalog = catalog
        self._has_cloud = has_cloud

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        """See `actors.steps.kinds.KindExecutor`; the service chooses the place of its replicas."""
        calls: dict[str, Callable[[dict[str, Any]], Awaitable[Answer]]] = {
            "embed": self._embed,
            "decide": self._decide,
            "generate": self._generate,
        }
        fields = {"priority": task.priority, **task.inputs}
        if task.place == "private":
            self._keep_home(task, fields)
        try:
            value, node, variant = await calls[task.kind](fields)
        except IroncliwError as error:
            raise step_error(error) from error
        except TypeError as error:
            # a field that the client's method has by another type
            raise StepError("invalid", f"{task.kind}: {error}", retryable=False) from error
        return Done.of(value, task, node=node, place=variant)

    async def _embed(self, fields: dict[str, Any]) -> Answer:
        _refuse_unknown("embed", fields, _EMBED)
        answer = await self._client.embed(_needed("embed", fields, "input"), **fields)
        value = {
            "model": answer.model,
            "embeddings": answer.vectors,
            "usage": answer.usage.model_dump(),
            "truncated": [one.model_dump() for one in answer.truncated],
        }
        return value, answer.served.node, answer.served.variant

    async def _decide(self, fields: dict[str, Any]) -> Answer:
        text = _needed("decide", fields, "input")
        if "labels" in fields:
            labels = fields.pop("labels")
            chosen = await self._client.classify(text, labels, **fields)
            confidence = 0.0 if chosen.label is None else chosen.scores[chosen.label]
            value = {**_plain(chosen), "confidence": confidence}
            return value, chosen.served.node, chosen.served.variant
        questions = _needed("decide", fields, "questions")
        decision = await self._client.decide(text, questions, **fields)
        return _plain(decision), decision.served.node, decision.served.variant

    async def _generate(self, fields: dict[str, Any]) -> Answer:
        if "stream" in fields:
            raise _invalid("generate.stream: a step has one result; leave it out")
        if "prompt" in fields:
            answer = await self._client.complete(fields.pop("prompt"), **fields)
        else:
            answer = await self._client.chat(_needed("generate", fields, "messages"), **fields)
        value = {**_plain(answer), "text": answer.text, "finish_reason": answer.finish_reason}
        return value, answer.served.node, answer.served.variant

    def _keep_home(self, task: StepTask, fields: Mapping[str, Any]) -> None:
        """Refuse a private step whose model may be served in the cloud.

        Raises:
            StepError: it may.
        """
        default = DEFAULT_CHAT_MODEL if task.kind == "generate" else DEFAULT_MODEL
        model = fields.get("model", default)
        try:
            card = self._catalog[model]
        except IroncliwError as error:
            raise step_error(error) from error
        if self._has_cloud and card.placement != "local":
            raise _invalid(
                f"the step's place is private, and model {model} may be served in the cloud; set "
                f'models.{model}.placement to "local"'
            )


def client_of(base_url: str, api_key: str | None) -> AsyncClient:
    """A client whose own time-out does not matter: the orchestrator ends what takes too long."""
    return AsyncClient(base_url=base_url, api_key=api_key, timeout=_LONGEST_SECONDS, max_retries=2)


def _needed(kind: str, fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise _invalid(f"{kind}: the field {name!r} is required")
    return fields.pop(name)


def _refuse_unknown(kind: str, fields: Mapping[str, Any], known: frozenset[str]) -> None:
    if unknown := sorted(fields.keys() - known):
        raise _invalid(
            f"{kind}: unknown field {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )


def _plain(answer: Any) -> dict[str, Any]:
    """A result of the client as JSON, without who answered: the event has that."""
    value: dict[str, Any] = _with_text_keys(dataclasses.asdict(answer))
    value.pop("served", None)
    return value


def _with_text_keys(value: Any) -> Any:
    """The probabilities of a predicate have the keys True and False, which JSON writes as texts."""
    if isinstance(value, dict):
        return {
            str(key).lower() if isinstance(key, bool) else key: _with_text_keys(inside)
            for key, inside in value.items()
        }
    if isinstance(value, list | tuple):
        return [_with_text_keys(inside) for inside in value]
    return value


def _invalid(message: str) -> StepError:
    return StepError("invalid", message, retryable=False)
