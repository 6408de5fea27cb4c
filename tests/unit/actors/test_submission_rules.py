"""What a head refuses of a definition before anything starts, and what it leaves for later."""

from __future__ import annotations

from typing import Any

import pytest

from actors import functions
from actors.submission_rules import SubmissionRules
from actors.workflow.definition import define
from ironcliw.actor_settings import ActorsSettings
from ironcliw.catalog import Catalog
from ironcliw.errors import RequestError

RULES = SubmissionRules(
    ActorsSettings(
        http_hosts=("api.example.com", "127.0.0.1:9000", "10.0.0.9"),
        http_private_hosts=("127.0.0.1:9000",),
    ),
    Catalog(),
)


def check(step: dict[str, Any], **more: Any) -> None:
    inputs = {"where": None, "model": None}
    RULES(define({"name": "w", "inputs": inputs, "steps": {"s": {**step, **more}}}))


def http(url: Any) -> dict[str, Any]:
    return {"http": {"url": url}}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://other.com/x", r"other\.com is not on the list .*actors\.http_hosts$"),
        ("https://other.com/${inputs.where}", r"other\.com is not on the list"),
        ("https://other.com?q=${inputs.where}", r"other\.com is not on the list"),
        ("https://api.example.com:1/", r"api\.example\.com:1 is not on the list"),
        (
            "http://169.254.169.254/latest",
            ".254 is a link-local address .*whatever the lists say$",
        ),
        ("http://10.0.0.9/", "10.0.0.9 is not a public address; .*http_private_hosts"),
        ("http://2130706433:9001/", "adds it to actors.http_hosts and, .*http_private_hosts$"),
        ("http://$${x}/", "is not on the list|malformed"),
        ("ftp://api.example.com/", "must read http"),
    ],
)
def test_a_host_that_no_step_may_ask_is_refused_at_once(url: str, message: str) -> None:
    with pytest.raises(RequestError, match=rf"^step 's', field `http.url`: .*{message}") as caught:
        check(http(url))
    assert caught.value.param == "steps.s.http.url"


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1",
        "http://127.0.0.1:9000/${inputs.where}",
        # nobody knows yet
        "${inputs.where}",
        "https://${inputs.where}/v1",
        "https://other.com${inputs.where}",
        "${inputs.where}://other.com/",
    ],
)
def test_one_that_it_may_ask_or_that_is_not_known_yet_is_not(url: str) -> None:
    check(http(url))


@pytest.mark.parametrize(
    "call",
    [
        {"generate": {"model": "gpt-9", "prompt": "x"}},
        {"embed": {"model": "gpt-9:tuned", "input": "x"}},
        {"decide": {"model": "gpt-9", "input": "x", "labels": ["a"]}},
    ],
)
def test_a_model_that_nobody_has_is_refused_at_once(call: dict[str, Any]) -> None:
    [kind] = call
    message = f"field `{kind}.model`: no model 'gpt-9'; known models: all-MiniLM-L6-v2, "
    with pytest.raises(RequestError, match=message) as caught:
        check(call)
    assert caught.value.param == f"steps.s.{kind}.model"


@pytest.mark.parametrize(
    "model", ["SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct:tonight", "${inputs.model}", None]
)
def test_one_that_there_is_or_may_be_by_then_is_not(model: str | None) -> None:
    check({"generate": {"prompt": "x"} | ({} if model is None else {"model": model})})


def test_what_undoes_a_step_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_registered", {})
    with pytest.raises(RequestError, match=r"field `compensate\.http\.url`: .*not on the list"):
        check({"embed": {"input": "x"}}, compensate=http("https://other.com/"))
    with pytest.raises(RequestError, match="no function is registered as 'f'"):
        check({"function": "f"})
