"""Ray's session folder: private to its owner, and without what earlier runs left."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import time
from pathlib import Path

import psutil

from ironcliw.errors import SettingsError
from ironcliw.settings import Settings

logger = logging.getLogger(__name__)

_SESSION = re.compile(r"session_\d[\d_-]*")
# `ray start` makes its folder a moment before the first process that carries the folder's name.
_YOUNG_SECONDS = 60.0


def prepare_temp_folder(settings: Settings) -> None:
    """Make Ray's folder. One named in `cluster.temp_dir` is created, and else left as it is.

    Raises:
        SettingsError: somebody else could write into it, or it cannot be made.
    """
    folder = settings.ray_temp_dir
    if settings.cluster.temp_dir is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refusal(folder, f"cannot be created ({error.strerror})") from error
        return
    # Ray opens its own folder to everybody; nobody else gets through the one around it
    make_private(folder.parent)
    make_private(folder)
    remove_old_sessions(folder, time.time())


def make_private(folder: Path) -> None:
    """Create a folder that only its owner may enter, or close one of ours that is open.

    Raises:
        SettingsError: it is a link or a file, or belongs to another user.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise _refusal(folder, f"cannot be created ({error.strerror})") from error
    # not stat: in a folder that all may write, such as /tmp, anybody can put a link there first
    facts = folder.lstat()
    if stat.S_ISLNK(facts.st_mode) or not stat.S_ISDIR(facts.st_mode):
        raise _refusal(folder, "is a link or a file, not a folder")
    if facts.st_uid != os.getuid():
        raise _refusal(folder, f"belongs to user {facts.st_uid}, not to you ({os.getuid()})")
    if stat.S_IMODE(facts.st_mode) != 0o700:
        folder.chmod(0o700)


def remove_old_sessions(folder: Path, now: float) -> None:
    """Remove the session folders that no process belongs to.

    Args:
        folder: Ray's folder.
        now: Seconds since the epoch; a folder younger than a minute may be another head's that is
            just starting, and stays.
    """
    live = _live_sessions()
    for path in folder.glob("session_*"):
        facts = path.lstat()
        if not stat.S_ISDIR(facts.st_mode) or path.name in live:
            continue
        if now - facts.st_mtime < _YOUNG_SECONDS:
            continue
        try:
            shutil.rmtree(path)
        except OSError as error:
            logger.warning("the session folder %s of an earlier run stays: %s", path, error)


def _live_sessions() -> set[str]:
    """Names of sessions on the command lines of this machine: the GCS and the raylet have them."""
    names: set[str] = set()
    for process in psutil.process_iter(["cmdline"]):
        names.update(_SESSION.findall(" ".join(process.info["cmdline"] or ())))
    return names


def _refusal(folder: Path, fault: str) -> SettingsError:
    return SettingsError(
        f"Ray's folder {str(folder)!r} {fault}; remove it, or choose another one with "
        "IRONCLIW_CLUSTER__TEMP_DIR=PATH"
    )
