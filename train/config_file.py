"""A configuration from a YAML file, for any model of pydantic's, with messages that help."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ironcliw.errors import SettingsError
from ironcliw.problems import follows, nearest, what_is_wrong

Model = TypeVar("Model", bound=BaseModel)


def read_mapping(
    path: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    source: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The keys of a YAML file, with single ones changed.

    Args:
        path: The file.
        changes: Dotted key to value, as `--set data.max_length=512` gives them.
        source: What the file is called in messages; None: its path.
        defaults: Values of keys that the file does not have, or leaves empty.

    Raises:
        SettingsError: the file is absent, no YAML or no mapping.
    """
    called = source or str(path)
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{called}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{called} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise SettingsError(f"{called} holds {_kind(given)}; keys and values are expected")
    empty = {key: value for key, value in (defaults or {}).items() if given.get(key) is None}
    given |= empty
    for key, value in (changes or {}).items():
        put(given, key, value)
    return given


def validated(model: type[Model], given: Mapping[str, Any], called: str) -> Model:
    """The configuration that a mapping describes.

    Raises:
        SettingsError: a key or value is wrong; the message names all that are.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = [dict(item) for item in error.errors() if not follows(item)]
        raise SettingsError("\n".join([f"{called}:", *_lines(model, wrong)])) from error


def put(given: dict[str, Any], key: str, value: Any) -> None:
    """Change one key in place; a dot leads into a section.

    Raises:
        SettingsError: what is before a dot is no section.
    """
    *outer, last = key.split(".")
    inner: Any = given
    for name in outer:
        if inner.get(name) is None:
            inner[name] = {}
        inner = inner[name]
        if not isinstance(inner, dict):
            raise SettingsError(f"--set {key}: {name} is no section")
    inner[last] = value


def _lines(model: type[BaseModel], wrong: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong, a line each."""
    told: set[Any] = set()
    for item in wrong:
        known, section = _known(model, item), item["loc"][:-1]
        if item["type"] == "extra_forbidden" and nearest(str(item["loc"][-1]), known) is None:
            # a file of another kind has many of them: what is known is told with the first
            known = () if section in told else known
            told.add(section)
        yield f"  {_key(item)}{what_is_wrong(item, known)}{_given(item)}"


def _key(item: Mapping[str, Any]) -> str:
    """Which key is wrong; nothing where several do not fit together."""
    return f"{'.'.join(map(str, item['loc']))}: " if item["loc"] else ""


def _given(item: Mapping[str, Any]) -> str:
    plain = isinstance(item["input"], str | int | float | bool)
    return f" (given: {json.dumps(item['input'])})" if plain else ""


def _known(whole: type[BaseModel], item: Mapping[str, Any]) -> Sequence[str]:
    """The keys of the section that an unknown key stands in."""
    model: Any = whole
    for name in item["loc"][:-1]:
        if isinstance(name, int):
            continue  # a place in a list, whose sections are all of one kind
        field = model.model_fields.get(name)
        model = None if field is None else _section(field.annotation)
        if model is None:
            return ()
    return list(model.model_fields)


def _section(annotation: Any) -> Any:
    """The model inside of an annotation, as in `Section | None` or `tuple[Section, ...]`."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for kind in get_args(annotation) if (found := _section(kind))), None)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
