"""Copies of the code that agents were started with, so that a head that starts anew has it.

Ray keeps the working directory of a job in the memory of its control service, which ends with the
head; agents are to go on after it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import uuid
import zipfile
from pathlib import Path

from cluster.head import project_code
from cluster.head.project_code import ProjectCode
from ironcliw.durable import sync
from ironcliw.errors import ClusterError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"gcs://([A-Za-z0-9_][A-Za-z0-9_.-]{0,199})")


class CodeCopies:
    """A folder of archives, by the names that Ray gives them: those are made from the content.

    Args:
        folder: Made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._whole: set[Path] = set()  # that were read once and found to be so

    def touch(self, uri: str) -> None:
        """It is still needed; what was not touched for long may be removed."""
        if (path := self._path(uri)) is not None and path.exists():
            os.utime(path)

    def hold(self, uri: str) -> None:
        """Have Ray keep an archive; one that it lacks is given back to it. Blocking.

        Raises:
            ClusterError: Ray's control service did not take it.
            RuntimeError: It cannot be asked now.
        """
        path = self._path(uri)
        if project_code.exists(uri):
            project_code.hold(uri)
            if path is not None and not (path.exists() and self._is_whole(path)):
                self._save(uri, path)
        elif path is not None and path.exists() and self._is_whole(path):
            project_code.publish(ProjectCode(uri, path.read_bytes()))
            logger.info("the code %s of agents is given to the head again", uri)
        else:
            logger.error("the code %s of agents is gone; start them again from its folder", uri)
        self.touch(uri)

    def _save(self, uri: str, path: Path) -> None:
        data = project_code.fetch(uri)
        if data is None:  # it went in this very moment
            return
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            sync(draft)
            draft.replace(path)
            sync(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise ClusterError(
                f"the code of an agent cannot be kept in {path.parent}: {error}; without it the "
                "agent would not come back after `ironcliw down`"
            ) from error

    def _is_whole(self, path: Path) -> bool:
        """Whether a copy is what was written: an archive holds the checksums of its files."""
        if path in self._whole:
            return True
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        # boundary: what a damaged file makes the reader stumble over has many names
        except Exception as error:  # noqa: BLE001 - logged here
            damaged = str(error)
        if damaged is not None:
            logger.error("the copy %s of agents' code is damaged: %s", path, damaged)
            return False
        self._whole.add(path)
        return True

    def _path(self, uri: str) -> Path | None:
        """None: it is nothing that Ray's control service keeps."""
        found = _NAME.fullmatch(uri)
        return None if found is None else self._folder / found[1]
