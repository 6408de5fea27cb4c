"""What others demand of the autoscaler is said again exactly, before Ray's own control service."""

from __future__ import annotations

import base64
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from cluster.config import GROUP_LABEL, HEAD_INSTANCE_ID
from cluster.control.demand import bundles_of, ours, refuse_unlike
from cluster.control.gcs_link import GcsLink
from cluster.testing.ports import free_ports
from ironcliw.errors import ClusterError
from tests.unit.cluster.fake_head import OPERATORS, constraint_of

IN, NOT_IN = (OPERATORS.Value(f"LABEL_OPERATOR_{name}") for name in ("IN", "NOT_IN"))
WORDS = [
    "spot", "!spot", "in(a,b)", "!in(a,b)", "in(c,a,b)", "in(a, b)", "in(a)", "!in(a)", "in(,a)",
    "", "!", "in()", "!in()", "in", "!in", "x.y_z-1",
]  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a real GCS, without the rest of a head; it starts in a tenth of a second."""
    folder, [port] = tmp_path_factory.mktemp("gcs"), free_ports(1)
    command = [
        str(Path(ray.__file__).parent / "core/src/ray/gcs/gcs_server"),
        f"--gcs_server_port={port}",
        "--node_ip_address=127.0.0.1",
        f"--log_dir={folder}",
        f"--session_dir={folder}",
        "--session_name=test",
        f"--node_id={'ab' * 28}",
        f"--config_list={base64.b64encode(b'{}').decode()}",
    ]
    with (folder / "output").open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    deadline = time.monotonic() + 20
    try:
        while True:
            assert server.poll() is None, (folder / "output").read_text(errors="replace")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the GCS does not listen"
                time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def gcs(address: str) -> Any:
    return GcsClient(address)


@pytest.fixture
def link(address: str) -> GcsLink:
    return GcsLink(address, HEAD_INSTANCE_ID, GcsClient)


def ask(gcs: Any, *bundles: tuple[dict[str, float], dict[str, str], int]) -> None:
    resources, selectors, counts = zip(*bundles, strict=True)
    gcs.request_cluster_resource_constraint(
        list(resources), list(selectors), list(counts), timeout_s=4.0
    )


def stands(gcs: Any) -> list[Any]:
    """All that is demanded, in an order that the GCS does not change."""
    reply = autoscaler_pb2.GetClusterStatusReply()
    reply.ParseFromString(gcs.get_cluster_status(timeout_s=4.0))
    return [
        (
            dict(one.request.resources_bundle),
            [
                sorted(
                    (term.label_key, term.operator, sorted(term.label_values))
                    for term in selector.label_constraints
                )
                for selector in one.request.label_selectors
            ],
            one.count,
        )
        for constraint in reply.cluster_resource_state.cluster_resource_constraints
        for one in constraint.resource_requests
    ]


OURS = ({"spot": 1.0}, [[(GROUP_LABEL, IN, ["spot"])]], 2)


@pytest.mark.parametrize("words", WORDS)
def test_the_gcs_holds_the_same_after_ours_was_added_and_taken_away(
    gcs: Any, link: GcsLink, words: str
) -> None:
    ask(
        gcs,
        ({"CPU": 1.5, "GPU": 1.0}, {GROUP_LABEL: words, "zone": "!in(x,y)"}, 3),
        ({"a": 1.0}, {}, 1),
    )
    before = stands(gcs)
    link.demand(2)
    assert sorted(stands(gcs), key=str) == sorted([*before, OURS], key=str)
    assert link.look().demanded == 2
    link.demand(0)
    assert sorted(stands(gcs), key=str) == sorted(before, key=str)


@pytest.mark.parametrize("words", WORDS)
def test_the_stand_in_reads_selectors_as_the_gcs_does(gcs: Any, words: str) -> None:
    ask(gcs, ({"CPU": 1.0}, {"k": words}, 1))
    ((_, [[(_, operator, values)]], _),) = stands(gcs)
    read = constraint_of(words)
    # Ray takes an empty list for none, where the stand-in has an empty text
    assert (operator, values or [""]) == (read["operator"], sorted(read["label_values"]))


def test_not_spot_is_not_taken_for_ours(gcs: Any, link: GcsLink) -> None:
    ask(gcs, ({"spot": 1.0}, {GROUP_LABEL: "!spot"}, 2))
    assert link.look().demanded == 0
    link.demand(2)
    assert stands(gcs)[0] == ({"spot": 1.0}, [[(GROUP_LABEL, NOT_IN, ["spot"])]], 2)


def test_what_was_demanded_after_the_last_look_stays(gcs: Any, link: GcsLink) -> None:
    ask(gcs, ({"CPU": 1.0}, {}, 1))
    link.look()
    ask(gcs, ({"CPU": 7.0}, {}, 1))
    link.demand(2)
    assert stands(gcs) == [({"CPU": 7.0}, [], 1), OURS]


def message(*selectors: list[tuple[str, int, list[str]]]) -> Any:
    """A constraint as the GCS gives it: alternatives of terms."""
    constraint = autoscaler_pb2.ClusterResourceConstraint()
    one = constraint.resource_requests.add(count=3)
    one.request.resources_bundle["CPU"] = 2.0
    for selector in selectors:
        terms = one.request.label_selectors.add().label_constraints
        for key, operator, values in selector:
            terms.add(label_key=key, operator=operator, label_values=values)
    return constraint


@pytest.mark.parametrize(
    ("operator", "values", "words"),
    [
        (IN, ["spot"], "spot"),
        (NOT_IN, ["spot"], "!spot"),
        (IN, ["b", "a"], "in(a,b)"),
        (NOT_IN, ["b", "a"], "!in(a,b)"),
    ],
)
def test_each_operator_has_its_words(operator: int, values: list[str], words: str) -> None:
    (bundle,) = bundles_of([message([(GROUP_LABEL, operator, values)])])
    assert (bundle.selector, bundle.count, bundle.unlike) == ({GROUP_LABEL: words}, 3, "")
    refuse_unlike([bundle])


@pytest.mark.parametrize(
    ("selectors", "words"),
    [
        ([[(GROUP_LABEL, IN, ["a"])], [(GROUP_LABEL, IN, ["b"])]], "2 alternative label selectors"),
        ([[(GROUP_LABEL, IN, ["a"]), (GROUP_LABEL, NOT_IN, ["b"])]], "LABEL_OPERATOR_NOT_IN"),
        ([[(GROUP_LABEL, 0, ["a"])]], GROUP_LABEL),
        ([[(GROUP_LABEL, IN, ["a,b"])]], "a,b"),
        ([[(GROUP_LABEL, IN, ["!a"])]], "!a"),
        ([[(GROUP_LABEL, IN, ["in(a)"])]], r"in\(a\)"),
    ],
)
def test_what_has_no_words_is_refused(selectors: Any, words: str) -> None:
    found = bundles_of([message(*selectors)])
    with pytest.raises(
        ClusterError, match=rf"3 times {{'CPU': 2.0}} has .*{words}.* left as it is"
    ):
        refuse_unlike([*found, ours(1)])


def test_constraints_of_placement_are_refused() -> None:
    constraint = message()
    placement = constraint.resource_requests[0].request.placement_constraints.add()
    placement.anti_affinity.label_name = "x"
    with pytest.raises(ClusterError, match="has constraints of placement"):
        refuse_unlike(bundles_of([constraint]))
