"""Checkpoints of one training in a folder that all nodes reach: numbered, and whole or not there.

training.json            what is trained: another training does not go on from here
iteration-000040/        as RLlib writes it
iteration-000040.done    written last: without it the folder before was not finished
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ironcliw.errors import SettingsError

TRAINING = "training.json"
KEPT = 2
_DONE = re.compile(r"^iteration-(\d{6})\.done$")
_FORMER = "checkpoint"


class Checkpoints:
    """Of a folder.

    Args:
        folder: A path, or a URI that all nodes reach; made where it is absent.
        training: What the training is, as JSON has it: equal values may go on from each other.

    Raises:
        SettingsError: the folder holds another training, or one of an earlier release.
    """

    def __init__(self, folder: str, training: Mapping[str, Any]) -> None:
        from pyarrow import fs

        self._uri = folder.rstrip("/") if "://" in folder else str(Path(folder).absolute())
        uri = self._uri if "://" in self._uri else Path(self._uri).as_uri()
        self._files, self._place = fs.FileSystem.from_uri(uri)
        self._kinds = fs.FileType
        self._begin(json.loads(json.dumps(training)))

    def _begin(self, training: dict[str, Any]) -> None:
        """Check whose folder it is, or make it this training's."""
        told = f"{self._place}/{TRAINING}"
        if self._kind(told) != self._kinds.File:
            if self._kind(f"{self._place}/{_FORMER}") == self._kinds.Directory:
                raise SettingsError(
                    f"{self._uri} holds a training of an earlier release, which did not say what "
                    "was trained; give another --folder"
                )
            self._files.create_dir(self._place, recursive=True)
            self._write(told, json.dumps(training, indent=1) + "\n")
            return
        with self._files.open_input_stream(told) as file:
            before = json.loads(file.read())
        names = sorted(set(training) | set(before))
        if changed := [name for name in names if training.get(name) != before.get(name)]:
            raise SettingsError(
                f"{self._uri} holds a training with other values of {', '.join(changed)}; give "
                "this one a --folder of its own, or the values of the other"
            )

    def newest(self) -> str | None:
        """Path or URI of the newest that was finished; None: there is none."""
        done = self._done()
        return None if not done else f"{self._uri}/{_name(done[-1])}"

    def save(self, iteration: int, write: Callable[[str], object]) -> None:
        """Keep one, and forget all but the newest.

        Args:
            iteration: Its number; one of that number that was not finished is replaced.
            write: Writes it to the path or URI that it is given.
        """
        name = _name(iteration)
        self._forget(name)
        write(f"{self._uri}/{name}")
        self._write(f"{self._place}/{name}.done", "")
        for old in self._done()[:-KEPT]:
            self._forget(_name(old))

    def _done(self) -> list[int]:
        from pyarrow import fs

        found = self._files.get_file_info(fs.FileSelector(self._place))
        return sorted(int(match[1]) for one in found if (match := _DONE.match(one.base_name)))

    def _forget(self, name: str) -> None:
        """The marker first: what is half deleted is not gone on from."""
        if self._kind(f"{self._place}/{name}.done") == self._kinds.File:
            self._files.delete_file(f"{self._place}/{name}.done")
        if self._kind(f"{self._place}/{name}") == self._kinds.Directory:
            self._files.delete_dir(f"{self._place}/{name}")

    def _kind(self, path: str) -> Any:
        return self._files.get_file_info(path).type

    def _write(self, path: str, text: str) -> None:
        with self._files.open_output_stream(path) as file:
            file.write(text.encode())


def _name(iteration: int) -> str:
    return f"iteration-{iteration:06}"
