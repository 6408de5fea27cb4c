"""The cascades of the settings: checked when the service starts, counted while they decide."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import ModelNotFoundError, RequestError, SettingsError
from ironcliw.setting_sections import CascadeStep
from serve.decisions.questions import UnfitQuestionError

logger = logging.getLogger(__name__)


class CascadeObserver(Protocol):
    """Sees what the steps of cascades do, for counters."""

    def on_cascade(self, cascade: str, model: str, outcome: str) -> None:
        """One question: `decided` by the model, or `skipped`, since it cannot answer it."""
        ...


def check_cascades(
    cascades: Mapping[str, Sequence[CascadeStep]],
    catalog: Catalog,
    offered: Callable[[ModelCard], None],
) -> None:
    """See that each step can decide, before a request finds out.

    Args:
        cascades: Of the settings, by name.
        catalog: The known models.
        offered: Raises RequestError where a model cannot decide here.

    Raises:
        SettingsError: a cascade has the name of a model, or a step that cannot decide.
    """
    for name, steps in cascades.items():
        where = f"setting serve.cascades.{name}"
        if name in catalog:
            raise SettingsError(f"{where}: a model has that name; choose another one")
        for number, step in enumerate(steps, 1):
            try:
                offered(catalog[step.model])
            except ModelNotFoundError as error:
                raise SettingsError(
                    f"{where}, step {number}: {error.message}; publish or configure it first, or "
                    "take the step out"
                ) from error
            except RequestError as error:
                raise SettingsError(f"{where}, step {number}: {error.message}") from error


class CascadeTold:
    """Counts what steps do, and warns once of a step that leaves questions to the next one.

    Args:
        observer: Where counts go; None: nowhere.
    """

    def __init__(self, observer: CascadeObserver | None) -> None:
        self._observer = observer
        self._warned: set[tuple[str, str]] = set()

    def skipped(self, cascade: str, step: CascadeStep, error: UnfitQuestionError) -> None:
        """A step could not answer a question."""
        if (cascade, step.model) not in self._warned:
            self._warned.add((cascade, step.model))
            logger.warning(
                "cascade %s: %s leaves questions to the next step, the first since %s",
                cascade,
                step.model,
                error.message,
            )
        self._count(cascade, step.model, "skipped")

    def decided(self, cascade: str, by: Sequence[str]) -> None:
        """The models that answered the questions of a request."""
        for model in by:
            self._count(cascade, model, "decided")

    def _count(self, cascade: str, model: str, outcome: str) -> None:
        if self._observer is not None:
            self._observer.on_cascade(cascade, model, outcome)
