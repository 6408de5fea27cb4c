"""Log-probabilities of a reference in a folder or bucket, for resumed runs and for other runs.

reference.json    what the values depend on
part-00007.json   values of some rows, with a hash
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import CheckpointError, NewerFormatError
from train.fingerprint import ALLOW
from train.run_files import RunFiles

FORMAT_VERSION = 1
_HEADER = "reference.json"
_IDENTITY = {"model", "data"}
"""Without these it is a reference of something else; the rest only rounds otherwise."""
_LATER = {"sharding", "transformers", "kernels_interface", "loss_head"}
"""What the releases up to 0.3 did not write: nothing can be said of it, so nothing is refused."""


class ReferenceCache:
    """Parts of one reference.

    Args:
        uri: The folder.
        key: What the values depend on, by name: the model's weights, the data, the dtype...
        allow_inexact: Use what is there although it was computed otherwise; never that of another
            model or of other data.

    Attributes:
        key: What the values that are there depend on; the given one, unless `inexact`.
        inexact: What of it is not as given, in words, and was allowed.

    Raises:
        CheckpointError: the folder holds another reference, or cannot be used.
        NewerFormatError: a newer release wrote it.
    """

    def __init__(
        self, uri: str, key: Mapping[str, str | int], *, allow_inexact: bool = False
    ) -> None:
        self._files = RunFiles(uri)
        self.key: Mapping[str, str | int] = key
        self.inexact: tuple[str, ...] = ()
        header = self._files.read(_HEADER)
        if header is None:
            self._files.write(_HEADER, {"format_version": FORMAT_VERSION, "key": dict(key)})
        else:
            self.inexact = _check(uri, header, key, allow_inexact=allow_inexact)
            self.key = header["key"]

    def has(self, number: int, rows: int) -> bool:
        """Whether a part is there, with so many rows at least."""
        found = self._files.read(_name(number))
        return found is not None and found.get("rows", 0) >= rows

    def write(self, number: int, values: npt.NDArray[np.float32]) -> None:
        """Keep a part, float32 [rows, 2]."""
        raw = np.ascontiguousarray(values, "<f4").tobytes()
        digest = hashlib.sha256(raw).hexdigest()
        text = base64.b64encode(raw).decode()
        self._files.write(_name(number), {"rows": len(values), "sha256": digest, "values": text})

    def read(self, number: int, rows: int) -> npt.NDArray[np.float32]:
        """The first rows of a part, float32 [rows, 2].

        Raises:
            CheckpointError: it is absent or damaged.
        """
        found = self._files.read(_name(number))
        try:
            if found is None:
                raise ValueError("it is absent")
            raw = base64.b64decode(found["values"], validate=True)
            if hashlib.sha256(raw).hexdigest() != found["sha256"]:
                raise ValueError("its hash is another")
            values = np.frombuffer(raw, "<f4").reshape(-1, 2)
            if len(values) < rows:
                raise ValueError(f"it has {len(values)} rows, not {rows}")
            return values[:rows].copy()
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise CheckpointError(
                f"{self._files.path(_name(number))} is damaged ({error}); remove the folder, and "
                "it is computed again"
            ) from error


def _name(number: int) -> str:
    return f"part-{number:05d}.json"


def _check(
    uri: str, header: Mapping[str, Any], key: Mapping[str, str | int], *, allow_inexact: bool
) -> tuple[str, ...]:
    """What differs, and was allowed."""
    version, before = header.get("format_version"), header.get("key")
    if version != FORMAT_VERSION:
        raise NewerFormatError(
            f"{uri} holds a reference of format {version}, this release reads {FORMAT_VERSION}; "
            "update ironcliw, or remove the folder"
        )
    if not isinstance(before, Mapping):
        raise CheckpointError(f"{uri}/{_HEADER} is damaged; remove the folder")
    compared = {*before, *key} - (_LATER - before.keys())
    differs = [name for name in sorted(compared) if before.get(name) != key.get(name)]
    told = tuple(
        f"{name}: {_shown(before.get(name))} there, {_shown(key.get(name))} here"
        for name in differs
    )
    if _IDENTITY & set(differs):
        raise CheckpointError(
            f"the reference in {uri} is not that of this run ({'; '.join(told)}); name another "
            "folder in preference.reference_cache, or remove this one: it is computed again"
        )
    if told and not allow_inexact:
        raise CheckpointError(
            f"the reference in {uri} was computed otherwise than this run would "
            f"({'; '.join(told)}); remove the folder, and it is computed again, or give {ALLOW} to "
            "use it as it is, which the log will say"
        )
    return told


def _shown(value: Any) -> str:
    return str(value)[:12]
