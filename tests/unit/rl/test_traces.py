"""Reading the data folder's traces, from small files of the same form."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from ironcliw.errors import DataError
from rl.regime import load_regime
from rl.traces import GRAPHS, LARGEST_GRAPH, Split, load_traces
from rl.workload import make_day

AZURE = "llm/AzureLLMInferenceTrace_conv.csv"
REGIMES = Path(__file__).parents[3] / "rl" / "regimes"
SIZES = {3.5, 5.5, 9.0, 12.0}  # GB of models that write drafts
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """200 requests, one a second, and 40 workflows of 30 tasks in a chain, backwards."""
    (tmp_path / "llm").mkdir()
    (tmp_path / "dag").mkdir()
    rows = [
        f"2023-11-16 18:{15 + second // 60}:{second % 60:02}.5000000,{300 * second},{12 * second}"
        for second in range(200)
    ]
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows)
    (tmp_path / AZURE).write_text(text)
    tasks = [
        f"flow{number},{7 * task},{7 * (task - 1) if task else ''},t,{number + 1},0,1"
        for number in range(40)
        for task in reversed(range(30))
    ]
    head = "workflow,task,parents,name,runtime_s,memory_bytes,avg_cpu_pct\n"
    (tmp_path / GRAPHS).write_bytes(gzip.compress((head + "\n".join(tasks)).encode()))
    return tmp_path


def test_gaps_and_answers_are_those_of_the_part(folder: Path) -> None:
    traces = load_traces(folder, "azure_conv", "validation")
    assert traces.gaps == pytest.approx([1.0] * 39)
    assert traces.answers == pytest.approx([2.0 * second for second in range(120, 160)])


def test_no_request_and_no_shape_is_in_two_parts(folder: Path) -> None:
    parts = [load_traces(folder, "azure_conv", split) for split in SPLITS]
    answers = [set(part.answers) for part in parts]
    shapes = [{graph[0][1] for graph in part.graphs} for part in parts]
    for found, count in ((answers, 200), (shapes, 40)):
        assert sum(len(one) for one in found) == len(set.union(*found)) == count


def test_a_shape_keeps_its_order_and_its_edges(folder: Path) -> None:
    for graph in load_traces(folder, "azure_conv", "train").graphs:
        assert len(graph) == LARGEST_GRAPH
        assert [parents for parents, _ in graph] == [
            (),
            *((at,) for at in range(LARGEST_GRAPH - 1)),
        ]


def test_a_day_is_made_of_the_traces_of_its_split(folder: Path) -> None:
    regime = load_regime(REGIMES / "replay.toml")
    day = make_day(regime, 0, "test", 0, data=folder)
    assert day.workflows == make_day(regime, 0, "test", 0, data=folder).workflows
    low, high = regime.arrivals.workflows_per_day
    assert low - 1 <= len(day.workflows) <= high + 1
    gaps = np.diff([workflow.arrival for workflow in day.workflows])
    assert gaps == pytest.approx(np.full(len(gaps), gaps[0]))  # one a second, stretched to a day
    # answers of the test's part alone: 2 s a request, 12 times as long a draft
    lengths = {
        step.home_seconds for one in day.workflows for step in one.steps if step.memory_gb in SIZES
    }
    assert lengths and lengths <= {12 * 2.0 * second for second in range(160, 200)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TIMESTAMP,a,b\nyesterday,1,2\n", r"conv.csv, line 2: \['yesterday', '1', '2'\] is not"),
        ("TIMESTAMP,a,b\n2023-11-16 18:15:00.5,1\n", "line 2: .* is not time, tokens, tokens"),
        ("TIMESTAMP,a,b\n", "has 0 requests; at least 100 are needed"),
    ],
)
def test_a_damaged_trace_is_named(folder: Path, text: str, message: str) -> None:
    (folder / AZURE).write_text(text)
    with pytest.raises(DataError, match=message):
        load_traces(folder, "azure_conv", "test")


def test_damaged_shapes_are_named(folder: Path) -> None:
    (folder / GRAPHS).write_bytes(gzip.compress(b"workflow,task\nf,1\n"))
    with pytest.raises(DataError, match="is not a table of WfInstances' tasks: 'parents'"):
        load_traces(folder, "azure_conv", "test")
    (folder / GRAPHS).write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"wfinstances_tasks.csv.gz cannot be read"):
        load_traces(folder, "azure_conv", "train")
