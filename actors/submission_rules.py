"""What this head refuses of a definition before anything starts, where it can be known by then.

Functions that are not registered, hosts that http steps may not ask, models that nobody has. What
a step computes from inputs or from other steps is found when the step runs, and so is what a name
resolves to, where a redirect leads, and an adapter that the workflow itself may publish first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from actors.functions import check_arguments
from actors.steps.addresses import (
    check_address,
    check_host,
    host_and_port,
    is_listed,
    literal,
    parse_url,
)
from actors.workflow.call_reader import at
from actors.workflow.graph import Definition
from actors.workflow.references import Reference, split_text
from actors.workflow.tasks import StepError
from ironcliw.actor_settings import ActorsSettings
from ironcliw.catalog import Catalog
from ironcliw.errors import IroncliwError, ModelNotFoundError, NotFoundError, RequestError

_MODEL_KINDS = ("embed", "decide", "generate")


class SubmissionRules:
    """Checks definitions that are right in themselves against this head.

    Args:
        settings: Lists of hosts.
        catalog: The models that are served here.
    """

    def __init__(self, settings: ActorsSettings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog

    def __call__(self, definition: Definition) -> None:
        """Refuse what cannot run here.

        Raises:
            RequestError: with the path of the field.
        """
        check_functions(definition)
        for path, form in _forms(definition.source["steps"]):
            if isinstance(block := form.get("http"), Mapping):
                self._check_host(f"{path}.http.url", block.get("url"))
            for kind in _MODEL_KINDS:
                if isinstance(block := form.get(kind), Mapping):
                    self._check_model(f"{path}.{kind}.model", block.get("model"))

    def _check_host(self, path: str, url: Any) -> None:
        fixed = fixed_host(url)
        if fixed is None:
            return
        try:
            parts = parse_url(fixed)
            check_host(parts, self._settings.http_hosts)
            host, port = host_and_port(parts)
            if (address := literal(host)) is not None:
                listed = self._settings.http_private_hosts
                private = is_listed(host, port, parts.scheme, listed)
                check_address(host, str(address), private_allowed=private)
        except StepError as error:
            raise at(path, error.message) from error

    def _check_model(self, path: str, model: Any) -> None:
        if not isinstance(model, str):
            return
        pieces = list(split_text(model))
        if any(isinstance(piece, Reference) for piece in pieces):
            return
        # of BASE:ADAPTER the base: a step before may publish the adapter
        base = "".join(map(str, pieces)).partition(":")[0]
        try:
            self._catalog[base]
        except ModelNotFoundError as error:
            raise at(path, error.message) from error


def fixed_host(url: Any) -> str | None:
    """The URL up to the path, or whole, where the definition itself says which host it names.

    None: an input or another step has a part in it.
    """
    if not isinstance(url, str):
        return None
    before = ""
    for piece in split_text(url):
        if isinstance(piece, Reference):
            scheme, sign, rest = before.partition("://")
            ends = [rest.index(one) for one in "/?#" if one in rest]
            return f"{scheme}://{rest[: min(ends)]}/" if sign and ends else None
        before += piece
    return before


def check_functions(definition: Definition) -> None:
    """Refuse functions that are not registered, and arguments that they do not take.

    Raises:
        RequestError: with the path of the field.
    """
    for path, form in _forms(definition.source["steps"]):
        if form.get("function") is None:
            continue
        try:
            check_arguments(form["function"], form.get("with") or {})
        except NotFoundError as error:
            raise RequestError(f"{path}: {error.message}", param=f"{path}.function") from error
        except IroncliwError as error:
            raise RequestError(f"{path}: {error.message}", param=f"{path}.with") from error


def _forms(steps: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What steps call, and what undoes them, by path."""
    for name, step in steps.items():
        yield f"steps.{name}", step
        if step.get("compensate") is not None:
            yield f"steps.{name}.compensate", step["compensate"]
