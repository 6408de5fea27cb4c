"""What a run keeps beside its checkpoints, in a folder or a bucket.

checkpoints/    see `train.checkpoint`
config.json     the configuration that the run was begun with
attempts.json   how often it was started without getting further
outcome.json    how it ended: finished, or failed and why
reference/      of a run on preferences: log-probabilities of the model before training
log.jsonl       of a finished run: a line for each step
evaluation.*    of a finished run: what was measured, as JSON and as a page
adapter/        of a finished run: the adapter in peft's format
model/          of a finished run without adapters: the model
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import fsspec

from ironcliw.errors import CheckpointError
from ironcliw.settings import Settings

CHECKPOINTS = "checkpoints"
ADAPTER, MODEL = "adapter", "model"
REFERENCE, HELD_OUT_REFERENCE = "reference", "held-out-reference"
CONFIG, ATTEMPTS, OUTCOME = "config.json", "attempts.json", "outcome.json"
LOG = "log.jsonl"
EVALUATION, EVALUATION_PAGE = "evaluation.json", "evaluation.md"


def run_uri(run: str, settings: Settings) -> str:
    """Of a run's folder, from its name or from that URI itself."""
    return run if "/" in run else str(settings.state_dir / "train" / run)


class RunFiles:
    """Small files of a run.

    Args:
        uri: A folder, or a URI that fsspec knows.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._files, self._root = fsspec.url_to_fs(self.uri)

    def path(self, name: str) -> str:
        """URI of a file or folder of the run."""
        return f"{self.uri}/{name}"

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file; None where it is not there.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            return dict(json.loads(self._files.cat_file(f"{self._root}/{name}")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.path(name)} cannot be read ({error}); see the storage, or remove the file"
            ) from error

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_text(name, json.dumps(values, indent=2))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all.

        Raises:
            CheckpointError: it cannot be written.
        """
        target = f"{self._root}/{name}"
        try:
            self._files.makedirs(self._root, exist_ok=True)
            if self.is_local:
                # an object in a bucket appears whole; a file does when it is renamed
                # its own name: several workers may have the same to say at the same time
                new = Path(f"{target}.{secrets.token_hex(4)}.new")
                new.write_text(text, encoding="utf-8")
                new.replace(target)
            else:
                self._files.pipe_file(target, text.encode())
        except OSError as error:
            raise self._unwritable(name, error) from error

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._files.rm_file(f"{self._root}/{name}")

    def upload(self, folder: Path, name: str) -> None:
        """Copy a local folder's files into the run.

        Raises:
            CheckpointError: they cannot be written.
        """
        target = f"{self._root}/{name}"
        try:
            self._files.makedirs(target, exist_ok=True)
            for file in sorted(folder.iterdir()):
                self._files.put_file(str(file), f"{target}/{file.name}")
        except OSError as error:
            raise self._unwritable(name, error) from error

    def download(self, name: str, folder: Path) -> None:
        """Copy a folder of the run to a local one.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            for path in self._files.ls(f"{self._root}/{name}", detail=False):
                self._files.get_file(path, str(folder / Path(path).name))
        except OSError as error:
            raise CheckpointError(
                f"{self.path(name)} cannot be read ({error}); see that the storage is there"
            ) from error

    def _unwritable(self, name: str, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"{self.path(name)} cannot be written ({error}); see that the storage is there, may be "
            "written and has room"
        )

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        protocol = self._files.protocol
        return "file" in ([protocol] if isinstance(protocol, str) else protocol)
