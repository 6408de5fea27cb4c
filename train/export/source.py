"""What is merged, exported or published: a run's result, an adapter with its base, or a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ironcliw.adapter_record import ADAPTER_FILES
from ironcliw.adapters import PublishedAdapter, versions
from ironcliw.catalog import Catalog
from ironcliw.errors import AdapterError, SettingsError
from ironcliw.file_digests import weights_digest
from ironcliw.json_files import read_object
from ironcliw.settings import Settings
from train.export.fitting import check_fits
from train.export.merged_model import transformer_folder
from train.export.target import staging
from train.model.load import model_folder
from train.outcome import read_outcome
from train.run_files import ADAPTER, CONFIG, RunFiles, run_uri
from train.tokenizer import model_path


@dataclass(frozen=True, slots=True)
class Source:
    """A model in Hugging Face's format, with or without an adapter.

    Attributes:
        name: For titles and file names.
        base: Id, folder or GGUF file of the model that was trained, or that is exported itself.
        model: Its folder in Hugging Face's format; of a run without adapters its result.
        adapter: Folder of peft's files on this machine; None: the model is whole without one.
        outcome: Of the run; empty where it is none.
        config: Of the run; empty where it is none.
        numbers: What the bits of the run depend on, its data's digest among them.
    """

    name: str
    base: str
    model: Path
    adapter: Path | None = None
    outcome: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chat_template(self) -> str | None:
        """That the run was given in place of the model's own."""
        return (self.config.get("data") or {}).get("chat_template")


@contextlib.contextmanager
def open_source(wanted: str, settings: Settings, base: str | None = None) -> Iterator[Source]:
    """Find what is meant; files from a bucket are here until the block ends.

    Args:
        wanted: Name, folder or URI of a run; folder of an adapter; the register's NAME or
            BASE:NAME; or a model: an id of the catalogue, a folder or a GGUF file.
        settings: Of the head: catalogue, register and runs.
        base: Of an adapter that does not say it, or says a path that is not here.

    Raises:
        SettingsError: there is none of these, or a run is not finished.
        AdapterError: the adapter was trained on another base.
        ModelLoadError: files are absent or damaged.
        TrainingError: the run has failed.
    """
    with contextlib.ExitStack() as stack:
        found = _of_run(wanted, settings, stack)
        if found is None:
            found = _of_adapter(wanted, settings, base) or _of_model(wanted, settings)
        yield found


def _of_run(wanted: str, settings: Settings, stack: contextlib.ExitStack) -> Source | None:
    if Path(wanted).expanduser().is_file():
        return None
    uri = run_uri(wanted, settings)
    files = RunFiles(uri)
    outcome = read_outcome(uri)
    given = files.read(CONFIG)
    if outcome is None:
        if given is not None and "numbers" in given:
            raise SettingsError(f"run {wanted} is not finished; resume it to its end first")
        return None
    config = dict((given or {}).get("config", {}))
    kind = str(outcome["result"]).rpartition("/")[2]
    # not where the machine keeps what is temporary, which may be its memory
    temporary = stack.enter_context(staging(settings.state_dir / "export"))
    files.download(kind, temporary)
    shown = {"outcome": outcome, "config": config, "numbers": (given or {}).get("numbers", {})}
    name = str(config.get("name") or uri.rstrip("/").rpartition("/")[2])
    trained = str(config["model_name"])
    if kind != ADAPTER:
        return Source(name, trained, temporary, **shown)
    model = model_folder(trained, settings)
    index = settings.state_dir / "models" / "index"
    _check_digest(name, trained, weights_digest(model, index), outcome.get("model_digest"))
    check_fits(temporary, transformer_folder(model), trained)
    return Source(name, trained, model, temporary, **shown)


def _of_adapter(wanted: str, settings: Settings, base: str | None) -> Source | None:
    folder = Path(wanted).expanduser()
    record: PublishedAdapter | None = None
    if not (folder / ADAPTER_FILES[0]).is_file():
        newest = versions(settings.state_dir, wanted.rpartition(":")[2])[-1:]
        record = newest[0] if newest else None
        if record is None or (":" in wanted and wanted != record.model_id):
            return None
        if "://" in record.source:
            raise SettingsError(
                f"adapter {wanted} lies in {record.source}; name the run that it is of, or a copy "
                "of its folder"
            )
        folder = Path(record.source)
    said = read_object(folder / ADAPTER_FILES[0]).get("base_model_name_or_path")
    named = base or (record.base if record is not None else said)
    if not named:
        raise SettingsError(f"{folder} does not say what it is an adapter of; give --base MODEL")
    if named not in Catalog(settings.models) and not Path(named).expanduser().exists():
        raise SettingsError(
            f"{folder} is an adapter of {named}, which is not here; give --base MODEL: an id of "
            "the catalogue, a folder or a GGUF file"
        )
    model = model_folder(str(named), settings)
    if record is not None:
        index = settings.state_dir / "models" / "index"
        found = weights_digest(model_path(str(named), settings), index)
        _check_digest(wanted, str(named), found, record.base_digest)
    check_fits(folder, transformer_folder(model), str(named))
    return Source(folder.name if record is None else record.name, str(named), model, folder)


def _of_model(wanted: str, settings: Settings) -> Source:
    if wanted not in Catalog(settings.models) and not Path(wanted).expanduser().exists():
        raise SettingsError(
            f"{wanted!r} is no finished run in {settings.state_dir / 'train'}, no adapter and no "
            "model; name a run, a folder with peft's adapter_config.json, an id of the catalogue, "
            "a model's folder or a GGUF file"
        )
    return Source(Path(wanted).stem, wanted, model_folder(wanted, settings))


def _check_digest(name: str, base: str, found: str, trained_on: str | None) -> None:
    if trained_on is not None and found != trained_on:
        raise AdapterError(
            f"adapter {name} was trained on other weights than {base} has here (SHA-256 "
            f"{trained_on[:12]}... and {found[:12]}...); put those back, or train it again",
            code="adapter_of_other_base",
        )
