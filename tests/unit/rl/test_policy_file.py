"""Policy files: what was written is what is read, and what was not is refused with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.errors import SettingsError
from rl.effects import EFFECTS
from rl.policy_file import _digest, load_policy, save_policy
from rl.queue_parameters import QueueParameters
from tests.unit.rl.made_policies import made_policy, wide_guard


def test_a_policy_comes_back_as_it_was(tmp_path: Path) -> None:
    policy = made_policy(3, margin=0.25)
    saved = save_policy(tmp_path / "one.npz", policy)
    found = load_policy(tmp_path / "one.npz")
    assert found.digest == saved.digest and len(found.digest) == 64
    assert (found.tau, found.margin, found.reach) == (0.02, 0.25, 0.15)
    assert found.parameters == policy.parameters
    assert found.training == {"seed": 3}
    for (weight, bias), (other, of_other) in zip(found.layers, policy.layers, strict=True):
        assert np.array_equal(weight, other) and np.array_equal(bias, of_other)
    assert np.array_equal(found.guard.precision, policy.guard.precision)


def test_equal_policies_are_equal_bytes_and_others_other_digests(tmp_path: Path) -> None:
    digests = [
        save_policy(tmp_path / f"{number}.npz", policy).digest
        for number, policy in enumerate([made_policy(3), made_policy(3), made_policy(4)])
    ]
    assert digests[0] == digests[1] != digests[2]
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "1.npz").read_bytes()


def _rewritten(path: Path, **entries: Any) -> None:
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    found.update(entries)
    with path.open("wb") as opened:
        np.savez(opened, allow_pickle=False, **found)


def _with_page(path: Path, **values: Any) -> None:
    """Write a file anew whose page has other values (None: without it), and the hash of all."""
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    page = {**json.loads(str(found.pop("page"))), **values}
    text = json.dumps({name: one for name, one in page.items() if one is not None})
    found.pop("digest")
    _rewritten(path, page=np.array(text), digest=np.array(_digest(found, text)))


def test_a_queue_aware_base_is_in_the_file_with_its_parameters(tmp_path: Path) -> None:
    path, parameters = tmp_path / "one.npz", QueueParameters(order_left=1.4, look_ahead=0.2)
    saved = save_policy(path, made_policy(3, parameters=parameters))
    assert load_policy(path).parameters == parameters
    greedy = save_policy(tmp_path / "two.npz", made_policy(3))
    assert saved.schema != greedy.schema and saved.digest != greedy.digest
    other = replace(parameters, look_ahead=0.3)
    assert save_policy(path, made_policy(3, parameters=other)).digest != saved.digest


def test_what_effects_cost_is_in_the_file_and_another_schema(tmp_path: Path) -> None:
    path, effects = tmp_path / "one.npz", np.arange(len(EFFECTS), dtype=np.float32)
    saved = save_policy(path, made_policy(3, effects=effects))
    found = load_policy(path)
    assert found.effects is not None and np.array_equal(found.effects, effects)
    plain = save_policy(path, made_policy(3))
    assert plain.schema != saved.schema and load_policy(path).effects is None
    assert not saved.is_silent and not replace(saved, layers=made_policy().layers).is_silent
    silent = saved.silent()
    assert silent.is_silent and made_policy().is_silent and not made_policy(3).is_silent
    assert save_policy(path, silent).schema == plain.schema


def test_a_file_of_the_time_of_one_base_has_that_base(tmp_path: Path) -> None:
    path, policy = tmp_path / "one.npz", made_policy(3)
    save_policy(path, policy)
    _with_page(path, base=None)
    assert load_policy(path).parameters == policy.parameters


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": "lazy"}, "is of a policy 'lazy'; it must be one of greedy, queue-aware"),
        ({"base": "queue-aware"}, "was trained with other features"),
        ({"parameters": {"risk": -1.0}}, "risk of the greedy policy is -1.0"),
    ],
)
def test_a_base_that_is_none(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    path = tmp_path / "one.npz"
    save_policy(path, made_policy(3))
    _with_page(path, **values)
    with pytest.raises(SettingsError, match=message):
        load_policy(path)


def test_a_changed_weight_is_told(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    save_policy(path, made_policy(3))
    with np.load(path) as file:
        weight = file["weight_0"].copy()
    weight[0, 0] += 1
    _rewritten(path, weight_0=weight)
    with pytest.raises(SettingsError, match=r"is damaged: its content has the hash \w{12}, and it"):
        load_policy(path)


def test_a_file_cut_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    save_policy(path, made_policy(3))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SettingsError, match="is no policy file"):
        load_policy(path)


@pytest.mark.parametrize("content", [b"", b"weights", b"PK\x03\x04 and no more"])
def test_what_is_no_policy_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "one.npz"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"one\.npz is no policy file"):
        load_policy(path)


def test_nobody_is_told_to_trust_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('policy = "greedy"\n[parameters]\n')
    with pytest.raises(
        SettingsError, match=r"mine.toml is no policy file: it is no .npz; give one"
    ):
        load_policy(path)


def test_arrays_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(SettingsError, match="has no page or no digest"):
        load_policy(path)


def test_an_absent_file_and_an_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read \(No such file.*rl train --out"):
        load_policy(tmp_path / "none.npz")
    with pytest.raises(SettingsError, match=r"cannot be written .*give a folder that exists"):
        save_policy(tmp_path / "none" / "one.npz", made_policy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "0" * 64}, "was trained with other features .000000000000, this release has"),
        ({"tau": 0.0}, "tau, margin, reach and limit are .0.0, "),
        ({"margin": float("nan")}, "must be numbers from 0"),
        ({"reach": -1.0}, "must be numbers from 0"),
        ({"layers": ()}, "has no layer"),
        ({"effects": np.zeros(3, dtype=np.float32)}, r"effects has shape \(3,\), it must have \("),
        ({"effects": np.full(len(EFFECTS), np.nan)}, "effects holds what is no number"),
        ({"layers": made_policy(1).layers[1:]}, r"weight_0 has shape \(8, 8\), it must have \(6"),
        ({"guard": replace(wide_guard(), low=np.zeros(3))}, r"low has shape \(3,\)"),
    ],
)
def test_what_could_not_decide_is_not_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        save_policy(tmp_path / "one.npz", made_policy(3, **changes))
    assert not list(tmp_path.iterdir())


def test_a_weight_that_is_no_number(tmp_path: Path) -> None:
    policy = made_policy(3)
    policy.layers[1][0][2, 2] = np.nan
    with pytest.raises(SettingsError, match="weight_1 holds what is no number"):
        save_policy(tmp_path / "one.npz", policy)


def test_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.npz"
    monkeypatch.setattr("rl.policy_file.FORMAT", 7)
    save_policy(path, made_policy(3))
    monkeypatch.undo()
    with pytest.raises(SettingsError, match="has format 7, this release reads 1"):
        load_policy(path)
