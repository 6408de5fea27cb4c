"""A test that lacks a program skips, and fails under CI."""

from __future__ import annotations

import pytest

from tests.requirements import need

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
