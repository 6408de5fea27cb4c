"""What the Terraform files let in, grant and keep; no provider is asked, so no plan is made."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ironcliw.setting_sections import CloudSettings

from .terraform_files import Block, read_blocks, texts

_REFERENCE = re.compile(r"\b(google_\w+)\.(\w+)")
_VARIABLE = re.compile(r"\bvar\.(\w+)")


@pytest.fixture(scope="module")
def blocks() -> dict[tuple[str, ...], Block]:
    return read_blocks()


def resources(blocks: dict[tuple[str, ...], Block], kind: str) -> dict[str, Block]:
    return {key[2]: body for key, body in blocks.items() if key[:2] == ("resource", kind)}


def test_every_reference_leads_to_a_resource(blocks: dict[tuple[str, ...], Block]) -> None:
    made = {key[1:] for key in blocks if key[0] == "resource"}
    used = {found for text in texts(list(blocks.values())) for found in _REFERENCE.findall(text)}
    assert used <= made
    assert len(used) >= 8


def test_every_variable_is_declared_and_used(blocks: dict[tuple[str, ...], Block]) -> None:
    declared = {key[1] for key in blocks if key[0] == "variable"}
    bodies = [body for key, body in blocks.items() if key[0] != "variable"]
    assert {name for text in texts(bodies) for name in _VARIABLE.findall(text)} == declared


def test_nothing_comes_in_but_the_vpn(blocks: dict[tuple[str, ...], Block]) -> None:
    rules = resources(blocks, "google_compute_firewall")
    assert {name for name, rule in rules.items() if "allow" in rule} == {"vpn", "inside"}
    assert all(rule["direction"] == "INGRESS" for rule in rules.values())

    deny = rules["deny_ingress"]
    assert (deny["deny"], deny["source_ranges"]) == ([{"protocol": "all"}], ["0.0.0.0/0"])
    assert all(
        rule["priority"] < deny["priority"] for name, rule in rules.items() if "allow" in rule
    )

    [allowed] = rules["vpn"]["allow"]
    assert allowed["protocol"] == "udp"
    assert allowed["ports"] == ['${var.vpn == "tailscale" ? 41641 : var.vpn_port}']
    # without a VPN: from our own accounts to our own accounts, from no address
    assert "source_ranges" not in rules["inside"]
    accounts = [f"${{google_service_account.{who}.email}}" for who in ("head", "worker")]
    assert rules["inside"]["source_service_accounts"] == accounts
    assert rules["inside"]["target_service_accounts"] == accounts


def test_the_rules_hold_for_every_address_that_a_worker_can_have(
    blocks: dict[tuple[str, ...], Block],
) -> None:
    [network] = resources(blocks, "google_compute_network").values()
    # such a network would come with subnetworks of other regions
    assert network["auto_create_subnetworks"] is False
    [subnetwork] = resources(blocks, "google_compute_subnetwork").values()
    assert subnetwork["stack_type"] == "IPV4_ONLY"


def test_no_secret_is_in_the_state(blocks: dict[tuple[str, ...], Block]) -> None:
    kinds = {key[1] for key in blocks if key[0] == "resource"}
    assert "google_secret_manager_secret" in kinds
    for kind in kinds:
        assert not kind.startswith(("google_secret_manager_secret_version", "random_", "tls_"))
        assert kind != "google_service_account_key"
    assert "secret_data" not in set(texts(list(blocks.values())))


def granted(blocks: dict[tuple[str, ...], Block], member: str) -> dict[str, Any]:
    """Role of every grant to an account, by kind and name of the grant."""
    return {
        f"{key[1]}.{key[2]}": body["role"]
        for key, body in blocks.items()
        if key[0] == "resource" and body.get("member") == f"${{{member}.member}}"
    }


def test_a_worker_reads_its_two_secrets_and_logs(blocks: dict[tuple[str, ...], Block]) -> None:
    reader = "google_secret_manager_secret_iam_member.worker_reads"
    assert granted(blocks, "google_service_account.worker") == {
        "google_project_iam_member.worker_logs": "roles/logging.logWriter",
        reader: "roles/secretmanager.secretAccessor",
    }
    reads = resources(blocks, "google_secret_manager_secret_iam_member")["worker_reads"]
    assert reads["for_each"] == "${google_secret_manager_secret.worker}"
    [secrets] = resources(blocks, "google_secret_manager_secret").values()
    assert set(re.findall(r'"([a-z-]+)"', secrets["for_each"])) == {"none", "ray-token", "vpn-key"}


def test_the_head_has_its_role_and_may_use_the_workers_account(
    blocks: dict[tuple[str, ...], Block],
) -> None:
    assert granted(blocks, "google_service_account.head") == {
        "google_project_iam_member.head": "${google_project_iam_custom_role.head.id}",
        "google_project_iam_member.head_image": "roles/compute.imageUser",
        "google_service_account_iam_member.head_uses_worker": "roles/iam.serviceAccountUser",
    }
    uses = resources(blocks, "google_service_account_iam_member")["head_uses_worker"]
    assert uses["service_account_id"] == "${google_service_account.worker.name}"


def test_the_settings_that_it_prints_exist(blocks: dict[tuple[str, ...], Block]) -> None:
    printed = blocks[("output", "settings")]["value"]
    names = set(re.findall(r'"(\w+) = ', printed))
    assert names <= set(CloudSettings.model_fields)
    assert {"project", "network", "subnetwork", "token_secret", "vpn_secret"} <= names


def test_its_defaults_are_those_of_the_settings(blocks: dict[tuple[str, ...], Block]) -> None:
    def default(name: str) -> Any:
        return blocks[("variable", name)]["default"]

    assert default("vpn") == CloudSettings().vpn
    assert default("cluster_name") == CloudSettings().cluster_name
    assert {zone.rpartition("-")[0] for zone in CloudSettings().zones} == {default("region")}
