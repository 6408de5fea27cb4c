"""Reference log-probabilities that are kept: what they depend on, and what is done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironcliw.errors import CheckpointError, NewerFormatError
from tests.unit.train.preference.pairs import make_pairs
from train.config import make_config
from train.data.plan import in_order
from train.data.tokenized import TokenizedData
from train.loop.reduce import Alone
from train.objectives import keeps_reference, reference_key
from train.preference import reference
from train.preference.batch import PackedPairs
from train.preference.losses import LogProbs
from train.preference.options import PreferenceOptions
from train.preference.reference import precompute
from train.preference.reference_cache import ReferenceCache
from train.run_files import RunFiles

KEY: dict[str, str | int] = {"model": "a" * 64, "data": "b" * 64, "dtype": "float32"}


class Asked:
    """In place of a model: the sums of each answer's tokens, and what was asked."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def logprobs(self, _: Any, pairs: PackedPairs) -> LogProbs:
        self.batches.append(pairs.rows)
        sums = np.bincount(pairs.answers, pairs.targets, minlength=2 * pairs.pairs)
        return LogProbs(torch.tensor(-sums[0::2]), torch.tensor(-sums[1::2]))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked()
    monkeypatch.setattr(reference, "answer_logprobs", made.logprobs)
    monkeypatch.setattr(reference, "PART_BATCHES", 2)
    return made


def run(folder: Path, notice: Any = lambda: False, group: Any = None) -> Any:
    cache = ReferenceCache(str(folder), KEY)
    model: Any = None
    return precompute(model, make_pairs(9), cache, group or Alone(), 40, notice)


def test_every_row_gets_its_own(tmp_path: Path, asked: Asked) -> None:
    data = make_pairs(9)
    found = run(tmp_path)
    assert found.shape == (9, 2) and found.dtype == np.float32
    for row in range(9):
        one = data.row(row)
        assert one.borders is not None
        first, second = one.borders
        assert found[row].tolist() == [-one.tokens[first:second].sum(), -one.tokens[second:].sum()]
    assert len(asked.batches) == len(in_order(data, 40)) > 4


def test_what_is_there_is_not_done_again(tmp_path: Path, asked: Asked) -> None:
    whole = run(tmp_path / "a")
    all_ = list(asked.batches)
    asked.batches.clear()
    answers = iter([False, False, False, True])
    assert run(tmp_path / "b", lambda: next(answers)) is None
    assert asked.batches == all_[:3]
    asked.batches.clear()
    assert np.array_equal(run(tmp_path / "b"), whole)
    assert asked.batches == all_[2:]
    asked.batches.clear()
    assert np.array_equal(run(tmp_path / "b"), whole)
    assert asked.batches == []


class Two:
    """One of two workers that compute one after the other."""

    size = 2

    def __init__(self, rank: int, other: Any = None) -> None:
        self.rank = rank
        self._other = other

    def gather(self, part: torch.Tensor) -> list[torch.Tensor]:
        raise AssertionError("nothing is gathered")

    def agree(self, step: int) -> None:
        if self._other is not None:
            self._other()


def test_workers_share_the_parts(tmp_path: Path, asked: Asked) -> None:
    whole = run(tmp_path / "alone")
    asked.batches.clear()

    with pytest.raises(CheckpointError, match=r"part-00000.json is damaged \(it is absent\)"):
        run(tmp_path / "early", group=Two(1))  # reads before the first has written

    # the second writes its parts while the first waits for it
    first = Two(0, lambda: run(tmp_path / "two", group=Two(1)))
    assert np.array_equal(run(tmp_path / "two", group=first), whole)


def test_another_reference_is_refused(tmp_path: Path) -> None:
    ReferenceCache(str(tmp_path), KEY)
    ReferenceCache(str(tmp_path), KEY)
    with pytest.raises(CheckpointError, match=r"model: a{12} there, c{12} here\); name another"):
        ReferenceCache(str(tmp_path), KEY | {"model": "c" * 64})
    with pytest.raises(CheckpointError, match=r"rows: None there, 3 here\); remove the folder"):
        ReferenceCache(str(tmp_path), KEY | {"rows": 3})


def test_one_that_rounds_otherwise_is_used_where_that_is_allowed(tmp_path: Path) -> None:
    ReferenceCache(str(tmp_path), KEY | {"torch": "2.0"})
    now = KEY | {"torch": "2.1"}
    with pytest.raises(CheckpointError, match=r"torch: 2.0 there, 2.1 here.*--allow-inexact"):
        ReferenceCache(str(tmp_path), now)
    found = ReferenceCache(str(tmp_path), now, allow_inexact=True)
    assert found.inexact == ("torch: 2.0 there, 2.1 here",)
    assert found.key["torch"] == "2.0"
    with pytest.raises(CheckpointError, match="is not that of this run"):
        ReferenceCache(str(tmp_path), now | {"data": "c" * 64}, allow_inexact=True)


def test_only_the_rows_that_are_asked_for_are_computed(tmp_path: Path, asked: Asked) -> None:
    model: Any = None

    def first(rows: int | None) -> Any:
        asked.batches.clear()
        cache = ReferenceCache(str(tmp_path), KEY)
        return precompute(model, make_pairs(9), cache, Alone(), 40, lambda: False, rows)

    three = first(3)
    assert [row for batch in asked.batches for row in batch] == [0, 1, 2]
    whole = first(None)
    # what has more rows than are asked for serves, too
    assert np.array_equal(first(3), whole[:3]) and not asked.batches
    assert np.array_equal(three, whole[:3])


def test_damage_and_newer_formats(tmp_path: Path) -> None:
    cache = ReferenceCache(str(tmp_path), KEY)
    cache.write(0, np.ones((3, 2), np.float32))
    assert cache.read(0, 3).tolist() == [[1, 1]] * 3
    with pytest.raises(CheckpointError, match=r"is damaged .*remove the folder"):
        cache.read(0, 4)
    files = RunFiles(str(tmp_path))
    part = files.read("part-00000.json")
    assert part is not None
    files.write("part-00000.json", part | {"values": "AAAA" + part["values"][4:]})
    with pytest.raises(CheckpointError, match="its hash is another"):
        cache.read(0, 3)
    files.write("reference.json", {"format_version": 2, "key": KEY})
    with pytest.raises(NewerFormatError, match="of format 2, this release reads 1"):
        ReferenceCache(str(tmp_path), KEY)


def test_one_of_an_older_release_says_less(tmp_path: Path) -> None:
    ReferenceCache(str(tmp_path), KEY)
    now = KEY | {"transformers": "5.23.0", "sharding": "none"}
    ReferenceCache(str(tmp_path), now)
    ReferenceCache(str(tmp_path / "new"), now)
    with pytest.raises(CheckpointError, match=r"\(sharding: none there, fsdp here\)"):
        ReferenceCache(str(tmp_path / "new"), now | {"sharding": "fsdp"})


def key(data: TokenizedData, model: str = "m", dtype: Any = torch.float32, **changes: Any) -> Any:
    config = make_config({"model_name": "m", "preference": {}, **changes}, "test")
    return reference_key(data, model, dtype, config, torch.device("cpu"))


def test_the_key_has_what_the_numbers_depend_on() -> None:
    data = make_pairs(3)
    first = key(data)
    others = [
        key(make_pairs(3, seed=1)),
        key(data, "n"),
        key(data, dtype=torch.bfloat16),
        key(data, micro_batch_tokens=65),
        key(data, quantization="nf4"),
        key(data, sharding={"mode": "fsdp"}),
    ]
    for other in others:
        assert sum(first[name] != other[name] for name in first) == 1


def test_a_cache_is_not_shared_by_what_rounds_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_pairs(3)
    first = key(data)

    def changed() -> set[str]:
        now = key(data)
        return {name for name in first if now[name] != first[name]}

    config = make_config({"model_name": "m", "preference": {}}, "test")
    elsewhere = reference_key(data, "m", torch.float32, config, torch.device("meta"))
    assert elsewhere["device"] != first["device"]
    expected = set()
    for where, value, name in (
        ("torch.get_num_threads", 97, "threads"),
        ("train.objectives.processor_here", "another one", "processor"),
        ("train.objectives.loss_head_tiles", "1 x 1", "loss_head"),
    ):
        monkeypatch.setattr(where, lambda value=value: value)
        expected.add(name)
        assert changed() == expected
    monkeypatch.setattr("native_ops.binary.INTERFACE", 99)
    assert changed() == {*expected, "kernels_interface"}


@pytest.mark.parametrize(
    ("options", "use_lora", "epochs", "kept"),
    [
        ({}, True, 1, False),
        ({}, True, 2, True),
        ({}, False, 1, True),
        ({"reference": "model"}, True, 3, False),
        ({"reference": "precomputed"}, True, 1, True),
        ({"reference_cache": "x"}, True, 1, True),
    ],
)
def test_when_it_is_kept(options: Any, use_lora: bool, epochs: int, kept: bool) -> None:
    made = PreferenceOptions.model_validate(options)
    assert keeps_reference(made, use_lora=use_lora, epochs=epochs) is kept
