"""A finished run on the Hugging Face Hub, with a page that says what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ironcliw.adapter_record import ADAPTER_FILES
from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import SettingsError, TrainingError
from ironcliw.file_digests import weights_digest
from ironcliw.settings import Settings
from train.evaluation.report import from_record
from train.export.hub import HubCommit, upload
from train.export.hub_errors import check_repository
from train.export.merge import write_merged, write_template
from train.export.merged_model import transformer_folder
from train.export.model_card import CardFacts, Kind, model_card
from train.export.source import Source, open_source
from train.export.target import staging
from train.model.sizes import read_sizes
from train.publish import refusal

_PAGE = "README.md"
UNKNOWN = "unknown"
"""What the catalogue says of a model whose licence the settings do not name."""


def publish_to_hub(
    run: str,
    repository: str,
    settings: Settings,
    *,
    merged: bool = False,
    public: bool = False,
    replace: bool = False,
    force: bool = False,
    licence: str | None = None,
    endpoint: str | None = None,
) -> HubCommit:
    """Publish what a run has made, if it is not worse than its base.

    Args:
        run: Name, folder or URI.
        repository: OWNER/NAME.
        settings: Of the head.
        merged: The adapter merged into its base, not by itself.
        public: Not for the owner alone.
        replace: Where the repository exists: its files are then exactly these.
        force: Although the gate says no; the page says so.
        licence: Of the base, where the catalogue does not know it.
        endpoint: As of `train.export.hub.upload`.

    Raises:
        SettingsError: there is no such run, it has no adapter to merge, or the base's licence is
            not known.
        TrainingError: the gate says no.
        IroncliwError: as `open_source` and `upload`.
    """
    check_repository(repository)
    with open_source(run, settings) as source:
        if not source.outcome:
            raise SettingsError(f"{run} is no run; name one, whose measures its page can tell")
        why_not = refusal(source.outcome)
        if why_not is not None and not force:
            raise TrainingError(
                f"{run} is not published: {why_not}; --force publishes it all the same, and its "
                "page says so",
                code="gate_failed",
            )
        kind = _kind(source, merged=merged)
        facts = _facts(source, repository, kind, licence, settings, forced=why_not is not None)
        # not where the machine keeps what is temporary, which may be its memory
        with staging(settings.state_dir / "publish", _size(source, kind)) as folder:
            _gather(source, kind, folder, facts)
            return upload(
                folder,
                repository,
                f"Publish {source.name}",
                private=not public,
                replace=replace,
                endpoint=endpoint,
            )


def _size(source: Source, kind: Kind) -> int:
    """Bytes of what is gathered."""
    if kind == "adapter":
        return 0  # a few megabytes
    sizes = read_sizes(transformer_folder(source.model))
    return sizes.stored if sizes is not None else 0


def _kind(source: Source, *, merged: bool) -> Kind:
    if source.adapter is not None:
        return "merged" if merged else "adapter"
    if merged:
        raise SettingsError(
            f"run {source.name} has trained all weights: there is nothing to merge; leave out "
            "--merged"
        )
    return "full"


def _facts(
    source: Source,
    repository: str,
    kind: Kind,
    licence: str | None,
    settings: Settings,
    *,
    forced: bool,
) -> CardFacts:
    catalog = Catalog(settings.models)
    # a base may be a folder; an unknown name is an error to the catalogue, and none here
    card = catalog[source.base] if source.base in catalog else None
    known = licence or (card.licence if card is not None else UNKNOWN)
    if known == UNKNOWN:
        raise SettingsError(
            f"the licence of {source.base} is not known, and it holds for what is made of it; give "
            "--licence, such as apache-2.0, or set models.ID.licence"
        )
    outcome = source.outcome
    verdict = from_record(outcome.get("gate"))
    return CardFacts(
        repository=repository,
        kind=kind,
        base=Path(source.base).name,
        base_repository=card.repository if card is not None else None,
        rounded=_rounding(card) if card is not None else "",
        base_digest=str(outcome.get("model_digest") or weights_digest(source.model)),
        licence=known,
        config=source.config,
        data_digest=str(source.numbers.get("data", "")),
        before=_line(outcome.get("before")),
        after=_line(outcome.get("evaluation")),
        verdict=verdict.words if verdict is not None else "",
        forced=forced,
    )


def _rounding(card: ModelCard) -> str:
    """Of weights that are read from a GGUF file, where the catalogue knows it; else nothing."""
    is_gguf = card.source is not None and card.source.endswith(".gguf")
    return card.quantizations[0] if is_gguf and card.quantizations[0] != "none" else ""


def _line(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _gather(source: Source, kind: Kind, folder: Path, facts: CardFacts) -> None:
    """Everything that is published, in one folder."""
    if kind == "merged":
        write_merged(source, folder)
    elif source.adapter is not None:
        config = json.loads((source.adapter / ADAPTER_FILES[0]).read_bytes())
        # peft wrote the path on the machine that trained it
        config["base_model_name_or_path"] = facts.base_repository or facts.base
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / ADAPTER_FILES[0]).write_text(text, encoding="utf-8")
        shutil.copyfile(source.adapter / ADAPTER_FILES[1], folder / ADAPTER_FILES[1])
        write_template(source, folder)  # with the base's it would read other tokens
    else:
        # an encoder's pooling has a folder of its own
        shutil.copytree(source.model, folder, dirs_exist_ok=True)
    (folder / _PAGE).write_text(model_card(facts), encoding="utf-8")
