"""What a machine that never joined wrote last on its serial console, for an event."""

from __future__ import annotations

import re
from collections.abc import Sequence

READ_BYTES = 16_384
"""From the end of the console: a guest that powers itself off writes some 5 KB after its reason."""
_LINES = 4
_LINE_LENGTH = 160
# lines of `cluster/vm/startup.sh` and of the agent, and what GCE puts before those of a script
_OURS = re.compile(r"ironcliw|startup-script|cluster\.vm\.agent")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e]")
_PREFIX = re.compile(r".*startup-script(?:\[\d+\])?: ")
# The script prints no secret, and a test of it looks (tests/unit/cluster/vm/test_secrets.py). But
# programs that it runs print what they like, and an event is kept for long and shown to people:
# keys of Tailscale, bearers, keys of WireGuard, and any long word of hexadecimal digits go.
_SECRETS = re.compile(
    r"tskey-[\w-]+|(?<=[Bb]earer )\S+|[A-Za-z0-9+/]{43}=|\b[0-9a-fA-F]{24,}\b|ya29\.[\w.-]+"
)


def last_words(console: str, secrets: Sequence[str] = ()) -> str:
    """The last lines of a console that say something; empty where there are none.

    Those of the startup script and the agent are preferred: behind them comes what the system says
    while it powers off.

    Args:
        console: The end of it; the first line may be cut off.
        secrets: Words that must not be told, whatever they look like.
    """
    for secret in filter(None, secrets):
        console = console.replace(secret, "***")
    lines = [_SECRETS.sub("***", _ESCAPES.sub("", line)).strip() for line in console.splitlines()]
    said = [line for line in lines if line]
    ours = [_PREFIX.sub("", line) for line in said if _OURS.search(line)]
    return " | ".join(line[:_LINE_LENGTH] for line in (ours or said)[-_LINES:])
