"""Objects of the layers above, named in the settings and loaded by name."""

from __future__ import annotations

import importlib
from typing import Any

from ironcliw.errors import SettingsError


def load_by_name(name: str) -> Any:
    """The object that `package.module:attribute` names.

    Raises:
        SettingsError: it does not exist.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"{name!r} cannot be loaded: {error}") from error
