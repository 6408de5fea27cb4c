"""A test that lacks a program skips, and fails under CI."""

from __future__ import annotations

import pytest

from tests import requirements
from tests.requirements import need, need_namespaces

REASON = "frobnicate was not found: apt-get install frobnicate"


@pytest.mark.parametrize("ci", ["", "true"])
def test_what_is_there_is_returned(ci: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    assert need("/usr/bin/env", REASON) == "/usr/bin/env"


def test_an_absent_program_skips_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"^{REASON}$"):
        need(None, REASON)


def test_an_absent_program_fails_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=f"^{REASON} .*no reason to skip"):
        need(None, REASON)


@pytest.mark.parametrize(("ci", "user"), [("", 0), ("true", 1000)])
def test_without_the_rights_a_namespace_test_skips(
    ci: str, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(requirements.os, "geteuid", lambda: user)
    monkeypatch.setattr(requirements, "why_unavailable", lambda: "namespaces need this")
    with pytest.raises(pytest.skip.Exception, match=r"^namespaces need this$"):
        need_namespaces()


def test_where_ci_is_root_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(requirements.os, "geteuid", lambda: 0)
    monkeypatch.setattr(requirements.sys, "platform", "linux")
    monkeypatch.setattr(requirements, "why_unavailable", lambda: "no program `ip`")
    with pytest.raises(pytest.fail.Exception, match=r"no program `ip`.*no reason to skip"):
        need_namespaces()


def test_with_the_rights_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "why_unavailable", lambda: None)
    need_namespaces()
