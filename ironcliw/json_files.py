"""JSON files of a model's folder."""

from __future__ import annotations

import json
import os
import tempfile
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


def json_or_none(file: Path) -> dict[str, Any] | None:
    """The object that a file of our own holds; None where it is absent or damaged."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def replace_json(file: Path, content: dict[str, Any]) -> None:
    """Write beside the file and put it in place at the end: nobody sees half of it."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name, suffix=".partial")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)  # gone already where all went well
