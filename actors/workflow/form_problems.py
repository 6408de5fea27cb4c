"""What pydantic says of a definition, in the words of whoever wrote it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ironcliw.errors import RequestError
from ironcliw.schemas.workflows import (
    AgentForm,
    CallForm,
    InputForm,
    RetryForm,
    StepForm,
    WorkflowForm,
)

Location = tuple[int | str, ...]

_SHOWN = 5
_EXPECTED = {
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "an object (names with values)",
    "model_type": "an object (names with values)",
    "model_attributes_type": "an object (names with values)",
}
_SENTENCES = {
    "missing": "it is required",
    "string_pattern_mismatch": "a name has letters, digits, `_` and `-`, 64 at most, and begins "
    "with a letter or `_`",
}
# fields of several types, behind whose names pydantic puts that of the type which it tried
_OF_SEVERAL_TYPES = frozenset({"agent", "when", "for_each"})
_TYPES = frozenset({"str", "bool", "list[any]", "AgentForm"})
_OF_AGENTS = frozenset({"wait_seconds", "strategy"})  # often looked for a level higher
_NEAR = 0.8


def as_request_error(error: ValidationError) -> RequestError:
    """All that is wrong with the fields of a definition, the first few in words."""
    found = _by_place(error.errors(include_url=False))
    lines = [_line(place, same) for place, same in list(found.items())[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"and {len(found) - _SHOWN} more")
    return RequestError(
        "the definition cannot be used: " + "; ".join(lines),
        param=".".join(map(str, next(iter(found)))) or "definition",
    )


def _by_place(errors: Sequence[Any]) -> Mapping[Location, list[Any]]:
    """Errors by their fields; of a field of several types those of the type that was meant."""
    found: dict[Location, list[Any]] = {}
    for each in errors:
        found.setdefault(_place(each["loc"]), []).append(each)
    # a value of the wrong type has nothing inside: where something is, another type was meant
    around = {place[:length] for place in found for length in range(len(place))}
    return {place: same for place, same in found.items() if place not in around}


def _place(location: Location) -> Location:
    kept: list[int | str] = []
    for part in location:
        is_type = part in _TYPES and bool(kept) and kept[-1] in _OF_SEVERAL_TYPES
        if not is_type and part != "[key]":
            kept.append(part)
    return tuple(kept)


def _line(place: Location, same: Sequence[Any]) -> str:
    what = _what_is_wrong(place, same)
    if place[:1] == ("steps",) and len(place) > 1:
        rest = ".".join(map(str, place[2:]))
        return f"step {place[1]!r}" + (f", field `{rest}`" if rest else "") + f": {what}"
    return f"field `{'.'.join(map(str, place))}`: {what}"


def _what_is_wrong(place: Location, same: Sequence[Any]) -> str:
    expected = [_EXPECTED[each["type"]] for each in same if each["type"] in _EXPECTED]
    if expected:
        return " or ".join(dict.fromkeys(expected)) + " is expected"
    first = same[0]
    if first["type"] == "extra_forbidden":
        return _unknown(str(place[-1]), _form_of(place[:-1]))
    message: str = first["msg"]
    return _SENTENCES.get(first["type"]) or message[:1].lower() + message[1:]


def _unknown(field: str, form: type[BaseModel]) -> str:
    known = [one.alias or name for name, one in form.model_fields.items()]
    near = difflib.get_close_matches(field, known, n=1, cutoff=_NEAR)
    advice = f"; did you mean `{near[0]}`" if near else ""
    if issubclass(form, CallForm) and field in _OF_AGENTS:
        advice = f"; write agent: {{capability: NAME, {field}: ...}}"
    return f"there is no such field{advice}; there are {', '.join(known)}"


def _form_of(place: Location) -> type[BaseModel]:
    """What stands at a place."""
    match place:
        case ("inputs", _):
            return InputForm
        case ("steps", _):
            return StepForm
        case (*_, "retry"):
            return RetryForm
        case (*_, "agent"):
            return AgentForm
        case (*_, "compensate"):
            return CallForm
    return WorkflowForm
