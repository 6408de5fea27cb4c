"""What a run's bits depend on is written down, compared and told in words."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from ironcliw.errors import InexactResumeError, OtherModelError
from native_ops import loss_head
from tests.unit.train.checkpoint import samples
from train.fingerprint import Fingerprint, check_resume, differences, digest_of, processor

FINGERPRINT = dataclasses.replace(samples.FINGERPRINT, held_out="9" * 64)
COMPARED = [f.name for f in dataclasses.fields(Fingerprint) if f.name != "model"]
RUN: dict[str, Any] = {
    "model": "small",
    "model_digest": "a" * 64,
    "data_digest": "b" * 64,
    "config_digest": "c" * 64,
    "dtype": torch.float32,
    "micro_batch_tokens": 1024,
    "shards": 4,
    "attention": "sdpa",
}
INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz

processor\t: 1
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 1
"""
ARM = """processor\t: 0
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
"""


def changed(name: str) -> Fingerprint:
    value = getattr(FINGERPRINT, name)
    other = value + 1 if isinstance(value, int) else f"other {value}"
    return dataclasses.replace(FINGERPRINT, **{name: other})


@pytest.mark.parametrize("name", COMPARED)
def test_a_difference_is_told_in_words(name: str) -> None:
    [words] = differences(FINGERPRINT, changed(name))
    label, _, rest = words.partition(": ")
    assert label and "_" not in label
    assert rest.endswith(" here") and " when saved, " in rest


def test_the_words() -> None:
    other = dataclasses.replace(FINGERPRINT, threads=1, data_digest="e" * 64)
    assert differences(FINGERPRINT, other) == [
        f"data: {'b' * 12} when saved, {'e' * 12} here",
        "threads: 2 when saved, 1 here",
    ]


def test_a_models_other_name_is_no_difference() -> None:
    other = dataclasses.replace(FINGERPRINT, model="dir:/elsewhere")
    assert differences(FINGERPRINT, other) == []
    assert check_resume(FINGERPRINT, other, "here") == ()


@pytest.mark.parametrize("name", [name for name in COMPARED if name != "model_digest"])
def test_an_inexact_resume_is_refused_unless_it_is_allowed(name: str) -> None:
    other = changed(name)
    with pytest.raises(InexactResumeError, match=r"step-7 cannot.* when saved.*--allow-inexact"):
        check_resume(FINGERPRINT, other, "step-7")
    allowed = check_resume(FINGERPRINT, other, "step-7", allow_inexact=True)
    assert allowed == tuple(differences(FINGERPRINT, other)) != ()


@pytest.mark.parametrize("allow", [False, True])
def test_another_model_is_always_refused(allow: bool) -> None:
    other = dataclasses.replace(FINGERPRINT, model="large", model_digest="f" * 64)
    with pytest.raises(OtherModelError, match=r"trained from small .*aaaa.* trains large .*ffff"):
        check_resume(FINGERPRINT, other, "step-7", allow)


def test_it_survives_json() -> None:
    assert Fingerprint.from_dict(json.loads(json.dumps(FINGERPRINT.to_dict()))) == FINGERPRINT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": "2"}, "threads is '2', not int"),
        ({"shards": True}, "shards is True, not int"),
        ({"dtype": 32}, "dtype is 32, not str"),
        ({"colour": "red"}, r"\['colour'\] are missing or unknown"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fingerprint.from_dict({**FINGERPRINT.to_dict(), **change})


def test_a_missing_field_is_refused() -> None:
    values = FINGERPRINT.to_dict()
    del values["threads"]
    with pytest.raises(ValueError, match=r"\['threads'\] are missing"):
        Fingerprint.from_dict(values)


def test_here_sees_this_process() -> None:
    found = Fingerprint.here(**RUN)
    assert found.torch_version == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert found.torch_level == torch.backends.cpu.get_cpu_capability()
    assert (found.loss_head_tile, found.loss_head_rows) == (loss_head.TILE, loss_head.ROWS)
    assert (found.dtype, found.device) == ("float32", "cpu")
    assert found.processor
    assert found == Fingerprint.here(**RUN)


def test_threads_are_those_of_now() -> None:
    before, threads = Fingerprint.here(**RUN), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert differences(before, Fingerprint.here(**RUN)) == [
            f"threads: {threads} when saved, {threads + 1} here"
        ]
    finally:
        torch.set_num_threads(threads)


def test_kernels_may_be_off() -> None:
    assert Fingerprint.here(**RUN, kernels=False).native_level == "off"
    assert Fingerprint.here(**RUN).native_level != "off"


def test_the_number_of_workers_counts_without_a_fixed_order() -> None:
    two, four = (Fingerprint.here(**RUN, world_size=n, fixed_order=True) for n in (2, 4))
    assert differences(two, four) == []
    two, four = (Fingerprint.here(**RUN, world_size=n, fixed_order=False) for n in (2, 4))
    assert differences(two, four) == ["workers: 2 when saved, 4 here"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (INTEL, "vendor_id GenuineIntel, cpu family 6, model 143"),
        (ARM, "CPU implementer 0x41, CPU architecture 8, CPU variant 0x3, CPU part 0xd0c"),
        ("Hardware\t: unknown\n", ""),
        ("", ""),
    ],
)
def test_processors(text: str, expected: str) -> None:
    assert processor(text) == expected


def test_digests_do_not_depend_on_order() -> None:
    assert digest_of({"a": 1, "b": 2.0}) == digest_of({"b": 2.0, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_a_manifest_of_before_says_nothing_of_held_out_rows() -> None:
    old = dataclasses.replace(FINGERPRINT, held_out="")
    assert "held_out" not in old.to_dict()
    assert Fingerprint.from_dict(old.to_dict()) == old
    assert differences(old, FINGERPRINT) == differences(FINGERPRINT, old) == []


def test_a_manifest_of_a_whole_model_says_nothing_of_sharding() -> None:
    assert "sharding" not in FINGERPRINT.to_dict()
    cut = dataclasses.replace(FINGERPRINT, sharding="fsdp")
    assert Fingerprint.from_dict(cut.to_dict()) == cut
    assert differences(FINGERPRINT, cut) == ["sharding: none when saved, fsdp here"]
