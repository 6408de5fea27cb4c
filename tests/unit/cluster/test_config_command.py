"""`ironcliw cluster render` and `validate`, as a person runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import is_rendered
from cluster.config_command import render_file, validate_file
from ironcliw.errors import ClusterError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine.yaml"


def test_a_file_is_written_and_then_up_to_date(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    render_file(path)
    render_file(path)
    validate_file(path)
    told = capsys.readouterr().out.splitlines()
    assert told == [f"{path} written", f"{path} was up to date", f"{path} is valid"]


def test_a_file_of_another_hand_is_left_alone(path: Path) -> None:
    path.write_text("mine: true\n")
    with pytest.raises(ClusterError, match=r"mine\.yaml was not written by .*add --force"):
        render_file(path)
    assert path.read_text() == "mine: true\n"
    render_file(path, force=True)
    assert is_rendered(path)


def test_another_provider_is_said_to_be_unchecked(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    render_file(path)
    text = path.read_text()
    path.write_text(text.replace("cluster.provider.GceSpotProvider", "theirs.Provider"))
    validate_file(path)
    assert "its provider is not ours and was not looked at" in capsys.readouterr().out
