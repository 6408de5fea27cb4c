"""A published adapter on a real head: asked for, promoted and rolled back, with no restart."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import openai
import pytest
import torch
from safetensors.torch import save_file

from ironcliw.adapters import describe, publish
from ironcliw.catalog import Catalog
from ironcliw.sources import locate
from tests.integration.conftest import Head

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SMOLLM = "SmolLM2-135M-Instruct"
WIDTH, KEYS, LAYERS, RANK = 576, 192, 30, 8


def write_adapter(folder: Path) -> Path:
    """As peft writes one for SmolLM2, with numbers large enough to change every answer."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(LAYERS):
        for name, outputs in (("q_proj", WIDTH), ("v_proj", KEYS)):
            module = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            a = torch.randn(RANK, WIDTH, generator=generator) * WIDTH**-0.5
            tensors[f"{module}.lora_A.weight"] = a
            tensors[f"{module}.lora_B.weight"] = torch.randn(outputs, RANK, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def text(client: openai.OpenAI, model: str) -> tuple[str, str]:
    given = client.completions.create(
        model=model, prompt="The capital of France is", max_tokens=8, temperature=0
    )
    return given.choices[0].text, given.model


def test_from_publishing_to_the_way_back(head: Head, tmp_path: Path) -> None:
    with openai.OpenAI(
        base_url=head.url + "/v1", api_key="none", timeout=240, max_retries=0
    ) as client:
        base = text(client, SMOLLM)[0]
        record = describe(
            write_adapter(tmp_path / "adapter"),
            name="odd",
            base=SMOLLM,
            base_weights=locate(Catalog()[SMOLLM], tmp_path),
            metrics={},
        )
        publish(head.state, record)
        under, model = text(client, f"{SMOLLM}:odd")
        assert model == f"{SMOLLM}:odd@1"
        assert under != base
        assert text(client, SMOLLM)[0] == base

        assert head.run("models", "promote", "assistant", SMOLLM).returncode == 0
        promoted = head.json("models", "promote", "assistant", f"{SMOLLM}:odd")
        assert promoted["model"] == f"{SMOLLM}:odd@1"
        assert text(client, "assistant") == (under, f"{SMOLLM}:odd@1")
        assert head.json("models", "rollback", "assistant")["model"] == SMOLLM
        assert text(client, "assistant") == (base, SMOLLM)

    rows = {row["id"]: row for row in httpx.get(head.url + "/v1/models", timeout=30).json()["data"]}
    assert rows[f"{SMOLLM}:odd@1"]["state"] == "ready"
    assert 0 < rows[f"{SMOLLM}:odd@1"]["resident_bytes"] < 10_000_000
    assert head.run("models", "unload", f"{SMOLLM}:odd").returncode == 0
