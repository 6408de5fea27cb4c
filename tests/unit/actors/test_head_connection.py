"""Commands that need the head say so where it is not there."""

from __future__ import annotations

import pytest

from actors.head_connection import connection
from ironcliw.errors import NotRunningError
from ironcliw.settings import load_settings


def test_no_head_runs() -> None:
    with pytest.raises(NotRunningError, match=r"no head runs for .*; start it with `ironcliw up`"):
        with connection(load_settings()):
            raise AssertionError("unreachable")
