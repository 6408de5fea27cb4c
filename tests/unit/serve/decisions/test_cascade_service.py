"""Cascades of the settings: what is refused at the start, what is skipped, and what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from ironcliw.catalog import Catalog
from ironcliw.errors import RequestError, SettingsError
from ironcliw.schemas.decisions import DecisionRequest
from ironcliw.settings import Settings
from serve.decisions.service import DecisionService
from serve.host import ModelHost
from serve.variants import LocalVariant

from .test_service import CHOICES, MODELS, Embedder, Scorer

Counts = Counter[tuple[str, str, str]]


class Told:
    """Counts."""

    def __init__(self) -> None:
        self.counts: Counts = Counter()

    def on_cascade(self, cascade: str, model: str, outcome: str) -> None:
        self.counts[cascade, model, outcome] += 1


@pytest.fixture
async def make(tmp_path: Path) -> Any:
    made: list[DecisionService] = []
    hosts: list[ModelHost] = []

    def service(*models: str, told: Told | None = None, lm: bool = True) -> DecisionService:
        steps = [{"model": model, "confidence": 0.999} for model in models]
        settings = Settings(models=MODELS, serve={"cascades": {"router": steps}})  # type: ignore[arg-type]
        catalog = Catalog(settings.models)
        hosts.append(ModelHost(catalog, settings.serve, tmp_path, "n"))
        variant = LocalVariant(hosts[-1])
        scorer = Scorer() if lm else None
        made.append(
            DecisionService(
                catalog, settings.serve, variant, tmp_path, Embedder(), scorer, cascades=told
            )
        )
        return made[-1]

    yield service
    for each in made:
        await each.close()
    for host in hosts:
        await host.close()


async def decide(service: DecisionService, **changes: Any) -> Any:
    question = {"type": "choice", "name": "q", "instructions": "What?", "choices": CHOICES}
    body = {"model": "router", "input": "play a song", "questions": [question], **changes}
    content, _ = await service.decide(DecisionRequest.model_validate(body), None)
    return orjson.loads(content)


Make = Callable[..., DecisionService]


async def test_steps_that_cannot_decide_are_refused_at_the_start(make: Make) -> None:
    with pytest.raises(SettingsError, match=r"cascades.router, step 2: no model 'nobody'"):
        make("embedder", "nobody")
    with pytest.raises(SettingsError, match=r"step 1: model 'painter' is for vision and cannot"):
        make("painter", "embedder")
    with pytest.raises(SettingsError, match=r"step 1: the method 'lm' is not offered here"):
        make("writer", "embedder", lm=False)
    with pytest.raises(SettingsError, match=r"take the step out"):
        make("embedder:no-such-head", "entailer")


async def test_what_a_step_cannot_answer_is_skipped_and_counted(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()
    service = make("sorter", "writer", "entailer", told=told)
    other = [{"value": "sport"}, {"value": "travel"}]
    question = {"type": "choice", "name": "q", "instructions": "What?", "choices": other}
    for _ in range(2):
        found = await decide(service, questions=[question])
    assert found["answers"][0]["decided_by"] == "entailer"
    assert told.counts == {
        ("router", "sorter", "skipped"): 2,
        ("router", "entailer", "decided"): 2,
    }
    said = [each.getMessage() for each in caplog.records if "leaves questions" in each.getMessage()]
    assert len(said) == 1
    assert "'sport' is not a label of sorter" in said[0]


async def test_several_labels_at_once_are_for_nli(make: Make) -> None:
    told = Told()
    found = await decide(make("writer", "entailer", told=told), multi_label=True)
    assert found["answers"][0].get("decided_by", "entailer") == "entailer"
    assert told.counts["router", "writer", "skipped"] == 1
    with pytest.raises(RequestError, match="multi_label is for the method nli, and 'writer' decid"):
        await decide(make("entailer", "writer"), multi_label=True)


async def test_a_request_that_breaks_a_rule_is_told(make: Make) -> None:
    with pytest.raises(RequestError, match=r"hypothesis_template is .* must contain"):
        await decide(make("entailer", "embedder"), hypothesis_template="none")
