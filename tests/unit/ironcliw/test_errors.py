"""The error tree: its place in the documentation, its wire form, its way between processes."""

from __future__ import annotations

import pickle
import re

import pytest

from ironcliw import errors
from ironcliw.errors import IroncliwError, OverloadedError, UnavailableError

CLASSES = [
    value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, IroncliwError) and not name.startswith("_")
]


@pytest.mark.parametrize("cls", CLASSES)
def test_pickling_keeps_everything(cls: type[IroncliwError]) -> None:
    retry = {"retry_after": 2.5} if issubclass(cls, OverloadedError | UnavailableError) else {}
    error = cls("what was given", param="input", code="special", **retry)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert vars(copy) == vars(error)
    assert str(copy) == "what was given"


@pytest.mark.parametrize("cls", CLASSES)
def test_body_and_drawing(cls: type[IroncliwError]) -> None:
    error = cls("no")
    body = error.body()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert (body["message"], body["code"]) == ("no", cls.default_code)
    drawn = re.search(rf"\b{cls.__name__}\b.*", errors.__doc__ or "")
    assert drawn, "the tree at the top of the file shows every class"
    if cls.status != 500:
        assert str(cls.status) in drawn[0]


def test_users_errors_are_value_errors() -> None:
    assert issubclass(errors.RequestError, ValueError)
    assert issubclass(errors.SettingsError, ValueError)


@pytest.mark.parametrize("cls", [OverloadedError, UnavailableError, errors.MemoryBudgetError])
@pytest.mark.parametrize(
    ("seconds", "whole", "milliseconds"), [(0.0, "1", "1"), (0.25, "1", "250"), (2.1, "3", "2100")]
)
def test_retry_headers(
    cls: type[OverloadedError], seconds: float, whole: str, milliseconds: str
) -> None:
    headers = cls("busy", retry_after=seconds).headers()
    assert headers == {"retry-after": whole, "retry-after-ms": milliseconds}


def test_a_401_names_the_scheme() -> None:
    assert errors.AuthenticationError("who?").headers() == {"www-authenticate": "Bearer"}
    assert errors.NotFoundError("where?").headers() == {}
