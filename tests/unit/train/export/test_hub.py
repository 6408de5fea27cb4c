"""Publishing to a Hub that is a server on this machine: all files in one commit, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.utils._http
import pytest

from ironcliw.errors import (
    AuthenticationError,
    ConflictError,
    OverloadedError,
    PermissionDeniedError,
    RequestError,
    UnavailableError,
)
from tests.unit.train.checkpoint.object_server import LOST, RESET
from tests.unit.train.export.hub_server import TOKEN, Hub, Repository, serve_hub
from train.export.hub import HubCommit, upload

FILES = {
    "README.md": b"# it\n",
    "adapter_config.json": b"{}\n",
    "adapter_model.safetensors": b"1" * 999,
}

# huggingface_hub 2.4 gives its own HTTP client a file in a way that is about to change
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that knows the token; Xet has a server of its own, so files go by git-LFS."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    # the client's own waits between its attempts
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
    with serve_hub() as server:
        yield server
    huggingface_hub.utils._http.close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def publish(hub: Hub, folder: Path, name: str = "me/bot", **options: bool) -> HubCommit:
    waits: list[float] = []
    return upload(folder, name, "Publish bot", endpoint=hub.url, sleep=waits.append, **options)


def test_all_files_come_in_one_commit(hub: Hub, folder: Path) -> None:
    done = publish(hub, folder)
    repository = hub.repositories["me/bot"]
    assert repository.private
    assert repository.commits == ["initial commit", "Publish bot"]
    assert repository.files == {".gitattributes": b"", **FILES}
    assert done == HubCommit("me/bot", f"{hub.url}/me/bot", repository.sha, private=True)


def test_public_is_asked_for(hub: Hub, folder: Path) -> None:
    assert publish(hub, folder, private=False).private is False
    assert not hub.repositories["me/bot"].private


def test_an_existing_repository_is_left_alone_unless_replaced(hub: Hub, folder: Path) -> None:
    old = Repository(private=False)
    old.files |= {"model.safetensors": b"old", "README.md": b"old"}
    hub.repositories["me/bot"] = old
    with pytest.raises(ConflictError, match=r"me/bot exists on http://127.*give --replace"):
        publish(hub, folder)
    assert old.commits == ["initial commit"]
    done = publish(hub, folder, replace=True)
    assert done.private is None
    # in one commit: what was there before is gone
    assert old.commits == ["initial commit", "Publish bot"]
    assert old.files == {".gitattributes": b"", **FILES}


def test_somebody_else_commits_in_between(hub: Hub, folder: Path) -> None:
    hub.repositories["me/bot"] = Repository(private=True)
    hub.fail(r"POST /api/models/me/bot/commit", 412)
    with pytest.raises(ConflictError, match="made or changed by somebody else"):
        publish(hub, folder, replace=True)
    assert set(hub.repositories["me/bot"].files) == {".gitattributes"}
    # into one that was made a moment ago, too: it holds their commit
    hub.fail(r"POST /api/models/me/new/commit", 412)
    with pytest.raises(ConflictError, match="made or changed by somebody else"):
        publish(hub, folder, "me/new")
    assert "me/new" in hub.repositories


@pytest.mark.parametrize("where", [r"preupload", r"objects/batch", r"PUT /lfs/", r"/commit/"])
@pytest.mark.parametrize("status", [500, RESET])
def test_a_hub_that_breaks_off_has_nothing(hub: Hub, folder: Path, where: str, status: int) -> None:
    hub.fail(where, *[status] * 8)
    with pytest.raises(UnavailableError, match="nothing is published in me/bot: the repository"):
        publish(hub, folder)
    assert hub.repositories == {}
    # what is there already stays as it is
    hub.repositories["me/bot"] = Repository(private=True)
    hub.fail(where, *[status] * 8)
    with pytest.raises(UnavailableError, match="it is as it was"):
        publish(hub, folder, replace=True)
    assert set(hub.repositories["me/bot"].files) == {".gitattributes"}


def test_an_answer_that_is_lost_after_the_commit(hub: Hub, folder: Path) -> None:
    hub.fail(r"POST /api/models/me/bot/commit", LOST)
    done = publish(hub, folder)
    repository = hub.repositories["me/bot"]
    assert done.revision == repository.sha
    assert repository.files == {".gitattributes": b"", **FILES}


@pytest.mark.parametrize("made", [True, False])
def test_a_hub_that_is_gone_after_the_commit(hub: Hub, folder: Path, made: bool) -> None:
    if not made:
        hub.repositories["me/bot"] = Repository(private=True)
    hub.fail(r"POST /api/models/me/bot/commit", LOST)
    hub.fail(r"POST /api/models/me/bot/commit", *[500] * 8)
    # the look before the commit succeeds, those after it do not
    hub.after_commit(r"GET /api/models/me/bot", *[RESET] * 40)
    hub.after_commit(r"repos/delete", 500)
    with pytest.raises(UnavailableError, match=r"is not known: look at .*/me/bot\. ") as told:
        publish(hub, folder, replace=not made)
    assert told.value.code == "publication_unknown"
    assert "nothing is published" not in told.value.message
    # it was, and is still there
    assert hub.repositories["me/bot"].files == {".gitattributes": b"", **FILES}
    assert not any("repos/delete" in asked for asked in hub.asked)


def test_a_look_that_fails_once_is_taken_again(hub: Hub, folder: Path) -> None:
    hub.fail(r"POST /api/models/me/bot/commit", LOST)
    hub.after_commit(r"GET /api/models/me/bot", 500)
    assert publish(hub, folder).revision == hub.repositories["me/bot"].sha


def test_an_upload_that_fails_once_is_made_again(hub: Hub, folder: Path) -> None:
    hub.fail(r"PUT /lfs/", 503)
    publish(hub, folder)
    assert hub.repositories["me/bot"].files == {".gitattributes": b"", **FILES}


def test_too_many_requests_are_waited_for(hub: Hub, folder: Path) -> None:
    hub.retry_after = "7"
    hub.fail(r"repos/create", 429)
    hub.fail(r"/commit/", 429, 429)
    waits: list[float] = []
    upload(folder, "me/bot", "Publish", endpoint=hub.url, sleep=waits.append)
    assert waits == [7.0, 7.0, 7.0]
    assert set(hub.repositories["me/bot"].files) > set(FILES)


@pytest.mark.parametrize("asked", ["3600", None])
def test_too_many_for_too_long(hub: Hub, folder: Path, asked: str | None) -> None:
    hub.retry_after = asked
    hub.fail(r"/commit/", *[429] * 8)
    with pytest.raises(OverloadedError, match="takes no more requests for me/bot") as told:
        publish(hub, folder)
    assert told.value.retry_after > 0
    assert hub.repositories == {}


def test_who_publishes_is_not_known(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(AuthenticationError, match="set HF_TOKEN to a token that may write"):
        publish(hub, folder)
    assert hub.repositories == {}


def test_somebody_elses_name(hub: Hub, folder: Path) -> None:
    with pytest.raises(PermissionDeniedError, match="don't have the rights to create"):
        publish(hub, folder, "others/bot")


@pytest.mark.parametrize("name", ["bot", "a/b/c", "me/..", "", "me/b ot"])
def test_names_that_are_none(folder: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"names no repository .*write OWNER/NAME"):
        upload(folder, name, "Publish", endpoint="http://127.0.0.1:1")


def test_no_hub_is_there(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match="could not be asked for me/bot"):
        upload(folder, "me/bot", "Publish", endpoint="http://127.0.0.1:1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match=r"HF_HUB_OFFLINE"):
        publish(hub, folder)


def test_the_repository_cannot_be_removed_again(
    hub: Hub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail(r"PUT /lfs/", *[500] * 8)
    hub.fail(r"repos/delete", 500)
    with pytest.raises(UnavailableError, match="could not be removed; do so on its page"):
        publish(hub, folder)
    assert "was made for this upload and cannot be removed" in caplog.text
