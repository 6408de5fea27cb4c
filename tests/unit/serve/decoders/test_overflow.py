"""Numbers that pass float16's range: where they break an answer, and which precision helps.

The message of `serve.generation.sampling.draw` says no more than this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from ironcliw.errors import IroncliwError
from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.native import NativeDecoder
from serve.generation.protocol import Sampling
from serve.generation.sampling import DrawContext, draw
from tests.unit.serve.decoders.small_models import Case, make_case, step

LARGE = {"values": {"v_proj": 1e5}, "activations": {"gate_proj": 1e4, "up_proj": 1e2}}
"""What the weights of some layers are multiplied with."""


@pytest.fixture(scope="module", params=LARGE)
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A model whose values, or activations, are beyond 65504."""
    path: Path = tmp_path_factory.mktemp(request.param)
    make_case("llama", path)
    file = path / "model.safetensors"
    weights = load_file(file)
    for part, factor in LARGE[request.param].items():
        for name in weights:
            weights[name] *= factor if part in name else 1
    save_file(weights, file, metadata={"format": "pt"})
    return Case(request.param, GenerationFolder.read(path))


def is_broken(case: Case, **options: Any) -> bool:
    decoder = case.decoder(**options)
    assert isinstance(decoder, NativeDecoder) == options.get("native", False)
    logits = decoder.forward(step((0, 0, case.sequence(9))))[-1:]
    try:
        draw(logits, [DrawContext(Sampling(), np.zeros(1, np.int32))])
    except IroncliwError as error:
        assert "pass the range of float16" in str(error)
        return True
    return False


@pytest.mark.parametrize(("precision", "broken"), [("float16", True), ("float32", False)])
def test_float32_helps_torch(large: Case, precision: str, broken: bool) -> None:
    assert is_broken(large, precision=precision) == broken


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_the_kernels_sum_in_float32_and_keep_values_in_float16(large: Case, precision: str) -> None:
    assert is_broken(large, native=True, precision=precision) == (large.model == "values")
