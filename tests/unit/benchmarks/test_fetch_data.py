"""Fetching the benchmarks' data, from a real HTTP server on loopback with made files."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.fetch_data import SOURCES, DataFile, Source, clinc_split, fetch, first_lines
from ironcliw.errors import ConflictError, IroncliwError, SettingsError, UnavailableError

CLINC = json.dumps({"train": [["book a table", "restaurant"], ["caf\u00e9", "oos"]]}).encode()
WANTED = (
    b'{"text": "book a table", "label": "restaurant"}\n{"text": "caf\\u00e9", "label": "oos"}\n'
)
MATHS = b'{"question": "1"}\n{"question": "2"}\n{"question": "3"}\n'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Tests keep standard error for themselves."""


class Site(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A download that is cut off is what one of the tests wants."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL and folder of a web site."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "full.json").write_bytes(CLINC)
    (folder / "maths.jsonl").write_bytes(MATHS)
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = Site(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def sources(site: tuple[str, Path]) -> list[Source]:
    """Two sources of the same forms as the real ones."""
    split = functools.partial(clinc_split, split="train")
    lines = functools.partial(first_lines, count=2)
    maths = MATHS[: 2 * len(MATHS) // 3]
    return [
        Source(
            f"{site[0]}/full.json",
            sha256(CLINC),
            len(CLINC),
            "CC-BY-3.0",
            (DataFile("intent/train.jsonl", sha256(WANTED), split),),
        ),
        Source(
            f"{site[0]}/maths.jsonl",
            sha256(MATHS),
            len(MATHS),
            "MIT",
            (DataFile("sft/two.jsonl", sha256(maths), lines),),
        ),
    ]


def test_files_are_fetched_converted_and_reported(sources: list[Source], tmp_path: Path) -> None:
    seen: list[int] = []
    data = tmp_path / "data"
    written = fetch(data, sources=sources, progress=seen.append)
    assert written == [data / "intent/train.jsonl", data / "sft/two.jsonl"]
    assert (data / "intent/train.jsonl").read_bytes() == WANTED
    assert (data / "sft/two.jsonl").read_bytes() == MATHS[:36]
    assert seen == sorted(seen)
    assert seen[-1] == len(CLINC) + len(MATHS)


def test_what_is_there_is_not_fetched_again(
    sources: list[Source], site: tuple[str, Path], tmp_path: Path
) -> None:
    fetch(tmp_path / "data", sources=sources)
    (site[1] / "full.json").unlink()
    (site[1] / "maths.jsonl").unlink()
    assert fetch(tmp_path / "data", sources=sources) == []


def test_a_changed_source_is_refused_and_nothing_of_it_written(
    sources: list[Source], site: tuple[str, Path], tmp_path: Path
) -> None:
    (site[1] / "maths.jsonl").write_bytes(MATHS.replace(b"3", b"4"))
    with pytest.raises(IroncliwError, match=r"maths\.jsonl has SHA-256 .*, expected ") as caught:
        fetch(tmp_path / "data", sources=sources)
    assert caught.value.code == "checksum_mismatch"
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert files == [tmp_path / "data/intent/train.jsonl"], "the right source before it stays"


def test_a_source_that_never_ends_is_cut_off(
    sources: list[Source], site: tuple[str, Path], tmp_path: Path
) -> None:
    (site[1] / "full.json").write_bytes(CLINC * 100_000)
    seen: list[int] = []
    with pytest.raises(IroncliwError, match="has SHA-256"):
        fetch(tmp_path / "data", sources=sources, progress=seen.append)
    assert max(seen, default=0) <= len(CLINC)


def test_a_wrong_conversion_is_refused(sources: list[Source], tmp_path: Path) -> None:
    (source, *_) = sources
    wrong = DataFile("x.jsonl", "0" * 64, functools.partial(first_lines, count=1))
    broken = Source(source.url, source.sha256, source.bytes, "MIT", (*source.files, wrong))
    with pytest.raises(IroncliwError, match=r"x\.jsonl, made of .*, has SHA-256"):
        fetch(tmp_path / "data", sources=[broken])
    assert not (tmp_path / "data").exists(), "not even the file that was right"


def test_a_file_of_somebody_else_is_replaced_only_by_force(
    sources: list[Source], tmp_path: Path
) -> None:
    mine = tmp_path / "data" / "sft" / "two.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ConflictError, match=r"two\.jsonl is not the file of .* --force"):
        fetch(tmp_path / "data", sources=sources)
    assert mine.read_text() == "mine"
    fetch(tmp_path / "data", sources=sources, force=True)
    assert mine.read_bytes() == MATHS[:36]


def test_an_absent_source(sources: list[Source], site: tuple[str, Path], tmp_path: Path) -> None:
    (site[1] / "full.json").unlink()
    with pytest.raises(UnavailableError, match=r"full\.json cannot be fetched: .*404"):
        fetch(tmp_path / "data", sources=sources)


def test_no_network(tmp_path: Path) -> None:
    away = Source("http://127.0.0.1:1/x", "0" * 64, 1, "MIT", SOURCES[0].files)
    with pytest.raises(UnavailableError, match="check the network"):
        fetch(tmp_path / "data", sources=[away])


def test_a_folder_that_cannot_be_made(sources: list[Source], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(SettingsError, match=r"cannot be written: .*set bench\.data"):
        fetch(tmp_path / "data", sources=sources)


def test_the_real_sources_are_pinned_and_licensed() -> None:
    files = [file for source in SOURCES for file in source.files]
    assert len({file.path for file in files}) == len(files) == 6
    for source in SOURCES:
        assert source.url.startswith("https://raw.githubusercontent.com/")
        assert len(source.url.split("/")[5]) == 40, "a commit, not a branch"
        assert source.licence in {"MIT", "CC-BY-3.0"}
        assert len(source.sha256) == 64
