"""Whole paths: a run's workers have another working directory than who begins it."""

from __future__ import annotations

import os
from pathlib import Path

from ironcliw.catalog import Catalog
from ironcliw.settings import Settings
from train.config import TrainingConfig


def whole_uri(uri: str) -> str:
    """A folder by its whole path, a URI as it is; neither with a slash at its end."""
    # links stay: a run may be named after one
    return uri.rstrip("/") if "://" in uri else os.path.abspath(Path(uri).expanduser())


def whole_model(name: str, settings: Settings) -> str:
    """A model's folder or file by its whole path; an id, or what is not there, as it is."""
    is_path = name not in Catalog(settings.models) and Path(name).expanduser().exists()
    return whole_uri(name) if is_path else name


def with_whole_paths(config: TrainingConfig, settings: Settings) -> TrainingConfig:
    """The same run, whose paths mean the same in every process.

    Args:
        config: Of a run, with paths from the working directory of this process.
        settings: Of which the catalogue counts here.
    """
    data, preference = config.data, config.preference
    template = data.chat_template
    if template is not None and template.endswith(".jinja"):  # else it is the text itself
        data = data.model_copy(update={"chat_template": whole_uri(template)})
    if preference is not None and preference.reference_cache:
        cache = whole_uri(preference.reference_cache)
        preference = preference.model_copy(update={"reference_cache": cache})
    model = whole_model(config.model_name, settings)
    return config.model_copy(update={"model_name": model, "data": data, "preference": preference})
