"""The code of agents outlives the control service that had it."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from actors.agents import code_copies
from actors.agents.code_copies import CodeCopies
from cluster.head import project_code
from cluster.head.project_code import ProjectCode
from ironcliw.errors import ClusterError


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("my_agents.py", "class Greeter: ...")
    return buffer.getvalue()


CODE = archive()
URI = "gcs://_ray_pkg_0123456789abcdef.zip"


class Service:
    """Ray's control service, as far as archives go."""

    def __init__(self) -> None:
        self.archives: dict[str, bytes] = {}
        self.held: list[str] = []

    def publish(self, code: ProjectCode) -> None:
        self.archives[code.uri] = code.data


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setattr(project_code, "exists", service.archives.__contains__)
    monkeypatch.setattr(project_code, "fetch", service.archives.get)
    monkeypatch.setattr(project_code, "hold", service.held.append)
    monkeypatch.setattr(project_code, "publish", service.publish)
    return service


def test_what_a_new_head_lacks_is_given_back(service: Service, tmp_path: Path) -> None:
    service.archives[URI] = CODE
    CodeCopies(tmp_path / "code").hold(URI)
    assert service.held == [URI]
    service.archives.clear()  # `ironcliw down`
    CodeCopies(tmp_path / "code").hold(URI)
    assert service.archives == {URI: CODE}
    assert [path.name for path in (tmp_path / "code").iterdir()] == [URI.removeprefix("gcs://")]


def test_what_is_gone_for_good_is_said(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CodeCopies(tmp_path).hold(URI)
    assert f"the code {URI} of agents is gone; start them again" in caplog.text


def test_what_is_needed_looks_new(service: Service, tmp_path: Path) -> None:
    copies = CodeCopies(tmp_path)
    copies.touch(URI)  # there is none yet
    service.archives[URI] = CODE
    copies.hold(URI)
    [path] = tmp_path.iterdir()
    os.utime(path, (0, 0))
    copies.touch(URI)
    assert path.stat().st_mtime > 1e9


@pytest.mark.parametrize(
    "uri", ["gcs://../outside.zip", "gcs://..", "gcs://a/b", "s3://bucket/a.zip"]
)
def test_no_name_leads_out_of_the_folder(service: Service, tmp_path: Path, uri: str) -> None:
    service.archives[uri] = CODE
    CodeCopies(tmp_path / "code").hold(uri)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(service: Service, tmp_path: Path) -> None:
    service.archives[URI] = CODE
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match=r"cannot be kept in .*; without it the agent would"):
        CodeCopies(tmp_path / "file" / "code").hold(URI)


DAMAGED = [CODE[:-10], CODE.replace(b"class Greeter", bytes(13)), b""]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_copy_is_not_given_to_a_head(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    path = tmp_path / URI.removeprefix("gcs://")
    path.write_bytes(damaged)
    CodeCopies(tmp_path).hold(URI)
    assert service.archives == {}
    assert f"the copy {path} of agents' code is damaged" in caplog.text
    assert f"the code {URI} of agents is gone; start them again" in caplog.text


@pytest.mark.parametrize("damaged", DAMAGED)
def test_but_made_again_while_there_is_the_code(
    service: Service, tmp_path: Path, damaged: bytes
) -> None:
    path = tmp_path / URI.removeprefix("gcs://")
    path.write_bytes(damaged)
    service.archives[URI] = CODE
    CodeCopies(tmp_path).hold(URI)
    assert path.read_bytes() == CODE


def test_a_copy_is_on_the_medium_before_it_has_its_name(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / URI.removeprefix("gcs://"), list[tuple[bool, bool]]()

    def sync(what: Path) -> None:
        synced.append((what == tmp_path, path.exists()))

    monkeypatch.setattr(code_copies, "sync", sync)
    service.archives[URI] = CODE
    CodeCopies(tmp_path).hold(URI)
    # the content, then the name
    assert synced == [(False, False), (True, True)]
