"""What a run needs of memory, against what real models hold and keep."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from ironcliw.errors import ModelLoadError, TrainingError
from ironcliw.settings import Settings
from tests.unit.train.model.peak_memory import make_large_model, measure
from tests.unit.train.tiny import make_data, make_model
from train.config import TrainingConfig, read_config
from train.data.plan import MicroBatch, pack
from train.loop.compute import Computer
from train.model.adapters import add_adapters, trainable
from train.model.fused import fuse
from train.model.load import load_base, model_folder
from train.model.memory import HEADROOM, available_bytes, check_memory, estimate
from train.model.sizes import ModelSizes, read_sizes

CONFIGS = Path(__file__).parents[4] / "train" / "configs"
CPU = torch.device("cpu")
BF16, FP32 = torch.bfloat16, torch.float32
# a model of 7 billion weights in layers like LLaMA's
LARGE = ModelSizes(
    {
        "model.embed_tokens.weight": (32000, 4096),
        "lm_head.weight": (32000, 4096),
        **{
            f"model.layers.{layer}.{name}.weight": shape
            for layer in range(32)
            for name, shape in {
                **{f"self_attn.{one}_proj": (4096, 4096) for one in "qkvo"},
                "mlp.gate_proj": (11008, 4096),
                "mlp.up_proj": (11008, 4096),
                "mlp.down_proj": (4096, 11008),
            }.items()
        },
    },
    layers=32,
    hidden=4096,
    width=11008,
)


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"model_name": "some", **changes})


def test_weights_and_adapters_of_a_large_model() -> None:
    need = estimate(LARGE, config(lora_rank=16), BF16)
    assert LARGE.weights == 6_738_149_376  # LLaMA-2-7B without its norms
    assert need.weights == 2 * LARGE.weights
    # 16 x (4 x 8192 + 3 x 15104) numbers in each of 32 layers
    assert LARGE.trained(config(lora_rank=16)) == 39_976_960
    # and 2 for the copy that bfloat16 products are made of
    assert need.trained == 39_976_960 * (4 + 4 + 8 + 12 + 4 + 2)
    assert LARGE.trained(config(lora_targets=["q_proj"], lora_rank=8)) == 32 * 8 * 8192
    assert LARGE.trained(config(use_dora=True)) > LARGE.trained(config())


LLAMA_2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
SPOT_GIBIBYTES = 32
RESERVE_GIBIBYTES = 4
"""Of a worker: its system, Ray's processes and object store, and torch's own libraries."""


def test_the_example_of_seven_billion_fits_a_spot_machine(tmp_path: Path) -> None:
    import transformers

    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B))
    made = transformers.AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(made)
    shapes = {name: tuple(each.shape) for name, each in model.named_parameters()}
    # published in 16 bits
    count = sum(each.numel() for each in model.parameters())
    sizes = ModelSizes(shapes, 32, 4096, 11008, stored=2 * count)
    assert count == 6_738_415_616
    run = read_config(CONFIGS / "prime-7b-chat.yaml")
    assert run.model_name == "prime-7b-chat-v1"
    available = (SPOT_GIBIBYTES - RESERVE_GIBIBYTES) * 2**30
    # such a machine may have no bfloat16, and float32 is twice as much
    for dtype in (BF16, FP32):
        need = check_memory(run.model_name, sizes, run, dtype, available)
        # all of it would be 27 GB in float32, and is never held
        assert need.loading == 2 * count
        assert need.total < 15.5e9
    plain = run.model_copy(update={"quantization": None})
    with pytest.raises(TrainingError, match="it would fit with quantization: nf4"):
        check_memory(run.model_name, sizes, plain, FP32, available - 2 * 2**30)


_PIECES = {"sharding": {"mode": "fsdp"}, "shards": 2, "workers": 2}
CASES: tuple[dict[str, Any], ...] = (
    {"use_lora": False},
    {"use_lora": False, "gradient_checkpointing": True},
    {"lora_rank": 16, "lora_dropout": 0.1},
    {"lora_rank": 16, "gradient_checkpointing": True},
    {"lora_rank": 16, "precision": "bf16", "micro_batch_tokens": 1024},
    {"lora_rank": 256},
    {"lora_rank": 256, "precision": "bf16"},
    {"lora_rank": 16, "preference": {}},
    {"lora_rank": 16, "quantization": "nf4"},
    {"lora_rank": 16, "precision": "bf16", "quantization": "nf4"},
    {"lora_rank": 16, **_PIECES},
    {"lora_rank": 16, "precision": "bf16", **_PIECES},
    {"use_lora": False, **_PIECES},
)
_OF_ANY_RUN = 20 * 2**20
"""Of the headroom: what a run of any size was seen to use."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells of peaks")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_estimate_is_near_a_measured_peak(case: dict[str, Any], tmp_path: Path) -> None:
    found = measure(tmp_path, make_large_model(tmp_path / "model"), **case)
    estimated = found["total"] - HEADROOM + _OF_ANY_RUN
    assert 0.95 <= estimated / found["measured"] <= 1.2, found


def test_packed_weights() -> None:
    need = estimate(LARGE, config(quantization="nf4"), BF16)
    linear = LARGE.weights - 2 * 32000 * 4096
    assert sum(LARGE.linear) == linear
    unpacked = 4096 * 11008 * (6 + 2)
    assert need.weights == 2 * 2 * 32000 * 4096 + linear * 9 // 16 + unpacked
    assert need.loading == 2 * LARGE.weights


def test_adapters_of_packed_layers_keep_more() -> None:
    run, packed = config(), config(quantization="nf4")
    more = 2048 * 32 * (6 * 4096 + 11008) * 12
    plain = estimate(LARGE, run, BF16).activations
    assert estimate(LARGE, packed, BF16).activations == plain + more
    assert estimate(LARGE, config(use_dora=True), BF16).activations == plain + more
    wide = estimate(LARGE, run, FP32).activations
    assert estimate(LARGE, packed, FP32).activations == wide + more // 12 * 9


def test_full_training_has_no_frozen_weights() -> None:
    need = estimate(LARGE, config(use_lora=False), BF16)
    assert need.weights == 0
    # and 4 for the weights as they were read
    assert need.trained == (32 + 4) * LARGE.weights


def test_shards_are_kept_by_the_workers_that_compute_them() -> None:
    alone = estimate(LARGE, config(shards=5), BF16)
    of_two = estimate(LARGE, config(shards=5), BF16, workers=2)
    # two shards' gradients fewer; of each worker one that is gathered, and gloo's copy of it
    assert of_two.trained - alone.trained == (2 * 8 - 2 * 4) * LARGE.trained(config())


def test_pieces_of_a_model_need_less_the_more_workers_there_are() -> None:
    cut = {"sharding": {"mode": "fsdp"}, "use_lora": False, "shards": 64, "batch_size": 64}
    needs = {count: estimate(LARGE, config(**cut), FP32, count) for count in (1, 2, 8, 64)}
    for count, need in needs.items():
        assert need.trained == -(-36 * LARGE.weights // count)
        assert need.weights == 0
        assert need.activations == needs[1].activations
        assert need.gathered == needs[1].gathered
    # embedding and head, a layer twice, and a gradient of the larger of them three times
    shared, layer = 2 * 32000 * 4096, (LARGE.weights - 2 * 32000 * 4096) // 32
    assert needs[1].gathered == 4 * (shared + 2 * layer + 3 * shared)
    frozen = estimate(LARGE, config(sharding={"mode": "fsdp"}), BF16, 4)
    assert frozen.weights == LARGE.weights // 2
    assert frozen.gathered == 2 * (shared + 2 * layer)
    # with few activations most is held when embedding and head have just been gathered
    few = {"sharding": {"mode": "fsdp"}, "micro_batch_tokens": 16}
    need = estimate(LARGE, config(**few), BF16, 4)
    assert need.activations + need.gathered == 2 * (2 * shared + layer)


def test_the_message_says_how_many_workers_would_do() -> None:
    with pytest.raises(TrainingError, match="needs about 2") as caught:
        check_memory("big", LARGE, config(use_lora=False), FP32, int(64e9))
    assert "; with 8 workers and sharding.mode: fsdp each would need about " in caught.value.message
    run = config(use_lora=False, sharding={"mode": "fsdp"}, shards=8)
    check_memory("big", LARGE, run, FP32, int(64e9), workers=8)
    with pytest.raises(TrainingError, match=r"what is gathered [0-9.]+ GB\).*with 8 workers"):
        check_memory("big", LARGE, run, FP32, int(64e9), workers=4)
    with pytest.raises(TrainingError, match=r"with 64 workers .* GB, which is still too much"):
        check_memory("big", LARGE, run, FP32, int(4e9))
    with pytest.raises(TrainingError) as caught:
        check_memory("big", LARGE, config(quantization="nf4"), FP32, int(1e9))
    assert "fsdp" not in caught.value.message


def test_what_needs_less() -> None:
    usual = estimate(LARGE, config(), BF16).activations
    assert estimate(LARGE, config(micro_batch_tokens=1024), BF16).activations * 2 == usual
    assert estimate(LARGE, config(gradient_checkpointing=True), BF16).activations < usual / 6
    assert estimate(LARGE, config(lora_dropout=0.1), BF16).activations > usual
    assert estimate(LARGE, config(), FP32).activations > 1.7 * usual


@pytest.mark.parametrize(
    ("changes", "gigabytes", "advice"),
    [
        ({}, 40, None),
        ({}, 24, "it would fit with micro_batch_tokens: 1024"),
        ({"gradient_checkpointing": True}, 14.5, "it would fit with quantization: nf4"),
        ({"micro_batch_tokens": 65536, "lora_rank": 1}, 14.0, "gradient_checkpointing: true and"),
        ({"use_lora": False}, 24, "it would fit with use_lora: true, micro_batch_tokens: 1024"),
        ({}, 8, "take a smaller model, or a larger machine"),
    ],
)
def test_the_message_says_what_would_fit(
    changes: dict[str, object], gigabytes: float, advice: str | None
) -> None:
    available = int(gigabytes * 1e9)
    if advice is None:
        assert check_memory("big", LARGE, config(**changes), BF16, available).total <= available
        return
    with pytest.raises(TrainingError, match=r"'big' in bfloat16 needs about [0-9.]+ GB") as caught:
        check_memory("big", LARGE, config(**changes), BF16, available)
    assert f"{gigabytes:.2f} GB are available (frozen weights" in caught.value.message
    assert advice in caught.value.message


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_the_counts_are_those_of_the_loaded_model(tmp_path: Path, kind: str) -> None:
    _compare_counts(make_model(tmp_path, kind), config())


def test_the_bundled_model(tmp_path: Path) -> None:
    _compare_counts(model_folder("SmolLM2-135M-Instruct", Settings(state_dir=tmp_path)), config())


def _compare_counts(folder: Path, run: TrainingConfig) -> None:
    sizes = read_sizes(folder)
    assert sizes is not None
    base = load_base("some", folder, "digest", FP32, CPU)
    held = sum(each.numel() * each.element_size() for each in base.module.parameters())
    assert estimate(sizes, run, FP32).weights == held
    adapted = add_adapters(base, run)
    assert sizes.trained(run) == sum(each.numel() for _, each in trainable(adapted))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_activations_are_about_what_autograd_keeps(tmp_path: Path, dropout: float) -> None:
    import transformers

    wide = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    transformers.LlamaForCausalLM(wide).save_pretrained(tmp_path)
    run = config(micro_batch_tokens=512, lora_dropout=dropout)
    model = add_adapters(load_base("some", tmp_path, "digest", FP32, CPU), run)
    fuse(model)
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    data = make_data(rows=8, longest=65)
    used = int(data.offsets[-1])
    batch = pack(data, MicroBatch(tuple(range(8)), used, int(data.supervised.sum())))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        Computer(model, CPU).loss_sum(batch)
    real = sum(each.nbytes() for each in kept.values())
    sizes = read_sizes(tmp_path)
    assert sizes is not None
    guessed = estimate(sizes, run.model_copy(update={"micro_batch_tokens": used}), FP32)
    assert real < guessed.activations < 1.6 * real


def test_a_folder_without_safetensors_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "num_hidden_layers": 1}))
    assert read_sizes(tmp_path) is None


@pytest.mark.parametrize(
    "content", [b"", b"abc", struct.pack("<Q", 99) + b"{}", struct.pack("<Q", 2) + b"{["]
)
def test_a_damaged_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is no whole safetensors file"):
        read_sizes(tmp_path)


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    machine = available_bytes(CPU, tmp_path / "none")
    assert machine > 2**26
    (tmp_path / "memory.current").write_text("5000000\n")
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 1000000\n")
    (tmp_path / "memory.max").write_text("9000000\n")
    assert available_bytes(CPU, tmp_path) == 5_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(CPU, tmp_path) > 2**26
