"""What a configuration says when it is wrong, and which of its keys are numbers of the run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import SettingsError
from train.config import TrainingConfig, make_config, read_config
from train.fingerprint import digest_of


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_with_sections_and_changes(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "model_name: small\nlearning_rate: 2e-4\nlora_targets: [q_proj, v_proj]\n"
        "data: {train: [a.jsonl], max_length: 512}\ncheckpoint: {every: 7}\n",
    )
    changes = {"data.max_length": 128, "evaluation.max_rows": 3, "seed": 5}
    config = read_config(path, changes)
    assert config.learning_rate == 2e-4
    assert config.lora_targets == ("q_proj", "v_proj")
    assert config.data.max_length == 128
    assert config.data.train == ("a.jsonl",)
    assert (config.checkpoint.every, config.evaluation.max_rows, config.seed) == (7, 3, 5)
    assert read_config(path).data.max_length == 512


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_name: x\nlora_rnak: 8\n", "lora_rnak: unknown key; did you mean 'lora_rank'?"),
        (
            "model_name: x\ncheckpoint: {evry: 8}\n",
            "checkpoint.evry: unknown key; did you mean 'every'?",
        ),
        (
            "model_name: x\ndata: {max_lenght: 8}\n",
            "data.max_lenght: unknown key; did you mean 'max_length'?",
        ),
        (
            "model_name: x\nevaluation: {max_row: 8}\n",
            "evaluation.max_row: unknown key; did you mean 'max_rows'?",
        ),
        ("model_name: x\nlora_rank: 0\n", r"lora_rank: .*greater than or equal to 1 \(given: 0\)"),
        ("model_name: x\nlearning_rate: fast\n", r'learning_rate: .*\(given: "fast"\)'),
        ("model_name: x\nclip_norm: .inf\n", "clip_norm: Input should be a finite number"),
        ("model_name: x\nlora_alpha: .nan\n", "lora_alpha: Input should be a finite number"),
        ("model_name: x\nschedule: cosin\n", "schedule: .*'cosine'"),
        ("lora_rank: 8\n", "model_name: Field required"),
        ("model_name: x\nname: ../up\n", "name: .*pattern"),
        ("- model_name\n", "holds a list; keys and values are expected"),
        ("", "holds nothing; keys and values are expected"),
        ("model_name: [x\n", "is no YAML: .*line 2"),
    ],
)
def test_a_wrong_file(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        read_config(written(tmp_path, text))
    assert "run.yaml" in raised.value.message


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "lora_rnak: 8\nseed: -1\ncheckpoint: {keep: 1}\n")
    with pytest.raises(SettingsError) as raised:
        read_config(path, source="the job")
    lines = raised.value.message.splitlines()
    assert lines[0] == "the job:"
    assert sorted(line.split(":")[0].strip() for line in lines[1:]) == [
        "checkpoint.keep",
        "lora_rnak",
        "model_name",
        "seed",
    ]


def test_a_file_of_another_kind_is_told_the_known_keys_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "model_name: x\nsuites: []\nadapters: {}\nseeed: 1\ncheckpoint: {often: 1, path: 2}\n",
    )
    with pytest.raises(SettingsError) as raised:
        read_config(path)
    lines = {line.split(":")[0].strip(): line for line in raised.value.message.splitlines()[1:]}
    assert lines["suites"].startswith("  suites: unknown key; known are allow_inexact, ")
    assert lines["adapters"] == "  adapters: unknown key"
    assert lines["seeed"] == "  seeed: unknown key; did you mean 'seed'? (given: 1)"
    # those of a section are others
    assert lines["checkpoint.often"].endswith(
        "known are every, keep, mtbf_hours, storage (given: 1)"
    )
    assert lines["checkpoint.path"] == "  checkpoint.path: unknown key (given: 2)"


def test_keys_that_do_not_fit_together_are_told_after_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "model_name: x\nworkers: 3\nshards: 2\n")
    with pytest.raises(SettingsError) as raised:
        read_config(path, source="the job")
    assert raised.value.message.startswith("the job:\n  workers is 3 and shards is 2: ")


def test_a_default_stands_for_a_section_that_is_absent_or_empty(tmp_path: Path) -> None:
    for text in ("model_name: x\n", "model_name: x\npreference:\n"):
        found = read_config(written(tmp_path, text), defaults={"preference": {}})
        assert found.preference is not None
    given = written(tmp_path, "model_name: x\npreference: {beta: 0.5}\n")
    found = read_config(given, defaults={"preference": {}})
    assert found.preference is not None
    assert found.preference.beta == 0.5


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml: No such file"):
        read_config(tmp_path / "absent.yaml")
    path = tmp_path / "run.yaml"
    path.write_bytes(b"model_name: \xff\xfe")
    with pytest.raises(SettingsError, match="is no YAML"):
        read_config(path)


def test_a_change_below_a_value_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "model_name: x\nseed: 3\n")
    with pytest.raises(SettingsError, match=r"--set seed\.of\.run: seed is no section"):
        read_config(path, {"seed.of.run": 1})


def test_a_section_without_keys_can_be_changed_and_is_the_default(tmp_path: Path) -> None:
    path = written(tmp_path, "model_name: x\ncheckpoint:\n")
    assert read_config(path, {"checkpoint.every": 3}).checkpoint.every == 3
    with pytest.raises(SettingsError, match="checkpoint: "):
        read_config(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 3, "shards": 2}, "workers is 3 and shards is 2: .*raise shards"),
        ({"shards": 9, "batch_size": 8}, "shards is 9 and batch_size 8: .*lower shards"),
        ({"quantization": "nf4", "use_lora": False}, "quantised weights cannot be trained"),
        ({"precision": "bf16", "use_lora": False}, "all weights are trained in float32"),
        ({"use_dora": True, "use_lora": False}, "kinds of LoRA, and use_lora is false"),
        ({"use_rslora": True, "use_lora": False}, "kinds of LoRA, and use_lora is false"),
        ({"embedding": {}, "preference": {}}, "sections preference and embedding; a run is of one"),
        ({"embedding": {}, "quantization": "nf4"}, "encoders are small, and are trained as they"),
        ({"embedding": {}, "batch_size": 5, "shards": 3}, "a shard has two rows at least; raise"),
        (
            {"embedding": {}, "evaluation": {"metrics": ["exact_match"]}},
            "of embeddings, the accuracy of retrieval always is measured",
        ),
        ({"embedding": {"matryoshka": [8, 8]}}, "give each length once, from 1 on"),
        ({"embedding": {"temperature": 0}}, "temperature: .*greater than 0"),
        (
            {"evaluation": {"gate": "retrieval_accuracy"}},
            "gate is 'retrieval_accuracy', and there is no section embedding",
        ),
    ],
)
def test_contradictions(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_config({"model_name": "x", **given}, "test")


@pytest.mark.parametrize(
    ("given", "method"),
    [({}, "lora"), ({"quantization": "nf4"}, "qlora"), ({"use_lora": False}, "full")],
)
def test_the_method(given: dict[str, Any], method: str) -> None:
    assert make_config({"model_name": "x", **given}, "test").method == method


@pytest.mark.parametrize(
    "given",
    [
        {"name": "other"},
        {"workers": 2, "shards": 4},
        {"checkpoint": {"every": 3, "keep": 5, "storage": "gs://bucket/run"}},
        {"evaluation": {"max_rows": 3}},
        {"placement": "spot"},
        {"allow_local": True},
        {"allow_inexact": True},
        {"max_failures": -1},
        {"publish": "bot"},
        {"model_name": "/another/path/of/x"},
        {"data": {"train": ["elsewhere.jsonl"]}},
    ],
)
def test_what_changes_no_bit_is_no_number(given: dict[str, Any]) -> None:
    plain = TrainingConfig(model_name="x", shards=4)
    other = make_config({"model_name": "x", "shards": 4, **given}, "test")
    assert other != plain
    assert digest_of(other.numbers()) == digest_of(plain.numbers())


def test_every_other_key_is_a_number() -> None:
    left_out = {"name", "workers", "checkpoint", "evaluation", "placement", "allow_local"}
    left_out |= {"max_failures", "allow_inexact", "data", "publish", "model_name"}
    left_out |= {"embedding"}  # where there is none, as in the releases before
    # runs from before it could be chosen go on, and the fingerprint says it in words
    left_out |= {"sharding"}
    config = TrainingConfig(model_name="x")
    assert config.numbers().keys() == TrainingConfig.model_fields.keys() - left_out
    for change in ({"seed": 1}, {"learning_rate": 1e-3}, {"max_steps": 3}, {"lora_dropout": 0.1}):
        changed = make_config({"model_name": "x", **change}, "test")
        assert digest_of(changed.numbers()) != digest_of(config.numbers())
    embedding = [
        make_config({"model_name": "x", "embedding": {"temperature": t}}, "test") for t in (0.1, 1)
    ]
    assert len({digest_of(each.numbers()) for each in (*embedding, config)}) == 3


def test_a_sharded_run_is_another_one_whatever_the_number_of_workers() -> None:
    whole = TrainingConfig(model_name="x", shards=4)
    cut = [
        TrainingConfig.model_validate(
            {"model_name": "x", "shards": 4, "workers": workers, "sharding": {"mode": "fsdp"}}
        )
        for workers in (1, 4)
    ]
    assert cut[0].numbers() == cut[1].numbers() == {**whole.numbers(), "sharding": "fsdp"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization": "nf4"}, "quantization is 'nf4' and sharding.mode 'fsdp'"),
        ({"use_dora": True}, "use_dora is true and sharding.mode 'fsdp'"),
        ({"optimizer": "adamw8bit"}, "optimizer is 'adamw8bit' and sharding.mode 'fsdp'"),
        (
            {"evaluation": {"metrics": ["exact_match"], "match": "last_number"}},
            "evaluation.match is 'last_number' and sharding.mode 'fsdp'",
        ),
        ({"embedding": {}}, "there is a section embedding and sharding.mode is 'fsdp'"),
        ({"sharding": {"mode": "zero"}}, "sharding.mode"),
    ],
)
def test_what_cannot_be_sharded_is_refused(changes: dict[str, object], message: str) -> None:
    given = {"model_name": "x", "sharding": {"mode": "fsdp"}, **changes}
    with pytest.raises(SettingsError, match=re.escape(message)):
        make_config(given, "test")
