"""What the controller does with machines that carry its cluster's name: whose they are decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.machines import CLUSTER_LABEL, HEAD_LABEL, TYPE_LABEL
from tests.unit.cluster.clouds import ORDER
from tests.unit.cluster.compute_client import new_request
from tests.unit.cluster.controller_bench import Bench
from tests.unit.cluster.vm_requests import vm_request

NAME = "ironcliw"


def theirs_of(bench: Bench, **labels: str) -> str:
    """A machine with our cluster's name that we have not ordered."""
    request = new_request(cluster=NAME, metadata={})
    carried = {CLUSTER_LABEL: NAME, TYPE_LABEL: "spot", **labels}
    bench.cloud.client.insert(replace(request, labels=carried))
    return request.name


@pytest.mark.parametrize("labels", [{}, {HEAD_LABEL: "89abcdef"}])
def test_it_deletes_none_of_another_head(bench: Bench, labels: dict[str, str]) -> None:
    theirs = theirs_of(bench, **labels)
    bench.run(400)
    assert bench.live() == [theirs]
    assert bench.cloud.told("reaped") == []
    assert bench.cloud.told("launch") == []  # nor does the ledger take it for ours


def test_it_deletes_its_own_that_does_not_join(bench: Bench) -> None:
    theirs = theirs_of(bench, **{HEAD_LABEL: "89abcdef"})
    name = bench.launch().name
    assert sorted(bench.live()) == sorted([name, theirs])
    bench.run(400)
    assert bench.live() == [theirs]


def test_one_from_before_there_was_a_label_is_known_by_the_ledger(bench: Bench) -> None:
    request = bench.cloud.launcher(cluster=NAME).launch(ORDER)
    assert HEAD_LABEL not in request.labels
    bench.run(400)
    assert bench.live() == []
    assert request.name in bench.cloud.told("reaped")[0]


def test_one_of_its_own_whose_labels_were_changed_by_hand_goes_too(bench: Bench) -> None:
    request = bench.launch()
    instance = bench.cloud.compute.world.named(request.name)
    assert instance is not None
    instance.body["labels"] = {CLUSTER_LABEL: NAME}
    bench.run(400)
    assert bench.live() == []
    assert "nobody knows it" in bench.cloud.told("reaped")[0]


def test_the_ledger_knows_many_names(bench: Bench) -> None:
    ledger = bench.cloud.ledger
    ledger.observe([], at=bench.cloud.now())
    assert ledger.reserve(vm_request(name="ours")).granted
    names = [f"n-{count}" for count in range(1200)]
    assert ledger.ordered([*names, "ours"]) == {"ours"}
