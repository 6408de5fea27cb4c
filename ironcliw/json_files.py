"""JSON files of a model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ironcliw.errors import ModelLoadError


def read_json(path: Path) -> Any:
    """The parsed file; raises ModelLoadError naming it when it is absent or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelLoadError(
            f"{path} is absent; copy the whole model folder again", code="model_file_absent"
        ) from error
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # json.JSONDecodeError and UnicodeDecodeError
        raise ModelLoadError(f"{path} is not JSON ({error}); download it again") from error


def read_object(path: Path) -> dict[str, Any]:
    """As read_json, for files that must hold an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelLoadError(
            f"{path} holds a {type(value).__name__}, not an object; download it again"
        )
    return value


def optional_object(path: Path) -> dict[str, Any]:
    """As read_object; an absent file is an empty object."""
    return read_object(path) if path.exists() else {}
