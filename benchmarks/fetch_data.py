"""Fetch the benchmarks' data from its public sources.

Each source is pinned to a commit and checked by its SHA-256; so is each file made of it. A file is
written in one step, when it is known to be right.

    clinc/oos-eval             CC BY 3.0   Larson et al. 2019, arXiv:1909.02027
    openai/grade-school-math   MIT         Cobbe et al. 2021, arXiv:2110.14168
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from ironcliw.errors import ConflictError, IroncliwError, SettingsError, UnavailableError

TIMEOUT_SECONDS = 60.0
CHUNK_BYTES = 65_536


@dataclasses.dataclass(frozen=True, slots=True)
class DataFile:
    """A file of the data folder.

    Attributes:
        path: Below the data folder.
        sha256: Of its bytes.
        convert: Makes its bytes of the source's bytes.
    """

    path: str
    sha256: str
    convert: Callable[[bytes], bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One download and what is made of it.

    Attributes:
        url: Where it is.
        sha256: Of the download.
        bytes: Its size; more is not read.
        licence: SPDX name.
        files: What is made of it.
    """

    url: str
    sha256: str
    bytes: int
    licence: str
    files: tuple[DataFile, ...]


def clinc_split(source: bytes, split: str) -> bytes:
    """One split of CLINC150's `data_full.json` as JSON lines `{"text", "label"}`."""
    rows = json.loads(source)[split]
    lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
    return "".join(line + "\n" for line in lines).encode()


def first_lines(source: bytes, count: int) -> bytes:
    """The first lines, as they are."""
    return b"".join(source.splitlines(keepends=True)[:count])


def _clinc(split: str, sha256: str) -> DataFile:
    path = f"intent/clinc150_{split}.jsonl"
    return DataFile(path, sha256, functools.partial(clinc_split, split=split))


def _gsm8k(name: str, count: int, sha256: str) -> DataFile:
    path = f"sft/gsm8k_{name}_{count}.jsonl"
    return DataFile(path, sha256, functools.partial(first_lines, count=count))


_GITHUB = "https://raw.githubusercontent.com"
_CLINC = f"{_GITHUB}/clinc/oos-eval/828f8093932c8fe6ca7936c3d2e52903b1c523de/data"
_GSM8K = (
    f"{_GITHUB}/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c"
    "/grade_school_math/data"
)
SOURCES = (
    Source(
        f"{_CLINC}/data_full.json",
        "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
        2_495_390,
        "CC-BY-3.0",
        (
            _clinc("train", "02e2dc9140f2367e2252faa705ec955d2d46dfd2db74ebb385af199b1959f21a"),
            _clinc("val", "e1bc3eeb80bff30aa5ffdd3964eefb385d9aa077c51b189426b76c7ab1407e4e"),
            _clinc("oos_train", "6fec55c84ac4dd6c4ed862081dbb1765687042a32ea4bb78815ea17191d5861a"),
            _clinc("oos_val", "1551cdc0907ee4aa60b07b575428bb5dea15ef135a30fd34ceb4a69ecf5429dc"),
        ),
    ),
    Source(
        f"{_GSM8K}/train.jsonl",
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        4_166_206,
        "MIT",
        (
            _gsm8k(
                "train", 2000, "45926aa7b33a4d57392a712ec0fc718a68cc2e33422658ddda76af4c305f24ce"
            ),
        ),
    ),
    Source(
        f"{_GSM8K}/test.jsonl",
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        749_738,
        "MIT",
        (_gsm8k("eval", 200, "bd70035c7acaf107b4e0d077c605a23c3d3a0acb4342e5bc60099e6ad9ff4284"),),
    ),
)


def fetch(
    folder: Path,
    *,
    sources: Sequence[Source] = SOURCES,
    force: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Path]:
    """Bring the folder up to date and return the files that were written.

    Args:
        folder: Made where it does not exist.
        sources: What to fetch.
        force: Replace files that differ from what the benchmarks expect.
        progress: Called with the bytes done so far, over all sources.

    Raises:
        ConflictError: a file is there with other content, and `force` was not given.
        UnavailableError: a source cannot be reached.
        IroncliwError: a source is not what it was (`checksum_mismatch`); nothing of it is written.
        SettingsError: the folder cannot be written.
    """
    absent = {source.url: _absent(folder, source, force) for source in sources}
    written: list[Path] = []
    done = 0
    with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=True) as client:
        for source in sources:
            if absent[source.url]:
                content = _download(client, source, functools.partial(_report, progress, done))
                written += _write_all(folder, source, absent[source.url], content)
            done += source.bytes
            progress(done)
    return written


def _report(progress: Callable[[int], None], before: int, count: int) -> None:
    progress(before + count)


def _absent(folder: Path, source: Source, force: bool) -> list[DataFile]:
    """The source's files that must be written."""
    absent = []
    for file in source.files:
        path = folder / file.path
        if path.is_file():
            if _sha256(path.read_bytes()) == file.sha256:
                continue
            if not force:
                raise ConflictError(
                    f"{path} is not the file of {source.url}; move it away, or give --force to "
                    "replace it"
                )
        absent.append(file)
    return absent


def _download(client: httpx.Client, source: Source, progress: Callable[[int], None]) -> bytes:
    content = bytearray()
    try:
        with client.stream("GET", source.url) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes(CHUNK_BYTES):
                content += chunk
                if len(content) > source.bytes:
                    break  # it cannot be right any more, however much would follow
                progress(len(content))
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"{source.url} cannot be fetched: {str(error) or type(error).__name__}; check the "
            "network, then run the same command again"
        ) from error
    _check(source.url, bytes(content), source.sha256)
    return bytes(content)


def _write_all(
    folder: Path, source: Source, files: Sequence[DataFile], content: bytes
) -> list[Path]:
    converted = {folder / file.path: file.convert(content) for file in files}
    for file in files:
        _check(f"{file.path}, made of {source.url},", converted[folder / file.path], file.sha256)
    for path, data in converted.items():
        _replace(path, data)
    return list(converted)


def _check(what: str, content: bytes, expected: str) -> None:
    actual = _sha256(content)
    if actual != expected:
        raise IroncliwError(
            f"{what} has SHA-256 {actual}, expected {expected}: it was changed at its source or on "
            "the way, and was not written",
            code="checksum_mismatch",
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            # mkstemp keeps the file to its owner; data may be read by all
            Path(temporary).chmod(0o644)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written: {error.strerror}; set bench.data, or give --data, to a "
            "folder of yours"
        ) from error
