"""From a name or a path to an entry of the catalogue."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import ModelLoadError
from ironcliw.json_files import read_object
from ironcliw.setting_sections import ModelSettings
from ironcliw.settings import Settings

_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9._-]+")
_GENERATING_CLASSES = ("CausalLM", "LMHeadModel")


def with_model(
    settings: Settings, name_or_path: str | Path, quantization: str | None
) -> tuple[Settings, ModelCard]:
    """Settings in which the model is an entry of its own, quantised as wanted.

    Raises:
        ModelNotFoundError: neither an id of the catalogue nor a path.
        ModelLoadError: the path is no model.
    """
    catalog = Catalog.of(settings)
    change: dict[str, Any] = {"quantization": quantization} if quantization else {}
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in catalog:
        model_id = str(name_or_path)
    elif path.exists() or isinstance(name_or_path, Path) or _looks_like_a_path(str(name_or_path)):
        model_id = _id_of(path, catalog)
        change |= {"source": f"dir:{path.absolute()}", "task": _task_of(path)}
    else:
        model_id = catalog[str(name_or_path)].id  # names the known models
    changed = model_id.partition(":")[0]  # of a model under an adapter, the base
    before = settings.models.get(changed, ModelSettings())
    models = {**settings.models, changed: before.model_copy(update=change)}
    settings = settings.model_copy(update={"models": models})
    return settings, Catalog.of(settings)[model_id]


def _looks_like_a_path(name: str) -> bool:
    return "/" in name or name.endswith(".gguf")


def _id_of(path: Path, catalog: Catalog) -> str:
    """A model id from a path's name that no other model has."""
    stem = path.stem if path.suffix == ".gguf" else path.absolute().name
    name = _NOT_IN_AN_ID.sub("-", stem).lstrip("._-")[:100] or "model"
    return f"local-{name}" if name in catalog else name


def _task_of(path: Path) -> str:
    if path.suffix == ".gguf" and path.is_file():
        return "generation"
    if not path.exists():
        raise ModelLoadError(
            f"{path} does not exist; give a folder, a GGUF file, or an id of `ironcliw models`",
            code="model_file_absent",
        )
    if not path.is_dir():
        raise ModelLoadError(
            f"{path} is no folder and no GGUF file; give a folder as transformers' save_pretrained "
            "writes it, a file that ends in .gguf, or an id of `ironcliw models`"
        )
    config = read_object(path / "config.json")
    if "vision_config" in config:
        return "vision"
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    classes = [str(name) for name in config.get("architectures") or ()]
    if classes and not any(name.endswith(_GENERATING_CLASSES) for name in classes):
        raise ModelLoadError(
            f"{path / 'config.json'} is of {', '.join(classes)}, which generates no text; give a "
            "causal model or a sequence-to-sequence one"
        )
    return "generation"
