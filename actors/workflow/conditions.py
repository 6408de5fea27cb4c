"""Conditions of steps: a small language, parsed and never evaluated as Python.

    condition  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation   = "not" negation | comparison
    comparison = operand [ ("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in") operand ]
    operand    = "(" condition ")" | reference | number | string | list | "true" | "false" | "null"
    list       = "[" [ operand { "," operand } ] "]"

Only true, false and null (which counts as false) decide; anything else is compared first, so that
the text "false" never passes for true.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from actors.workflow.references import Reference, Scope, parse_reference
from actors.workflow.tasks import StepError

MAX_CHARACTERS = 2000
_MAX_DEPTH = 50
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<reference>\$\{[^{}]*\})
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<string>"(?:[^"\\]|\\.)*"|'[^'\\]*')
      | (?P<symbol>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
      | (?P<word>[A-Za-z]+)
    )""",
    re.VERBOSE,
)
_CONSTANTS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_Node = Callable[[Scope], Any]


class Condition:
    """A parsed condition.

    Args:
        text: As the grammar above says.

    Attributes:
        text: As it was written.
        references: What it looks at.

    Raises:
        ValueError: It cannot be read; the message says from where on.
    """

    __slots__ = ("_node", "references", "text")

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(
                f"the condition has {len(text)} characters, the most is {MAX_CHARACTERS}"
            )
        parser = _Parser(text)
        self.text = text
        self._node = parser.parse()
        self.references: tuple[Reference, ...] = tuple(parser.references)

    def holds(self, scope: Scope) -> bool:
        """Whether it is true.

        Raises:
            StepError: A reference has no value, or values cannot be compared.
        """
        return _decides(self._node(scope), self.text)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.references: list[Reference] = []
        self._depth = 0
        self._position = 0
        self._kind: str | None = None
        self._token = ""
        self._start = 0
        self._advance()

    def parse(self) -> _Node:
        node = self._or()
        if self._kind is not None:
            raise self._error("the end, `and` or `or`")
        return node

    def _advance(self) -> None:
        found = _TOKEN.match(self.text, self._position)
        if found is not None:
            self._kind, self._token = found.lastgroup, found.group(found.lastgroup or 0)
            self._start, self._position = found.start(found.lastgroup or 0), found.end()
            return
        self._kind, self._token, self._start = None, "", self._position
        if self.text[self._position :].strip():
            raise self._error("a value, a comparison or a parenthesis")

    def _error(self, expected: str) -> ValueError:
        rest = self.text[self._start :].strip()
        found = f"{rest!r}" if rest else "its end"
        return ValueError(f"the condition {self.text!r} has {found} where {expected} should stand")

    def _take(self, *tokens: str) -> bool:
        if self._kind in ("symbol", "word") and self._token in tokens:
            self._advance()
            return True
        return False

    def _or(self) -> _Node:
        nodes = [self._and()]
        while self._take("or"):
            nodes.append(self._and())
        text = self.text
        return nodes[0] if len(nodes) == 1 else lambda s: any(_decides(n(s), text) for n in nodes)

    def _and(self) -> _Node:
        nodes = [self._not()]
        while self._take("and"):
            nodes.append(self._not())
        text = self.text
        return nodes[0] if len(nodes) == 1 else lambda s: all(_decides(n(s), text) for n in nodes)

    def _not(self) -> _Node:
        negated = False
        while self._take("not"):
            negated = not negated
        node, text = self._comparison(), self.text
        return (lambda scope: not _decides(node(scope), text)) if negated else node

    def _comparison(self) -> _Node:
        left, sign = self._operand(), self._token
        if not self._take("==", "!=", *_ORDERED, "in", "not"):
            return left
        if sign == "not":
            if not self._take("in"):
                raise self._error("`in`")
            sign = "not in"
        right, text = self._operand(), self.text
        return lambda scope: _compare(sign, left(scope), right(scope), text)

    def _operand(self) -> _Node:
        kind, token = self._kind, self._token
        if token in ("(", "[") and kind == "symbol":
            return self._nested(token)
        if kind == "reference":
            reference = parse_reference(token[2:-1].strip())
            self.references.append(reference)
            self._advance()
            return lambda scope: scope.value(reference)
        value = self._constant(kind, token)
        self._advance()
        return lambda _scope: value

    def _constant(self, kind: str | None, token: str) -> Any:
        if kind == "string" and token[0] == "'":
            return token[1:-1]
        if kind in ("number", "string"):
            try:
                return json.loads(token, strict=False)
            except ValueError:
                raise self._error("a number or a text as JSON writes it") from None
        if kind == "word" and token in _CONSTANTS:
            return _CONSTANTS[token]
        raise self._error("a value (a reference, a number, a quoted text, true, false or null)")

    def _nested(self, opening: str) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError(f"the condition has more than {_MAX_DEPTH} brackets in each other")
        self._advance()
        if opening == "[":
            node = self._list()
        else:
            node = self._or()
            self._expect(")")
        self._depth -= 1
        return node

    def _list(self) -> _Node:
        nodes: list[_Node] = []
        while not self._take("]"):
            if nodes:
                self._expect(",")
            nodes.append(self._operand())
        return lambda scope: [node(scope) for node in nodes]

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self._error(f"`{token}`")


def _decides(value: Any, text: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _invalid(
        text, f"a {type(value).__name__} is neither true nor false: compare it with something"
    )


def _compare(sign: str, left: Any, right: Any, text: str) -> bool:
    if sign in ("==", "!="):
        return _equal(left, right) == (sign == "==")
    if sign in ("in", "not in"):
        return _contains(right, left, text) == (sign == "in")
    both_text = isinstance(left, str) and isinstance(right, str)
    if both_text or (_is_number(left) and _is_number(right)):
        return _ORDERED[sign](left, right)
    raise _invalid(
        text,
        f"a {type(left).__name__} and a {type(right).__name__} have no order: `{sign}` compares "
        "two numbers or two texts",
    )


def _equal(left: Any, right: Any) -> bool:
    # in Python True == 1, in JSON it is not
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _contains(container: Any, value: Any, text: str) -> bool:
    if isinstance(container, list):
        return any(_equal(value, element) for element in container)
    if isinstance(container, str | dict) and isinstance(value, str):
        return value in container
    kinds = f"a {type(value).__name__} in a {type(container).__name__}"
    raise _invalid(text, f"{kinds} cannot be looked for: `in` wants a list, a text or an object")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _invalid(text: str, why: str) -> StepError:
    return StepError("invalid", f"the condition {text!r} cannot be decided: {why}", retryable=False)
