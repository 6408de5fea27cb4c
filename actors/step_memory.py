"""Memory that the processes of function steps hold on this machine, by what they run.

Ray writes a task's name into the title of the process that runs it, and `STEP` begins those names.
"""

from __future__ import annotations

import contextlib

import psutil

STEP = "step:"
_TITLE = f"ray::{STEP}"
_BYTES_A_GB = 1_000_000_000


def held_by_steps() -> dict[str, float]:
    """Gigabytes that the processes of each function hold for themselves.

    Where titles cannot be read, nothing is found.
    """
    found: dict[str, float] = {}
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or ())
        if not title.startswith(_TITLE):
            continue
        target = title.removeprefix(_TITLE).strip().removesuffix("()")
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            told = process.memory_info()
            # results in Ray's store are mapped by whoever reads them; macOS does not tell
            own = told.rss - getattr(told, "shared", 0)
            found[target] = found.get(target, 0.0) + max(own, 0) / _BYTES_A_GB
    return found
