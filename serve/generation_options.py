"""The options of `generate` and their like, as fields of a request.

`PrimeModel` and `TransformerManager` take the names of the HTTP interface and those that
transformers made usual; both become the same request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ironcliw.client import GenerationOptions
from ironcliw.errors import RequestError
from serve.form_errors import explain

FormT = TypeVar("FormT", bound=BaseModel)

DEFAULT_MAX_TOKENS = 256
"""Where none are asked for. The interface's own defaults are 16 tokens, or the whole context."""

NO_CHAT_TEMPLATE = "no_chat_template"
Message = Mapping[str, Any]

_LENGTHS = ("max_tokens", "max_new_tokens", "max_length")
_KNOWN = (set(GenerationOptions.__annotations__) - {"n"}) | {*_LENGTHS, "do_sample"}


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What a model is asked.

    Attributes:
        messages: A conversation; None: go on with `text`.
        text: What to go on with; None: a conversation of the caller's own, or with a system
            message, which only a chat template can express.
    """

    messages: list[dict[str, Any]] | None
    text: str | None

    @classmethod
    def of(cls, prompt: str | Sequence[Message], *, raw: bool, system: str | None) -> Wanted:
        """Read a prompt: a text as one message of the user, or messages.

        Raises:
            RequestError: `raw` goes with messages or a system message.
        """
        if raw and (system is not None or not isinstance(prompt, str)):
            raise RequestError(
                "raw goes on with one text as it is; messages and system need a chat template",
                param="raw",
            )
        if isinstance(prompt, str):
            if raw:
                return cls(None, prompt)
            said: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
        else:
            said = [dict(message) for message in prompt]
        if system is not None:
            return cls([{"role": "system", "content": system}, *said], None)
        return cls(said, prompt if isinstance(prompt, str) else None)

    def may_complete(self, error: RequestError) -> bool:
        """Whether to go on with the text instead: the model has no chat template."""
        return error.code == NO_CHAT_TEMPLATE and self.text is not None


def request_fields(options: Mapping[str, Any], context: int) -> dict[str, Any]:
    """Fields of a generation request.

    Args:
        options: Those of `ironcliw.client.GenerationOptions` but `n`, and of transformers:
            `max_new_tokens` and `max_length` are other names of `max_tokens`, the most tokens of
            the answer alone; `do_sample=False` takes the likeliest token each time, `True` draws
            at the given temperature.
        context: Most tokens that the model holds; 0: not known.

    Raises:
        RequestError: an option is not known, or contradicts another.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in _KNOWN:
            raise RequestError(
                f"{name!r} is no option; known ones: {', '.join(sorted(_KNOWN))}", param=name
            )
    _set_length(given, context)
    _set_temperature(given)
    return given


def checked(form: type[FormT], fields: Mapping[str, Any]) -> FormT:
    """A request in process.

    Raises:
        RequestError: a field breaks the form's rules; `param` names it.
    """
    try:
        return form(**fields)
    except ValidationError as error:
        raise explain(error, form) from None


def _set_length(given: dict[str, Any], context: int) -> None:
    lengths = [name for name in _LENGTHS if name in given]
    if len(lengths) > 1:
        raise RequestError(
            f"{' and '.join(lengths)} are names of one option; give one of them", param=lengths[1]
        )
    default = min(DEFAULT_MAX_TOKENS, context or DEFAULT_MAX_TOKENS)
    given["max_tokens"] = given.pop(lengths[0]) if lengths else default


def _set_temperature(given: dict[str, Any]) -> None:
    do_sample = given.pop("do_sample", None)
    if do_sample is None:
        return
    if not isinstance(do_sample, bool):
        raise RequestError(f"do_sample is {do_sample!r}; give True or False", param="do_sample")
    if not do_sample:
        given["temperature"] = 0.0
    elif given.get("temperature") == 0:
        raise RequestError(
            "do_sample is True and temperature is 0, at which nothing is drawn; give a temperature "
            "above 0, or do_sample=False",
            param="temperature",
        )
