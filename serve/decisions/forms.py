"""Bodies of decision requests to forms, with a shortcut for known questions.

A question with twenty labels takes longer to check than to answer, and an assistant sends the same
ones with every text: questions that were read before are recognised by their bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import orjson
from pydantic import ValidationError

from ironcliw.schemas.decisions import DecisionRequest
from serve.decisions.questions import Question, read_questions
from serve.form_errors import explain, parse_form

_MOST_KNOWN = 256
_MOST_KEY_BYTES = 65_536
# What was read takes tens of times the bytes that it was read from.
_MOST_KNOWN_BYTES = 1_048_576


class DecisionForms:
    """Reads bodies of `POST /v1/decisions`; keeps the questions it has read, by content."""

    def __init__(self) -> None:
        # forms are kept beside what was read from them: pydantic takes them as they are
        self._known: OrderedDict[bytes, tuple[list[Any], tuple[Question, ...]]] = OrderedDict()
        self._known_bytes = 0

    def read(self, body: bytes) -> tuple[DecisionRequest, tuple[Question, ...]]:
        """The request and its questions.

        Raises:
            RequestError: the body breaks a rule; `param` is the path of the first fault.
        """
        data, key = _peek(body)
        known = None if key is None else self._known.get(key)
        if known is None:
            request = parse_form(body, DecisionRequest)
            questions = read_questions(request)
            if key is not None:
                self._keep(key, (request.questions, questions))
            return request, questions
        assert key is not None
        self._known.move_to_end(key)
        try:
            return DecisionRequest.model_validate({**data, "questions": known[0]}), known[1]
        except ValidationError as error:
            raise explain(error, DecisionRequest) from None

    def _keep(self, key: bytes, entry: tuple[list[Any], tuple[Question, ...]]) -> None:
        self._known[key] = entry
        self._known_bytes += len(key)
        while len(self._known) > _MOST_KNOWN or self._known_bytes > _MOST_KNOWN_BYTES:
            self._known_bytes -= len(self._known.popitem(last=False)[0])


def _peek(body: bytes) -> tuple[dict[str, Any], bytes | None]:
    """The body's fields and the key of its questions; None where there is nothing to look up."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}, None  # the form says what is wrong with it
    if not isinstance(data, dict) or not isinstance(data.get("questions"), list):
        return {}, None
    try:
        key = orjson.dumps(data["questions"])
    except orjson.JSONEncodeError:  # nested deeper than orjson writes
        return {}, None
    return data, key if len(key) <= _MOST_KEY_BYTES else None
