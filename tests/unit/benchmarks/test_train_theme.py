"""Theme `train` without models: rates, gates, phases of a restart, labels as a trie."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from benchmarks import training_learning, training_recovery, training_saving, training_speed
from benchmarks.harness import BenchmarkError, NotRun, Options, Row, Samples
from benchmarks.training_contestant import OURS, PLAIN, TRL, TUNED, Measured, parse, peak_bytes
from benchmarks.training_decisions import LabelTrie
from benchmarks.training_learning import Learned
from benchmarks.training_story import Blow, Done, Line, Plan, Reported, Story, log_lines
from benchmarks.training_work import Work, prepare
from train.assembly import LOADED, RESUMED
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData
from train.worker import BEGINS

GIBIBYTE = 2**30


def measured(seconds: float, losses: tuple[float, ...] = (2.0, 2.0, 2.0)) -> Measured:
    return Measured((100.0, seconds), (1.0, 1.0), losses, GIBIBYTE)


def rows_of(lengths: list[int]) -> TokenizedData:
    rows = [TokenRow(np.arange(n, dtype=np.int32), np.arange(n) >= n // 2) for n in lengths]
    return TokenizedData.of_rows(rows, [(0, at + 1) for at in range(len(rows))], ["rows"])


def test_a_rate_leaves_the_first_steps_out() -> None:
    found = parse(
        {"done": [5.0, 15.0, 17.0, 21.0], "cpu": [1.0, 4.0, 5.0, 8.0], "losses": [3.0] * 4}
        | {"own": [1.0] * 4, "margins": [0.5] * 4, "peak_bytes": 7}
    )
    assert found.seconds == (10.0, 2.0, 4.0)
    counts = [1000, 1000, 30, 60]
    assert found.rate(counts, warmup=2) == pytest.approx(90 / 6)
    assert found.cpu_cost(counts, warmup=2) == pytest.approx(1000 * 4 / 90)


def test_what_is_no_steps_own_time_is_waited() -> None:
    found = dataclasses.replace(measured(50.0), own_seconds=(9.0, 99.0, 48.0))
    assert training_saving.waited(found) == pytest.approx(3 / 150)


def test_the_memory_of_children_counts(tmp_path: Path) -> None:
    def process(pid: int, parent: int, kilobytes: int) -> None:
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (name) S {parent} 0")
        (folder / "status").write_text(f"Name:\tname\nVmHWM:\t  {kilobytes} kB\nThreads: 1\n")

    process(os.getpid(), 1, 10)
    process(os.getpid() + 1, os.getpid(), 5)
    process(os.getpid() + 2, 1, 100)
    assert peak_bytes(tmp_path) == 15 * 1024


def built(sound: bool = True) -> list[Row]:
    runs = {
        OURS: [measured(1.0)],
        TRL: [measured(4.0)],
        TUNED: [measured(2.0)],
        PLAIN: [measured(2.0)],
    }
    tokens = [(1000, 500)] * 3
    return training_speed.build_rows("bf16", runs, tokens, warmup=2, sound=sound)


def test_each_peer_has_a_goal_of_its_own() -> None:
    speed = built()[:3]
    assert [next(iter(row.peers)) for row in speed] == [TRL, TUNED, PLAIN]
    assert [row.ratio for row in speed] == pytest.approx([4.0, 2.0, 2.0])
    assert [row.met for row in speed] == [True, True, True]


def test_a_speed_counts_for_nothing_where_the_losses_differ() -> None:
    for row in built(sound=False)[:3]:
        assert row.met is False
        assert isinstance(row.ours, NotRun)
        assert row.ours.reason == training_speed.GATE


def test_memory_is_compared_with_trl_as_it_comes() -> None:
    row = built()[-1]
    assert next(iter(row.peers)) == TRL
    assert (row.ratio, row.met) == (1.0, False)


def test_losses_differ_by_a_share_of_theirs() -> None:
    apart = training_speed.relative_differences([1.0, 2.2], [1.0, 2.0])
    assert apart == pytest.approx([0.0, 0.1])


def test_absent_data_are_said(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"gsm8k_train_2000.jsonl is absent; `ironcliw bench"):
        prepare(tmp_path, tmp_path)


def test_all_contestants_are_given_the_same_rows_in_order(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(pickle.dumps(rows_of([4, 6, 8, 10])))
    work = Work("model", str(tmp_path), "fp32", steps=2, batch_size=2, threads=1)
    assert Work.of(work.text()) == work
    rows = work.rows()
    order = [row for step in work.plan() for row in step.rows]
    assert [len(row["input_ids"]) for row in rows] == [4 + 2 * row for row in order]
    first = rows[order.index(0)]
    assert first == {"input_ids": [0, 1, 2, 3], "labels": [-100, -100, 2, 3]}


def told() -> Story:
    texts = [
        (10.5, "[FailurePolicy] RETRY\n  Source: worker group"),
        (11.0, "[Worker Group Initialization] Placement group ready in 0.34s."),
        (14.0, BEGINS % (2, 2)),
        (15.0, BEGINS % (1, 2)),
        (19.0, LOADED % ("small", "torch.bfloat16", "cpu", 120, 61)),
        (19.5, RESUMED % (3, 20)),
        (40.0, "[FailurePolicy] RETRY"),
    ]
    lines = tuple(Line(at, text) for at, text in texts)
    reports = tuple(
        Reported(step, at, 1.0) for step, at in ((4, 8.0), (5, 9.9), (4, 21.0), (5, 22.0))
    )
    return Story((Done("kill worker", 10.0, 5),), reports, lines)


def test_a_restart_is_split_by_what_the_logs_tell() -> None:
    (found,) = training_recovery.recoveries(told())
    expected = {"detect": 0.5, "reschedule": 0.5, "start and import": 4.0}
    assert found.phases == pytest.approx(expected | {"load the model": 4.0, "restore": 0.5})
    assert found.seconds == pytest.approx(9.5)
    assert (found.lost, found.first_step) == (2, 1.0)


def test_a_run_that_does_not_come_back_is_no_recovery() -> None:
    story = told()
    broken = dataclasses.replace(story, lines=story.lines[:4])
    with pytest.raises(BenchmarkError, match="no end of 'load the model'"):
        training_recovery.recoveries(broken)


def test_a_promise_is_measured_by_its_worst_time() -> None:
    (found,) = training_recovery.recoveries(told())
    better = dataclasses.replace(found, lost=0)
    row = training_recovery.node_rows([better, found])[0]
    assert row.ours == Samples((2.0,))


def test_one_worker_saves_after_a_micro_batch_and_several_after_a_step() -> None:
    data = rows_of([32] * 8)
    alone = Plan("m", "d", 1, 1, 2, 1, (Blow("notice", 1),), batch_size=4, micro_batch_tokens=32)
    assert training_recovery.notice_bound(alone, 8.0, data) == pytest.approx(2 + 2)
    two = dataclasses.replace(alone, workers=2)
    assert training_recovery.notice_bound(two, 8.0, data) == pytest.approx(8 + 2)


def test_plans_and_stories_pass_between_processes() -> None:
    plan = Plan("m", "d", 1, 1, 2, 1, (Blow("notice", 1), Blow("kill node", 5)))
    assert Plan.of(json.dumps(dataclasses.asdict(plan))) == plan
    assert Story.of(json.dumps(dataclasses.asdict(told()))) == told()


def test_the_torn_line_of_a_killed_process_is_passed_over(tmp_path: Path) -> None:
    whole = {"timestamp_ns": 2_000_000_000, "message": "later"}
    (tmp_path / "ray-train-app-worker-1.log").write_text(json.dumps(whole) + '\n{"timest')
    early = {"timestamp_ns": 1_500_000_000, "message": "sooner"}
    (tmp_path / "ray-train-sys-controller-2.log").write_text(json.dumps(early) + "\n")
    assert log_lines(tmp_path) == [Line(1.5, "sooner"), Line(2.0, "later")]


def test_an_answer_goes_on_as_some_label_does() -> None:
    trie = LabelTrie([[1, 2, 9], [1, 3, 9], [1, 2, 4, 9]])
    assert trie.after([]) == [1]
    assert trie.after([1]) == [2, 3]
    assert trie.after([1, 2]) == [4, 9]
    assert trie.after([1, 3, 9]) == []
    assert trie.longest == 4


def test_a_row_is_a_prompt_with_the_name_of_its_intent(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    given = [{"text": f"text {number}", "label": "pto_used"} for number in range(9)]
    source.write_text("".join(json.dumps(row) + "\n" for row in given))
    training_learning.write_rows(source, tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len(rows) == 9
    assert rows[3] == {"prompt": "intent of: text 3\n", "completion": " pto used"}
    for _ in range(2):
        training_learning.write_rows(source, tmp_path / "some.jsonl", only=4)
        some = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
        assert len(some) == 4
        assert all(row in rows for row in some)


def test_training_that_took_too_long_has_no_accuracy() -> None:
    learned = Learned(before=0.1, after=0.9, seconds=1000.0, steps=10, rows=320)
    late = training_learning.build_rows(learned, limit=900.0)
    assert [row.met for row in late] == [None, False, False]
    in_time = training_learning.build_rows(learned, limit=1100.0)
    assert [row.met for row in in_time] == [None, True, True]


def test_as_many_steps_as_end_in_time() -> None:
    assert training_learning.steps_in(100.0, 3.0, most=50) == 33
    assert training_learning.steps_in(100.0, 1.0, most=50) == 50
    with pytest.raises(BenchmarkError, match=r"no step of 9.0 s ends within 5 s"):
        training_learning.steps_in(5.0, 9.0, most=50)


def test_the_warm_up_is_shorter_in_a_quick_run(tmp_path: Path) -> None:
    whole = Options(tmp_path, tmp_path)
    assert training_speed.warmup_of(whole) > training_speed.warmup_of(
        dataclasses.replace(whole, quick=True)
    )
