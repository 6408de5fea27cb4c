"""What every command of `python -m rl` refuses before it works for an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironcliw.errors import SettingsError
from rl.__main__ import main
from rl.arguments import check_place, write

# each names a file that is not there either, which is looked for next
COMMANDS = {
    "evaluate": ["evaluate", "--regime", "absent.toml", "--json"],
    "tune": ["tune", "--regime", "absent.toml", "--out"],
    "train": ["train", "--regime", "absent.toml", "--config", "absent.toml", "--out"],
    "train-rllib": ["train-rllib", "--regime", "absent.toml", "--base", "absent.toml", "--out"],
    "report": ["report", "--parameters", "absent.toml", "--json"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_is_none_is_told_at_once(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*COMMANDS[name], str(tmp_path / "nowhere" / "out")]) == 1
    error = capsys.readouterr().err
    assert error == (
        f"error: {tmp_path}/nowhere/out cannot be written: folder {tmp_path}/nowhere does not "
        "exist; make it first\n"
    )
    assert main([*COMMANDS[name], str(tmp_path)]) == 1
    assert f"{tmp_path} is a folder; give the name of a file in it" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("seed", ["-1", "1.5", "first"])
def test_a_seed_is_a_whole_number_from_0(
    name: str, seed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*COMMANDS[name], str(tmp_path / "out"), "--seed", seed])
    assert f"{seed!r} is no seed; give a whole number from 0" in capsys.readouterr().err


def test_what_cannot_be_written_after_all(tmp_path: Path) -> None:
    check_place(None, tmp_path / "new.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"folder .*file does not exist; make it first"):
        check_place(tmp_path / "file" / "new.json")
    with pytest.raises(SettingsError, match=r"new.json cannot be written \(Not a directory\)"):
        write(tmp_path / "file" / "new.json", "{}")
