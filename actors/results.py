"""Results by reference: what is too large for the store stands in a folder, named by its content.

A small result is JSON in the events of its workflow. A larger one is written once to the folder of
the setting `actors.results_url`, below its workflow, and the event holds

    {"$reference": "result:WORKFLOW/SHA256"}

which is resolved where a step or a reader needs it. The name is made from the bytes, so writing it
twice is as good as once, and a damaged file is found out when it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.workflow.shown import why_not_shown
from actors.workflow.tasks import REFERENCE_KEY
from ironcliw import durable
from ironcliw.errors import NotFoundError, RequestError, RequestTooLargeError, StoreError

_SCHEME = "result:"
_REFERENCE = re.compile(rf"{_SCHEME}([A-Za-z0-9_-]{{1,63}}/([0-9a-f]{{64}}))")


def to_json(value: Any, what: str) -> bytes:
    """A value as compact JSON.

    Args:
        value: Anything that JSON can say; tuples become lists.
        what: Names it in the message, as "the result of step fetch".

    Raises:
        RequestError: JSON has no word for something in it: a set, NaN, a key that is no text; or
            no answer can show it: a number beyond 64 bits, half of a surrogate pair.
    """
    try:
        _refuse_other_keys(value)
        # in ASCII: sizes are measured as the workflow's own values are
        content = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
        why = why_not_shown(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"{what} cannot be written as JSON: {error}; return texts, finite numbers, booleans, "
            "None, lists and dicts with text keys",
            code="not_json",
        ) from error
    if why is not None:
        raise RequestError(
            f"{what} cannot be shown: {why}; return whole numbers of 64 bits at most, or as texts, "
            "texts that are valid Unicode, and at most 200 levels",
            code="not_json",
        )
    return content


def _refuse_other_keys(value: Any) -> None:
    """`json.dumps` would turn the key 1 into "1" in silence, and so change the result."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no text")
            _refuse_other_keys(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            _refuse_other_keys(inside)


def is_reference(value: Any) -> bool:
    """Whether a value stands for one that is kept elsewhere."""
    return isinstance(value, Mapping) and REFERENCE_KEY in value


def has_reference(value: Any) -> bool:
    """Whether there is a reference in a value, however deep."""
    if isinstance(value, Mapping):
        return is_reference(value) or any(map(has_reference, value.values()))
    return isinstance(value, list | tuple) and any(map(has_reference, value))


def address_of(workflow_id: str, digest: str) -> str:
    """The address of a workflow's result with that SHA-256."""
    return f"{_SCHEME}{workflow_id}/{digest}"


def addresses_in(value: Any) -> Iterator[str]:
    """The addresses of all references in a value, in the order in which `resolved` reads them."""
    if is_reference(value):
        yield str(value[REFERENCE_KEY])
        return
    inside = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list | tuple):
        for each in inside:
            yield from addresses_in(each)


def resolved(value: Any, read: Callable[[str], bytes]) -> Any:
    """The value with every reference in it replaced by the JSON that `read` gives for it."""
    if is_reference(value):
        return json.loads(read(str(value[REFERENCE_KEY])))
    if isinstance(value, Mapping):
        return {key: resolved(inside, read) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(inside, read) for inside in value]
    return value


class Results:
    """The folder of larger results.

    Args:
        url: Any fsspec URL, or a path.
        inline_bytes: Up to so many bytes of JSON stay where they are.
        most_bytes: More than that is refused.
    """

    def __init__(self, url: str, inline_bytes: int, most_bytes: int) -> None:
        # fsspec comes with Ray and not with the base install
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self._files, self._root = fsspec.url_to_fs(url, auto_mkdir=True)
        self._root = self._root.rstrip("/")
        self._is_local = isinstance(self._files, LocalFileSystem)
        self._inline = inline_bytes
        self._most = most_bytes

    def keep(self, workflow_id: str, content: bytes, what: str) -> str | None:
        """Keep a result's JSON if it is large; its address, None where it may stay inline.

        Blocking: call it in a thread.

        Raises:
            RequestTooLargeError: it is larger than any result may be.
            StoreError: the folder cannot be written.
        """
        check_size(content, self._most, what)
        if not self.is_large(content):
            return None
        name = f"{workflow_id}/{hashlib.sha256(content).hexdigest()}"
        path = self._path(name)
        try:
            # one of another size is what a crash has left of it
            if not self._files.exists(path) or self._files.size(path) != len(content):
                self._write(path, content)
        except OSError as error:
            raise StoreError(
                f"{what} cannot be kept in {self._root}: {error}; is the disk full, or the setting "
                "actors.results_url wrong?"
            ) from error
        return _SCHEME + name

    def _write(self, path: str, content: bytes) -> None:
        """In one move, or a reader could see half of it; durable, as the event is that names it."""
        draft = f"{path}.{uuid.uuid4().hex}.new"
        folder, root = path.rpartition("/")[0], self._root
        folders = [folder, root] if self._files.exists(root) else [folder, root, f"{root}/.."]
        self._files.makedirs(folder, exist_ok=True)
        self._files.pipe_file(draft, content)
        self._sync(draft)
        self._files.mv(draft, path)
        for each in folders:  # their names, too
            self._sync(each)

    def _sync(self, path: str) -> None:
        if self._is_local:  # elsewhere what was written is kept when the call returns
            durable.sync(Path(path))

    def read(self, workflow_id: str, address: str) -> bytes:
        """The JSON of an address that `keep` gave for that workflow. Blocking.

        Raises:
            RequestError: it is no address of ours, or of another workflow.
            NotFoundError: the file is gone.
            StoreError: the file is damaged, or cannot be read.
        """
        parts = _REFERENCE.fullmatch(address)
        if parts is None:
            raise RequestError(
                f"{address!r:.100} is no address of a result; it reads {_SCHEME}WORKFLOW/SHA256"
            )
        if not address.startswith(f"{_SCHEME}{workflow_id}/"):
            raise RequestError(
                f"{address!r:.100} is no result of workflow {workflow_id}; a step reads those "
                "of its own workflow alone"
            )
        name, digest = parts.groups()
        try:
            content: bytes = self._files.cat_file(self._path(name))
        except FileNotFoundError:
            raise NotFoundError(
                f"the result {name} is gone from {self._root}; run the workflow again"
            ) from None
        except OSError as error:
            raise StoreError(f"the result {name} cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise StoreError(
                f"the result {name} in {self._root} is damaged: its bytes are not those that were "
                "written; run the workflow again"
            )
        return content

    def is_large(self, content: bytes) -> bool:
        """Whether a result is kept here rather than in the store."""
        return len(content) > self._inline

    def resolve(self, workflow_id: str, value: Any) -> Any:
        """The value with every reference in it replaced by what it stands for. Blocking.

        Raises:
            RequestError, NotFoundError, StoreError: see `read`.
        """
        return resolved(value, lambda address: self.read(workflow_id, address))

    def forget(self, workflow_id: str) -> None:
        """Remove all results of a workflow; harmless where there are none. Blocking."""
        folder = self._path(workflow_id)
        if self._files.exists(folder):
            self._files.rm(folder, recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def check_size(content: bytes, most: int, what: str) -> None:
    """Refuse a result that is larger than any may be.

    Raises:
        RequestTooLargeError: with both sizes.
    """
    if len(content) > most:
        raise RequestTooLargeError(
            f"{what} has {len(content)} bytes of JSON and actors.result_bytes allows {most}; write "
            "it to a bucket and return its address",
            code="result_too_large",
        )


def results_url(configured: str | None, state_dir: Path) -> str:
    """Where larger results are kept: what is set, else below the state directory.

    A path is made absolute: it is read by processes with other working directories, too.
    """
    url = configured or str(state_dir / "results")
    return url if "://" in url else str(Path(url).expanduser().absolute())
