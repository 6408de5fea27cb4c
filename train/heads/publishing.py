"""A head that was saved into the register of what is served, if it is better than labels' names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ironcliw.adapter_record import check_name
from ironcliw.adapters import PublishedAdapter, describe, publish, versions
from ironcliw.catalog import Catalog
from ironcliw.errors import SettingsError, TrainingError
from ironcliw.file_digests import weights_digest
from ironcliw.head_record import CONFIG_FILE, HeadRecord, is_head
from ironcliw.json_files import read_object
from ironcliw.settings import Settings
from train.heads.head import NAMES_ACCURACY
from train.tokenizer import model_path


def is_head_folder(folder: Path) -> bool:
    """Whether a folder holds a head.

    Raises:
        ModelLoadError: its record is damaged.
    """
    return (folder / CONFIG_FILE).is_file() and is_head(read_object(folder / CONFIG_FILE))


def check_publishing(model: str, name: str, settings: Settings) -> None:
    """See before a head is fitted that it could be published.

    Args:
        model: Whose vectors it reads.
        name: To publish it under.
        settings: Of the head of the cluster: its catalogue.

    Raises:
        RequestError: it cannot be called so.
        SettingsError: the model is not in the catalogue.
    """
    check_name(name)
    if model not in Catalog(settings.models):
        raise SettingsError(
            f"a head is published for a model of the catalogue, and model is {model!r}; add it to "
            "ironcliw.toml as [models.NAME]"
        )


def publish_head(
    folder: Path, name: str, settings: Settings, *, force: bool = False
) -> PublishedAdapter:
    """Publish a saved head; the same one twice under a name is one version.

    Args:
        folder: Where it was saved.
        name: To publish it under.
        settings: Of the head of the cluster: its catalogue and register.
        force: Although labels' names are better; the register keeps that it was so.

    Raises:
        SettingsError: its model is not in the catalogue, or it does not say which it is.
        TrainingError: it is worse than labels' names, or was fitted to other weights.
        IroncliwError: as `ironcliw.adapters.publish`.
    """
    head = HeadRecord.read(folder)
    if head.base is None or NAMES_ACCURACY not in head.metrics:
        raise SettingsError(
            f"the head in {folder} does not say what it was fitted to and measured with: an older "
            "release fitted it; fit it again"
        )
    check_publishing(head.base, name, settings)
    accuracy, names = head.metrics["accuracy"], head.metrics[NAMES_ACCURACY]
    is_worse = accuracy < names
    if is_worse and not force:
        raise TrainingError(
            f"the head is not published: it is right for {accuracy:.1%} of the texts, and the "
            f"nearest label's name for {names:.1%}. It stays in {folder}; `ironcliw train publish "
            f"{folder} {name} --force` publishes it all the same",
            code="gate_failed",
        )
    index = settings.state_dir / "models" / "index"
    weights = model_path(head.base, settings)
    if (found := weights_digest(weights, index)) != head.base_digest:
        raise TrainingError(
            f"model {head.base!r} has the digest {found[:12]}, and the head was fitted to "
            f"{str(head.base_digest)[:12]}: its files were changed since; fit it again, or put "
            "the files back"
        )
    metrics: Mapping[str, Mapping[str, float]] = {
        "before": {"accuracy": names},
        "after": {"accuracy": accuracy, "ece": head.metrics["ece"]},
    }
    record = describe(
        folder,
        name=name,
        base=head.base,
        base_weights=weights,
        metrics=metrics,
        index=index,
        forced=is_worse,
    )
    newest = versions(settings.state_dir, name)[-1:]
    if newest and (newest[0].digest, newest[0].base) == (record.digest, head.base):
        return newest[0]
    return publish(settings.state_dir, record)
