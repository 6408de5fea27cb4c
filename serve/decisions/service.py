"""Decisions from request to answer: which method, its probabilities, the JSON.

The model's task says the method; `method` in the request may say another that the task has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import RequestError, RequestTooLargeError
from ironcliw.schemas.decisions import DEFAULT_TEMPLATE, ClassifyRequest, DecisionRequest
from ironcliw.setting_sections import CascadeStep, ServeSettings
from serve.batching import BatchObserver, BatchQueue
from serve.decisions import cascade
from serve.decisions.answers import Estimate, Estimates, Method, answer, decision_body
from serve.decisions.cascade_checks import CascadeObserver, CascadeTold, check_cascades
from serve.decisions.classifier import ClassifierMethod, class_probabilities
from serve.decisions.embedding import Embedder, EmbeddingMethod
from serve.decisions.forms import DecisionForms
from serve.decisions.lm import LmMethod, NextTokenScorer
from serve.decisions.logits import SequenceClassifiers
from serve.decisions.nli import MOST_PAIRS, NliMethod
from serve.decisions.published_head import HeadMethod
from serve.decisions.questions import (
    Option,
    Options,
    Question,
    UnfitQuestionError,
    check_length,
    read_input,
    read_questions,
    require_template,
)
from serve.decisions.together import together
from serve.embeddings import Served
from serve.variants import Variant

METHODS_OF_TASK = {
    "embedding": ("embedding",),
    "encoder": ("embedding",),
    "nli": ("nli", "classifier"),
    "classifier": ("classifier",),
    "generation": ("lm",),
}
"""What a model of each task can do, its default first."""

_MOST_LABELS = 255


class DecisionService:
    """Answers decision requests through a variant.

    Args:
        catalog: The known models.
        settings: Limits.
        variant: Where batches are computed.
        cache_dir: Where fetched models are kept.
        embeddings: Where vectors come from.
        generation: Where next-token scores come from; None: the method `lm` is not offered.
        observer: Told of every batch of a classifier, by model.
        aliased: Puts a model in the place of an alias.
        cascades: Told of what each step of a cascade does.

    Raises:
        SettingsError: a cascade has the name of a model, or a step that cannot decide here.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: ServeSettings,
        variant: Variant,
        cache_dir: Path,
        embeddings: Embedder,
        generation: NextTokenScorer | None,
        observer: Callable[[str], BatchObserver] | None = None,
        aliased: Callable[[DecisionRequest], DecisionRequest] = lambda request: request,
        cascades: CascadeObserver | None = None,
    ) -> None:
        self._catalog = catalog
        self._aliased = aliased
        self._settings = settings
        self._forms = DecisionForms()
        self._classifiers = SequenceClassifiers(catalog, settings, variant, cache_dir, observer)
        self._heads = HeadMethod(catalog, embeddings, cache_dir)
        self._methods: dict[str, Method] = {
            "embedding": EmbeddingMethod(embeddings),
            "nli": NliMethod(self._classifiers),
            "classifier": ClassifierMethod(self._classifiers),
            "head": self._heads,
        }
        if generation is not None:
            self._methods["lm"] = LmMethod(generation)
        check_cascades(settings.cascades, catalog, self._offered)
        self._told = CascadeTold(cascades)

    async def decide_body(self, body: bytes, deadline: float | None) -> tuple[bytes, Served]:
        """As `decide`, from the bytes of a request; faster where its questions are known."""
        request, questions = self._forms.read(body)
        return await self._decide(request, questions, deadline)

    async def decide(
        self, request: DecisionRequest, deadline: float | None
    ) -> tuple[bytes, Served]:
        """JSON bytes of a `DecisionResponse`, and who answered.

        Args:
            request: Already of the right form.
            deadline: On the clock of `time.monotonic`, or None.

        Raises:
            RequestError: the request breaks a rule; `param` names the field.
            IroncliwError: see the error tree.
        """
        return await self._decide(request, read_questions(request), deadline)

    async def _decide(
        self, request: DecisionRequest, questions: Sequence[Question], deadline: float | None
    ) -> tuple[bytes, Served]:
        request = self._aliased(request)
        text = read_input(request)
        if (steps := self._settings.cascades.get(request.model)) is not None:
            return await self._cascade(request, steps, text, questions, deadline)
        found = await self._estimates(request, request.model, text, questions, deadline)
        answers = self._answers(request, questions, found.estimates)
        model = self._catalog[request.model].id
        return decision_body(model, answers, found.tokens, found.truncated), found.served

    async def _cascade(
        self,
        request: DecisionRequest,
        steps: Sequence[CascadeStep],
        text: str,
        questions: Sequence[Question],
        deadline: float | None,
    ) -> tuple[bytes, Served]:
        if request.method is not None:
            raise RequestError(
                f"method is {request.method!r}, and {request.model!r} is a cascade of models, each "
                "with its own; leave it out",
                param="method",
            )

        only_nli = {"hypothesis_template": None, "multi_label": False}

        async def ask(step: CascadeStep, question: Question) -> Estimates:
            method = _method_name(self._catalog[step.model], None)
            if request.multi_label and question.kind == "choice" and method != "nli":
                raise UnfitQuestionError(
                    f"multi_label is for the method nli, and {step.model!r} decides by {method}; "
                    "leave it out, or name a model for nli as the cascade's last step",
                    param="multi_label",
                )
            given = request if method == "nli" else request.model_copy(update=only_nli)
            return await self._estimates(given, step.model, text, (question,), deadline)

        skipped = partial(self._told.skipped, request.model)
        found = await cascade.decide(steps, questions, ask, skipped)
        self._told.decided(request.model, found.by)
        answers = self._answers(request, questions, found.estimates)
        for one, model in zip(answers, found.by, strict=True):
            one["decided_by"] = model
        body = decision_body(request.model, answers, found.tokens, found.truncated)
        return body, found.served

    async def _estimates(
        self,
        request: DecisionRequest,
        model: str,
        text: str,
        questions: Sequence[Question],
        deadline: float | None,
    ) -> Estimates:
        card = self._catalog[model]
        name = _method_name(card, request.method)
        options = _options(name, request.hypothesis_template, request.multi_label, request.priority)
        if name != "embedding":
            _refuse_examples(questions, name)
        return await self._method(name).estimate(card.id, text, questions, options, deadline)

    def _answers(
        self, request: DecisionRequest, questions: Sequence[Question], found: Sequence[Estimate]
    ) -> list[dict[str, Any]]:
        threshold = request.refusal_threshold
        if threshold is None:
            threshold = self._settings.refusal_threshold
        return [
            answer(question, estimate, threshold)
            for question, estimate in zip(questions, found, strict=True)
        ]

    async def classify(
        self, request: ClassifyRequest, deadline: float | None
    ) -> tuple[bytes, Served, int]:
        """JSON bytes in the shape of Hugging Face's zero-shot pipeline, who answered, texts cut.

        Without candidate labels a classifier answers as the text-classification pipeline does: all
        its labels and their scores. Otherwise as `decide`.
        """
        card = self._card(request.model)
        many = not isinstance(request.inputs, str)
        texts = list(request.inputs) if many else [str(request.inputs)]
        self._check_texts(texts)
        labels = _labels(request.parameters.candidate_labels)
        if labels is None:
            results, served, cut = await self._own_labels(card, texts, request.priority, deadline)
        else:
            results, served, cut = await self._zero_shot(card, texts, labels, request, deadline)
        return orjson.dumps(results if many else results[0]), served, cut

    def lanes(self) -> dict[str, BatchQueue]:
        """The queue of each classifier that was asked for."""
        return self._classifiers.lanes()

    def errors(self) -> dict[str, str]:
        """Why a classifier's tokenizer could not be read, by model."""
        return self._classifiers.errors()

    def forget(self, model_id: str) -> None:
        """Drop what is kept of a model: it may come back with other files."""
        self._classifiers.forget(model_id)
        for method in self._methods.values():
            method.forget(model_id)

    async def close(self) -> None:
        """Fail what waits and stop."""
        await self._classifiers.close()

    def _offered(self, card: ModelCard) -> None:
        """Raise RequestError where a model cannot decide here."""
        self._method(_method_name(card, None))

    def _method(self, name: str) -> Method:
        if name not in self._methods:
            raise RequestError(
                f"the method {name!r} is not offered here; offered are {', '.join(self._methods)}",
                param="method",
            )
        return self._methods[name]

    def _card(self, model: str | None) -> ModelCard:
        if model is not None:
            return self._catalog[model]
        for pinned in self._settings.pinned_models:
            if pinned in self._catalog and self._catalog[pinned].task in METHODS_OF_TASK:
                return self._catalog[pinned]
        raise RequestError(
            "model is left out and no pinned model can classify; name one of `GET /v1/models`",
            param="model",
        )

    def _check_texts(self, texts: Sequence[str]) -> None:
        if not texts:
            raise RequestError("inputs is an empty list; give at least one text", param="inputs")
        if len(texts) > self._settings.max_batch_items:
            raise RequestTooLargeError(
                f"inputs has {len(texts)} texts; at most {self._settings.max_batch_items} are "
                "allowed in one request",
                param="inputs",
            )
        for index, text in enumerate(texts):
            if not text.strip():
                raise RequestError(f"inputs[{index}] is empty", param="inputs")
            check_length(text, f"inputs[{index}]")

    async def _zero_shot(
        self,
        card: ModelCard,
        texts: Sequence[str],
        labels: Sequence[str],
        request: ClassifyRequest,
        deadline: float | None,
    ) -> tuple[list[Any], Served, int]:
        given = request.parameters
        name = _method_name(card, None)
        options = _options(name, given.hypothesis_template, given.multi_label, request.priority)
        if len(labels) < 2 and name != "nli":
            raise RequestError(
                f"candidate_labels has one label; the method {name} compares labels and needs two",
                param="parameters",
            )
        if name == "nli" and len(texts) * len(labels) > MOST_PAIRS:
            raise RequestTooLargeError(
                f"{len(texts)} inputs with {len(labels)} candidate_labels make "
                f"{len(texts) * len(labels)} pairs; at most {MOST_PAIRS} are allowed in one "
                "request: send fewer inputs at a time",
                param="inputs",
            )
        question = Question(
            "choice", None, "labels", tuple([Option(label) for label in labels]), "parameters"
        )
        method = self._method(name)
        found: list[Estimates] = await together(
            [method.estimate(card.id, text, (question,), options, deadline) for text in texts]
        )
        results = [
            _sorted(text, labels, one.estimates[0].probabilities)
            for text, one in zip(texts, found, strict=True)
        ]
        return results, found[-1].served, sum([one.truncated > 0 for one in found])

    async def _own_labels(
        self, card: ModelCard, texts: Sequence[str], priority: str, deadline: float | None
    ) -> tuple[list[Any], Served, int]:
        if is_head(card):
            labels, rows, made = await self._heads.own_labels(card.id, texts, priority, deadline)
            return [_pairs(labels, row) for row in rows], made.served, len(made.truncated)
        if card.task != "classifier":
            raise RequestError(
                f"model {card.id!r} is for {card.task} and has no labels of its own; give "
                "parameters.candidate_labels",
                param="parameters",
            )
        encoder = await self._classifiers.encoder(card.id)
        sequences = await self._classifiers.singles(card.id, texts)
        found = await self._classifiers.logits(card.id, sequences, priority, deadline)
        whole = class_probabilities(encoder, found.rows)
        results = [_pairs(encoder.labels, row) for row in whole]
        return results, found.served, sum([item.truncated > 0 for item in sequences])


def is_head(card: ModelCard) -> bool:
    """Whether a model is one under a head, which decides by it alone."""
    return card.adapter is not None and card.adapter.kind == "head"


def _pairs(labels: Sequence[str], row: Any) -> list[dict[str, Any]]:
    """Labels and their scores, the likeliest first."""
    order = np.argsort(-row, kind="stable")
    return [{"label": labels[index], "score": float(row[index])} for index in order]


def _method_name(card: ModelCard, wanted: str | None) -> str:
    methods = ("head",) if is_head(card) else METHODS_OF_TASK.get(card.task)
    if methods is None:
        raise RequestError(
            f"model {card.id!r} is for {card.task} and cannot decide; models for "
            f"{', '.join(METHODS_OF_TASK)} can",
            param="model",
        )
    if wanted is not None and wanted not in methods:
        raise RequestError(
            f"model {card.id!r} cannot do the method {wanted!r}; it can do {' and '.join(methods)}",
            param="method",
        )
    return wanted or methods[0]


def _options(method: str, template: str | None, multi_label: bool, priority: str) -> Options:
    if method != "nli":
        for name, given in (
            ("hypothesis_template", template is not None),
            ("multi_label", multi_label),
        ):
            if given:
                raise RequestError(
                    f"{name} is for the method nli, and this model decides by {method}; leave it "
                    "out",
                    param=name,
                )
    checked = DEFAULT_TEMPLATE if template is None else require_template(template)
    return Options(checked, multi_label, priority)


def _refuse_examples(questions: Sequence[Question], method: str) -> None:
    for question in questions:
        for index, option in enumerate(question.options):
            if option.examples:
                where = f"{question.param}.choices[{index}].examples"
                raise UnfitQuestionError(
                    f"{where} is for the method embedding, and this model decides by {method}; "
                    "leave it out",
                    param=where,
                )


def _labels(given: str | list[str] | None) -> list[str] | None:
    if given is None:
        return None
    found = [label.strip() for label in given.split(",")] if isinstance(given, str) else given
    labels = [label for label in found if label.strip()]
    if not labels or (len(labels) != len(found) and not isinstance(given, str)):
        raise RequestError(
            "candidate_labels has an empty label, or none at all; name each", param="parameters"
        )
    if len(labels) > _MOST_LABELS:
        raise RequestError(
            f"candidate_labels has {len(labels)} labels; at most {_MOST_LABELS} are allowed",
            param="parameters",
        )
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise RequestError(
            f"candidate_labels has {twice[:60]!r} twice; each must be unique", param="parameters"
        )
    return labels


def _sorted(text: str, labels: Sequence[str], probabilities: Any) -> dict[str, Any]:
    order = np.argsort(-probabilities, kind="stable")
    return {
        "sequence": text,
        "labels": [labels[index] for index in order],
        "scores": probabilities[order].tolist(),
    }
