"""From pydantic's errors to one error in the words of who wrote the request.

One fault is told: where it stands (`messages[0].role`, as OpenAI's own errors name a field), the
rule that it breaks and what was given. The same for a body over HTTP and for fields in process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo

from ironcliw.errors import RequestError
from ironcliw.schemas import EmbeddingRequest
from ironcliw.schemas.generation import CompletionRequest

FormT = TypeVar("FormT", bound=BaseModel)

_TEXTS_OR_TOKENS = frozenset({(EmbeddingRequest, "input"), (CompletionRequest, "prompt")})
_BRANCHES = frozenset({"str", "constrained-str", "bool", "int", "float"})
"""Members of unions, whose names pydantic puts behind those of the fields."""

_KINDS = {
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "bool_type": "a boolean",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
}


class _Candidate(NamedTuple):
    """A form that may stand at a place, and the tags that choose it among others."""

    form: type[BaseModel]
    tags: tuple[str, ...]


class _Place(NamedTuple):
    """Where an error is: its path, and the forms that may stand there."""

    path: str
    candidates: tuple[_Candidate, ...]


def parse_form(body: bytes, form: type[FormT]) -> FormT:
    """The JSON of a request as that form.

    Raises:
        RequestError: it is not; `param` is the path of the first fault, as `questions[0].choices`.
    """
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        raise explain(error, form) from None


def explain(error: ValidationError, form: type[BaseModel]) -> RequestError:
    """What to tell the client: the first fault, its field, what was given and what is allowed."""
    errors = error.errors(include_url=False)
    first = _telling(errors)
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON in UTF-8: {first['msg']}", code="bad_json")
    place = _find(form, first["loc"])
    param = place.path or None
    if first["type"] == "extra_forbidden":
        known = ", ".join(_find(form, first["loc"][:-1]).candidates[0].form.model_fields)
        return RequestError(
            f"unknown field {_short(place.path)}; known fields: {known}",
            param=param,
            code="unknown_field",
        )
    if first["type"] == "missing":
        return RequestError(
            f"the field {place.path!r} is required", param=param, code="missing_field"
        )
    if first["type"].startswith("union_tag"):
        return _wrong_type(first, place)
    field = first["loc"][0] if first["loc"] else ""
    if (form, field) in _TEXTS_OR_TOKENS:
        return RequestError(
            f"{field} must be a string, a list of strings, a list of token ids, or a list of lists "
            f"of token ids; given: {_short(first['input'])}",
            param=str(field),
        )
    same = [one for one in errors if _find(form, one["loc"]).path == place.path]
    return RequestError(
        f"{place.path or 'the body'} {_rule(first, same)}; given: {_short(first['input'])}",
        param=param,
    )


def _telling(errors: Sequence[Any]) -> Any:
    """The first error; where it says that a list is no text, what is wrong inside the list."""
    first = errors[0]
    if not first["loc"] or first["loc"][-1] not in _BRANCHES:
        return first
    field = first["loc"][:-1]
    same = [error for error in errors if error["loc"][: len(field)] == field]
    return max(same, key=lambda error: len(error["loc"]))


def _wrong_type(error: Any, place: _Place) -> RequestError:
    """The `type` that tells a form from its neighbours is unknown, or left out."""
    param = f"{place.path}.type"
    *tags, last = [repr(tag) for one in place.candidates for tag in _types(one.form)]
    known = f"{', '.join(tags)} or {last}"
    if error["type"] == "union_tag_not_found":
        return RequestError(
            f"the field {param!r} is required; give {known}", param=param, code="missing_field"
        )
    return RequestError(f"{param} must be {known}; given: {error['ctx']['tag']!r:.80}", param=param)


def _rule(error: Any, same: Sequence[Any]) -> str:
    """What the value must be; `same` are the errors of all members of a union."""
    if error["type"] in _KINDS:
        kinds = dict.fromkeys(_KINDS[one["type"]] for one in same if one["type"] in _KINDS)
        return f"must be {' or '.join(kinds)}"
    if error["type"] in {"too_short", "too_long"}:
        word, key = ("least", "min") if error["type"] == "too_short" else ("most", "max")
        limit = error["ctx"][f"{key}_length"]
        return f"must have at {word} {limit} item{'s' if limit != 1 else ''}"
    message: str = error["msg"]
    for start in ("Input should", "String should", "Value should"):
        message = message.replace(start, "must", 1)
    return message


def _find(form: type[BaseModel], location: Sequence[int | str]) -> _Place:
    """Follow an error's location, in which pydantic mixes fields with members of unions."""
    path = ""
    candidates: tuple[_Candidate, ...] = (_Candidate(form, ()),)
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        chosen = tuple(one for one in candidates if part in one.tags)
        if "[" in part or (part in _BRANCHES and not any(part in _fields(c) for c in candidates)):
            continue
        if chosen and len(candidates) > 1:
            candidates = chosen[:1]
            continue
        path += f".{part}" if path else part
        field = _fields(candidates[0]).get(part) if len(candidates) == 1 else None
        candidates = tuple(dict.fromkeys(_forms(field.annotation))) if field else ()
    return _Place(path, candidates)


def _fields(candidate: _Candidate) -> dict[str, FieldInfo]:
    return candidate.form.model_fields


def _forms(annotation: Any, tags: tuple[str, ...] = ()) -> Iterator[_Candidate]:
    """The forms in an annotation, however deep in unions and lists."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        named = tuple(item.tag for item in metadata if isinstance(item, Tag))
        yield from _forms(inner, named or tags)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield _Candidate(annotation, tags or _types(annotation))
    else:
        for argument in get_args(annotation):
            yield from _forms(argument, tags)


def _types(form: type[BaseModel]) -> tuple[str, ...]:
    """The values of a form's `type`."""
    field = form.model_fields.get("type")
    arguments = get_args(field.annotation) if field else ()
    return tuple(text for text in arguments if isinstance(text, str))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
