"""A finished run's adapter into the register of what is served, if it is no worse than its base."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ironcliw.adapters import PublishedAdapter, describe, publish, versions
from ironcliw.catalog import Catalog
from ironcliw.errors import SettingsError, TrainingError
from ironcliw.file_digests import weights_digest
from ironcliw.settings import Settings
from train.config import TrainingConfig
from train.data.tokenized import TokenizedData
from train.embedding.evaluation import has_prototypes
from train.evaluation.gate import why_unjudged
from train.evaluation.options import EvaluationOptions
from train.evaluation.report import from_record, measures_of
from train.model.load import model_folder
from train.outcome import read_outcome
from train.run_files import ADAPTER, CONFIG, RunFiles
from train.tokenizer import model_path

logger = logging.getLogger(__name__)


def check_publishing(
    config: TrainingConfig, held_out: TokenizedData | None, settings: Settings
) -> None:
    """See before a run that its adapter could be published at its end, if it is to be.

    Raises:
        SettingsError: its base is no model of the catalogue, nothing is held out, or the measure
            that decides cannot be taken of what is.
    """
    options = config.evaluation
    if (
        options.gate == "prototype_accuracy"
        and held_out is not None
        and not has_prototypes(held_out, options.max_rows)
    ):
        raise SettingsError(
            "evaluation.gate is 'prototype_accuracy', and no two of the held-out rows that are "
            "measured have the same label; hold out rows of text and label, or choose "
            "'retrieval_accuracy'"
        )
    if config.publish is None:
        return
    _check_base(config.model_name, settings)
    if held_out is None or not len(held_out):
        raise SettingsError(
            f"publish is {config.publish!r}, and no row is held out: nothing would tell whether "
            "the adapter is worse than its base; set data.eval or data.eval_share"
        )


def refusal(outcome: Mapping[str, Any]) -> str | None:
    """Why a run's adapter is not to be published; None: it may be."""
    verdict = from_record(outcome.get("gate"))
    if verdict is None:
        return str(outcome.get("ungated") or why_unjudged(EvaluationOptions(), None, None))
    return None if verdict.passed else f"it is worse than its base: {verdict.words}"


def publish_run(
    uri: str, name: str, settings: Settings, *, force: bool = False
) -> PublishedAdapter:
    """Publish the adapter of a finished run; the same one twice under a name is one version.

    Args:
        uri: Of the run's folder.
        name: To publish it under.
        settings: Of the head: its catalogue and register.
        force: Although the gate says no; the register keeps that it was so.

    Raises:
        SettingsError: the run is not there or not finished, it trained no adapter, or its base is
            no model of the catalogue.
        TrainingError: the gate says no; or the base is not the one that it was trained on.
        IroncliwError: as `ironcliw.adapters.publish`.
    """
    files = RunFiles(uri)
    outcome, config = finished_adapter(uri)
    if config.get("use_dora"):
        raise SettingsError(
            f"the adapter of {uri} is DoRA's, which is not served beside others: `ironcliw train "
            f"merge {uri} FOLDER` makes a model of its own of it"
        )
    why_not = refusal(outcome)
    if why_not is not None and not force:
        raise TrainingError(
            f"the adapter of {uri} is not published: {why_not}. It stays in {outcome['result']}; "
            f"`ironcliw train publish {uri} {name} --force` publishes it all the same",
            code="gate_failed",
        )
    base = str(config["model_name"])
    _check_base(base, settings)
    if (config.get("data") or {}).get("chat_template"):
        logger.warning(
            "%s was trained with a chat template of its own, and %s:%s is served with that of %s, "
            "which may write other tokens; `ironcliw train merge` makes a model of it that has "
            "its template",
            uri,
            base,
            name,
            base,
        )
    index = settings.state_dir / "models" / "index"
    check_weights(base, outcome, settings, index)
    with tempfile.TemporaryDirectory(prefix="ironcliw-publish-") as temporary:
        folder = Path(temporary)
        files.download(ADAPTER, folder)
        record = describe(
            folder,
            name=name,
            base=base,
            base_weights=model_path(base, settings),
            metrics=_metrics(outcome),
            index=index,
            forced=why_not is not None,
        )
        newest = versions(settings.state_dir, name)[-1:]
        if newest and (newest[0].digest, newest[0].base) == (record.digest, base):
            return newest[0]
        source = record.source if files.is_local else files.path(ADAPTER)
        return publish(settings.state_dir, dataclasses.replace(record, source=source))


def finished_adapter(uri: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a run ended, and the configuration that it was begun with.

    Raises:
        SettingsError: it is not there or not finished, or it trained no adapter.
        TrainingError: it has failed.
    """
    outcome = read_outcome(uri)
    if outcome is None:
        raise SettingsError(f"{uri} holds no finished run; see its name, or resume it to its end")
    config: dict[str, Any] = (RunFiles(uri).read(CONFIG) or {}).get("config", {})
    if not config.get("use_lora", True):
        raise SettingsError(f"run {uri} has trained all weights: {outcome['result']} is no adapter")
    return outcome, config


def _check_base(name: str, settings: Settings) -> None:
    if name not in Catalog(settings.models):
        raise SettingsError(
            f"an adapter is published for a model of the catalogue, and model_name is {name!r}; "
            "add the model to ironcliw.toml as [models.NAME] and train on that"
        )


def check_weights(base: str, outcome: Mapping[str, Any], settings: Settings, index: Path) -> None:
    """See that a run's base is what it was when the run began.

    Args:
        base: Its name.
        outcome: Of the run.
        settings: Of the head: its catalogue.
        index: Of digests that are known.

    Raises:
        TrainingError: its files were changed.
        IroncliwError: it is not there.
    """
    trained_on = outcome.get("model_digest")
    found = weights_digest(model_folder(base, settings), index)
    if trained_on is not None and found != trained_on:
        raise TrainingError(
            f"model {base!r} has the digest {found[:12]}, and the adapter was trained on "
            f"{str(trained_on)[:12]}: its files were changed since; train again, or put the files "
            "back"
        )


def _metrics(outcome: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    moments = {"before": outcome.get("before"), "after": outcome.get("evaluation")}
    return {
        moment: {name: line[name] for name in measures_of(line)}
        for moment, line in moments.items()
        if line
    }
