"""Command lines run in this process."""

from __future__ import annotations

import pytest

from ironcliw.cli import main


def run(*words: str) -> int:
    """Run a command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0)
