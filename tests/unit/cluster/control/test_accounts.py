"""What the controller writes down: who used machines, whose time it is, how the cluster stands."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from cluster.control.demand import WORKER, WORKER_SELECTOR
from cluster.control.leases import drop, hold
from cluster.control.report import read_report
from cluster.control.status import cloud_status
from cluster.launch.launcher import LaunchError
from cluster.money.cost import report
from cluster.money.prices import PriceTable
from cluster.testing.faults import ApiStorm, ClockSkew
from tests.unit.cluster.clouds import HEAD, VERSIONS
from tests.unit.cluster.controller_bench import Bench

ONE = [(dict(WORKER), dict(WORKER_SELECTOR), 1)]
REPLICA = "SERVE_REPLICA::ironcliw#engine-spot#x1"


def by_use(bench: Bench) -> dict[str, float]:
    """The part of the bill of each user, in hundredths."""
    cloud = bench.cloud
    rows = cloud.ledger.intervals(cloud.now() - timedelta(days=1))
    prices = PriceTable.of(cloud.budget)
    found = report(rows, 0, cloud.ledger.now(), prices, 0.0)
    assert found.total == pytest.approx(sum(found.by_use.values()), abs=1e-5)
    return {user: round(100 * part / found.total) for user, part in found.by_use.items()}


def test_jobs_and_deployments_bear_the_time_they_used(bench: Bench) -> None:
    first, second = bench.launch().name, bench.launch().name
    for name in (first, second):
        bench.head.join(name, idle_ms=5000)
    bench.run(600)
    assert by_use(bench) == {"unattributed": 100}
    bench.head.jobs = {"01": (True, False, {"job_submission_id": "raysubmit_7"})}
    bench.head.actors = [(first, "02", REPLICA)]
    for name in (first, second):
        bench.head.join(name)
    bench.run(600)
    # 600 of 1200 s on each of two machines
    found = by_use(bench)
    assert found["deployment/engine-spot"] == pytest.approx(25, abs=2)
    assert found["job/raysubmit_7"] == pytest.approx(25, abs=2)
    assert found["unattributed"] == pytest.approx(50, abs=3)


def test_nobody_is_charged_for_a_time_in_which_nobody_looked(bench: Bench) -> None:
    name = bench.launch().name
    bench.head.join(name)
    bench.head.actors = [(name, "02", REPLICA)]
    bench.run(100)
    bench.head.is_up = False
    bench.run(1000)
    bench.head.is_up = True
    bench.run(100)
    assert 15 <= by_use(bench)["deployment/engine-spot"] <= 20


def test_a_leased_worker_is_demanded_until_the_lease_is_dropped(bench: Bench) -> None:
    """What is demanded is not removed by the autoscaler, however idle it is."""
    bench.head.join(bench.launch().name, idle_ms=3_600_000)
    bench.run()
    assert bench.head.demand == []
    hold(bench.head, "a notebook", 1, 3600, bench.cloud.now())
    bench.run(600)
    assert bench.head.demand == ONE
    drop(bench.head, "a notebook")
    bench.run()
    assert bench.head.demand == []


def test_a_running_job_keeps_the_workers_it_names(bench: Bench) -> None:
    bench.head.jobs = {"01": (False, False, {"ironcliw-workers": "1"})}
    bench.run(20)
    assert bench.head.demand == ONE
    # a head that is silent for a moment lets nothing go
    bench.head.is_up = False
    bench.run(10)
    bench.head.is_up = True
    bench.run(4)
    assert bench.head.demand == ONE
    bench.head.jobs = {"01": (False, True, {"ironcliw-workers": "1"})}
    bench.run(20)
    assert bench.head.demand == []


def test_money_is_counted_by_the_clouds_clock(bench: Bench) -> None:
    bench.cloud.compute.world.add(ClockSkew(by=86_400.0))
    bench.run(20)
    ledger = bench.controller._ledger
    ahead = (ledger.now() - bench.cloud.now()).total_seconds()
    assert ahead == pytest.approx(86_400, abs=2)


def test_a_listing_from_before_a_sleep_is_not_acted_upon(bench: Bench) -> None:
    name = bench.launch().name
    bench.run()
    bench.cloud.compute.world.add(ApiStorm())
    bench.cloud.clock.advance(8 * 3600)
    bench.controller.tick()
    row = next(one for one in bench.cloud.ledger.intervals(bench.cloud.now()) if one.name == name)
    assert row.ended_at is None
    assert bench.cloud.told("left") == []


def test_the_report_says_how_each_worker_stands(bench: Bench) -> None:
    names = sorted(bench.launch().name for _ in range(3))
    bench.head.join(names[0], idle_ms=7000)
    bench.head.join(names[1], "DRAINING")
    bench.run(14)
    settings = bench.controller._settings
    status = cloud_status(settings, now=bench.cloud.now())
    text = "\n".join(status.lines())
    assert "controller: alive, cloud answers, head answers" in text
    states = ("joined, idle for 7 s", "draining", "not joined")
    for name, state in zip(names, states, strict=True):
        assert re.search(rf"worker {name} \(us-central1-[abc]\): RUNNING, {state}\n", text)
    assert status.to_json()["workers"][1]["node"] == "draining"
    bench.head.is_up = False
    bench.cloud.compute.world.add(ApiStorm())
    bench.run(60)
    later = "\n".join(cloud_status(settings, now=bench.cloud.now()).lines())
    assert "CLOUD DOES NOT ANSWER, HEAD DOES NOT ANSWER" in later
    bench.cloud.clock.advance(60)
    silent = cloud_status(settings, now=bench.cloud.now())
    assert not silent.to_json()["controller_alive"]
    assert "controller: SILENT since 2026-01-15" in silent.lines()[0]


@pytest.mark.parametrize("text", ["", "{}", '{"format_version": 99}', "[1]"])
def test_a_report_that_cannot_be_read_is_none(bench: Bench, text: str) -> None:
    bench.folder.mkdir(exist_ok=True)
    (bench.folder / "controller.json").write_text(text)
    assert read_report(bench.folder) is None


def test_after_a_mismatch_no_more_of_the_same_is_launched(bench: Bench) -> None:
    name = bench.launch().name
    bench.head.report(name, (bench.cloud.clock(), "mismatched"))
    bench.run()
    with pytest.raises(LaunchError, match="no machine of this image is launched until") as caught:
        bench.launch()
    assert caught.value.category == "mismatch"
    assert f"machine {name} does not fit the head" in caught.value.message
    assert bench.cloud.inserts() == 1
    settings = bench.controller._settings
    text = "\n".join(cloud_status(settings, now=bench.cloud.now()).lines())
    assert "not launched:" in text
    assert "no machine of this image is launched" in text
    # a head of other versions, one that was started since, or an hour later
    other = replace(HEAD, versions=replace(VERSIONS, python="3.11.8"))
    bench.cloud.launcher(cluster="ironcliw", head=lambda: other).launch(bench.order)
    since = bench.cloud.now() + timedelta(seconds=1)
    bench.cloud.launcher(cluster="ironcliw", head_since=lambda: since).launch(bench.order)
    bench.cloud.clock.advance(3601)
    bench.launch()
    assert bench.cloud.inserts() == 4
