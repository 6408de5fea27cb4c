"""A worker's rows of files of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ironcliw.errors import ModelLoadError
from train.sharding.weights import WeightFiles

WEIGHT = torch.arange(21.0).view(7, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": WEIGHT.bfloat16()}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "model-2.safetensors")
    return tmp_path


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_the_rows_of_all_workers_are_the_whole(folder: Path, workers: int) -> None:
    parts = []
    with WeightFiles("m", folder) as files:
        files.check(["a", "b"])
        for chunk, rank in zip(WEIGHT.chunk(workers), range(workers), strict=False):
            part = torch.full(chunk.shape, torch.nan)
            files.read_rows("a", part, WEIGHT.shape, rank, workers)
            parts.append(part)
    assert torch.equal(torch.cat(parts), WEIGHT)


def test_other_names_and_shapes_are_refused(folder: Path) -> None:
    with WeightFiles("m", folder) as files:
        with pytest.raises(ModelLoadError, match=r"lack 2 tensors, the first of them 'c'.*none"):
            files.check(["a", "d", "c"])
        with pytest.raises(ModelLoadError, match=r"'a' has the shape \[7, 3\].*asks for \[7, 4\]"):
            files.read_rows("a", torch.empty(7, 4), torch.Size((7, 4)), 0, 1)


def test_files_that_are_damaged_or_absent_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="has no safetensors files"):
        WeightFiles("m", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is no whole safetensors file"):
        WeightFiles("m", tmp_path)
