"""Theme `train`, its parts on preferences, without models: comparisons, pairs of labels."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from benchmarks import training_preferences
from benchmarks.harness import BenchmarkError, NotRun
from benchmarks.preference_learning import Learned, build_rows, nearest_wrong, write_intents
from benchmarks.training_contestant import OURS, PRECOMPUTED, TRL, TRL_PRECOMPUTED, Measured
from benchmarks.training_work import Work, prepare_pairs
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData

GIBIBYTE = 2**30


def measured(seconds: float, gibibytes: int = 1) -> Measured:
    return Measured((100.0, seconds), (1.0, 1.0), (0.7, 0.6, 0.5), gibibytes * GIBIBYTE)


def test_each_reference_has_its_peer() -> None:
    runs = {
        OURS: [measured(2.0)],
        PRECOMPUTED: [measured(1.0)],
        TRL: [measured(6.0, 2)],
        TRL_PRECOMPUTED: [measured(1.5, 4)],
    }
    rows = training_preferences.build_rows("bf16", runs, [8, 8, 8], warmup=2, sound=True)
    assert [row.ratio for row in rows] == pytest.approx([3.0, 1.5, 0.5, 0.25])
    assert [row.met for row in rows] == [True, False, True, True]
    unsound = training_preferences.build_rows("bf16", runs, [8, 8, 8], warmup=2, sound=False)
    assert [row.met for row in unsound] == [False, False, True, True]
    runs[TRL] = [NotRun("absent")]  # type: ignore[list-item]
    rows = training_preferences.build_rows("bf16", runs, [8, 8, 8], warmup=2, sound=True)
    assert [row.met for row in rows] == [False, False, False, True]


def test_a_curve_is_judged_by_losses_and_rewards() -> None:
    ours = dataclasses.replace(measured(1.0), losses=(0.5, 0.5), margins=(0.0, 0.1))
    theirs = dataclasses.replace(ours, losses=(0.5, 0.500025))
    rows = training_preferences.curve_rows("ipo", ours, theirs, note="2 steps")
    assert [row.met for row in rows] == [True, True]
    theirs = dataclasses.replace(ours, margins=(0.0, 0.1002))
    rows = training_preferences.curve_rows("ipo", ours, theirs, note="2 steps")
    assert [row.met for row in rows] == [True, False]
    blind = dataclasses.replace(ours, margins=(math.nan, math.nan))
    assert not training_preferences.curve_rows("ipo", ours, blind, note="")[1].met
    rows = training_preferences.curve_rows("ipo", ours, NotRun("absent"), note="")
    assert [row.met for row in rows] == [False, False]


def test_peers_are_given_the_same_pairs_in_order(tmp_path: Path) -> None:
    rows = [
        TokenRow(np.arange(n, n + 7, dtype=np.int32), np.arange(7) >= 3, (3, 5)) for n in range(4)
    ]
    data = TokenizedData.of_rows(rows, [(0, at + 1) for at in range(4)], ["rows"])
    (tmp_path / "rows").write_bytes(pickle.dumps(data))
    work = Work("model", str(tmp_path), "fp32", 2, 2, 1, "sigmoid")
    order = [row for step in work.plan() for row in step.rows]
    assert work.pairs()[order.index(0)] == {
        "prompt_ids": [0, 1, 2],
        "chosen_ids": [3, 4],
        "rejected_ids": [5, 6],
    }
    assert [pair["prompt_ids"][0] for pair in work.pairs()] == order
    preference = work.config().preference
    assert preference is not None
    assert (preference.loss, preference.beta, preference.reference) == ("sigmoid", 0.1, "model")


def test_absent_pairs(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"gsm8k_solutions.jsonl is absent; `ironcliw bench"):
        prepare_pairs(tmp_path, tmp_path / "made", 8)


VECTORS = {
    "play a song": (1.0, 0.0),
    "play_music": (0.9, 0.1),
    "play music": (0.9, 0.1),
    "next song": (0.8, 0.3),
    "pay bill": (0.0, 1.0),
}


def test_the_confusable_label_is_the_nearest_wrong_one(tmp_path: Path) -> None:
    labels = np.array([(0.9, 0.1), (0.8, 0.3), (0.0, 1.0)])
    texts = np.array([(1.0, 0.0), (1.0, 0.0)])
    assert nearest_wrong(texts, labels, [0, 1]) == [1, 0]

    (tmp_path / "intent").mkdir()
    lines = [
        {"text": "play a song", "label": label} for label in ("play_music", "next_song", "pay_bill")
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "intent" / "clinc150_val.jsonl").write_text(text)
    file = tmp_path / "pairs.jsonl"
    write_intents(tmp_path, "val", 9, file, lambda given: np.array([VECTORS[one] for one in given]))
    pairs = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted((pair["chosen"], pair["rejected"]) for pair in pairs) == [
        (" next song", " play music"),
        (" pay bill", " play music"),
        (" play music", " next song"),
    ]
    assert {pair["prompt"] for pair in pairs} == {"intent of: play a song\n"}


def test_only_intents_have_a_goal() -> None:
    learned = {name: Learned(0.5, 0.89, 1.0, 8, 4) for name in ("CLINC150", "GSM8K")}
    assert [row.met for row in build_rows(learned)] == [None, False, None, None]
