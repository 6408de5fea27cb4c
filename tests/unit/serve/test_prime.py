"""`PrimeModel` in process and behind a server."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from ironcliw import PrimeModel
from ironcliw.errors import (
    ContextLengthError,
    ModelLoadError,
    ModelNotFoundError,
    NotRunningError,
    RequestError,
    UnavailableError,
    UnsupportedError,
)
from ironcliw.settings import Settings
from tests.unit.ironcliw.streaming import (
    CHAT,
    COMPLETIONS,
    PATIENCE_SECONDS,
    Script,
    StreamingService,
    event,
    refusal,
    spoken,
    streaming_service,
    whole,
)

ROOT = Path(__file__).parents[3]
HI = [{"role": "user", "content": "hi"}]


def card(task: str = "generation", context: int = 64) -> Script:
    """What the server says about a model."""
    facts = {"id": "m", "object": "model", "created": 0, "owned_by": "local", "task": task}
    sizes = {"bytes": 1, "dimensions": 1, "context": context}
    return whole({**facts, **sizes, "licence": "MIT", "available": True, "state": "ready"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StreamingService]:
    monkeypatch.chdir(tmp_path)
    with streaming_service() as service:
        yield service


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    models = {
        "writer": {"source": "fake:300?text=Hello&seconds=0.005", "task": "generation"},
        "endless": {"source": "fake:300?endless=1&context=64&seconds=0.01", "task": "generation"},
        "reader": {"source": "fake:8", "task": "embedding"},
    }
    return Settings(state_dir=tmp_path / "state", models=models)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal model of 61 words, without a chat template, as transformers saves it."""
    folder = tmp_path_factory.mktemp("small-model")
    random = np.random.default_rng(0)
    hidden, inner, words, layers = 32, 64, 61, 2
    projections = {"q": (hidden, hidden), "k": (16, hidden), "v": (16, hidden)}
    shapes = {"model.embed_tokens": (words, hidden), "lm_head": (words, hidden)}
    for layer in range(layers):
        start = f"model.layers.{layer}"
        for name, shape in {**projections, "o": (hidden, hidden)}.items():
            shapes[f"{start}.self_attn.{name}_proj"] = shape
        for name, shape in {"gate": (inner, hidden), "up": (inner, hidden)}.items():
            shapes[f"{start}.mlp.{name}_proj"] = shape
        shapes[f"{start}.mlp.down_proj"] = (hidden, inner)
    norms = ["model.norm"]
    for layer in range(layers):
        names = ("input_layernorm", "post_attention_layernorm")
        norms += [f"model.layers.{layer}.{name}" for name in names]
    weights = {
        f"{name}.weight": random.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    weights |= {f"{name}.weight": np.ones(hidden, np.float32) for name in norms}
    save_file(weights, folder / "model.safetensors")
    config: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    config |= {"vocab_size": words, "tie_word_embeddings": False}
    config |= {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "hidden_act": "silu"}
    config |= {"max_position_embeddings": 128, "rms_norm_eps": 1e-6}
    (folder / "config.json").write_text(json.dumps(config))
    known = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, 61)}
    tokenizer = Tokenizer(WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_in_process(settings: Settings) -> None:
    with PrimeModel.from_pretrained("writer", settings=settings) as model:
        assert repr(model) == "PrimeModel('writer')"
        assert model.generate("hi") == "Hello"
        assert model.generate("hi", max_new_tokens=3) == "Hel"
        assert model.generate("He", raw=True, do_sample=False) == "llo"
        assert model.generate("hi", system="be kind", stop=["lo"]) == "Hel"
        assert model.chat(HI, seed=1) == "Hello"
        pieces = list(model.stream("hi"))
        assert len(pieces) > 1
        assert "".join(pieces) == "Hello"
    with pytest.raises(UnavailableError, match="it was closed"):
        model.generate("hi")


def test_bad_requests_in_process(settings: Settings) -> None:
    with PrimeModel.from_pretrained("endless", settings=settings) as model:
        with pytest.raises(ContextLengthError, match="holds 64"):
            model.generate("x" * 100)
        with pytest.raises(RequestError, match=r"^temperature must be a finite number"):
            model.generate("hi", temperature=float("nan"))
        with pytest.raises(RequestError, match=r"^max_tokens must be greater"):
            model.generate("hi", max_tokens=-1)
        with pytest.raises(RequestError, match=r"^messages\[0\]\.role must be 'system'"):
            model.chat([{"role": "king", "content": "hi"}])
        with pytest.raises(RequestError, match=r"^messages must have at least 1 item"):
            model.chat([])
        with pytest.raises(RequestError, match="'beams' is no option"):
            model.generate("hi", beams=2)
        assert model.generate("hi"), "a refused request does no harm"


def test_leaving_a_stream_frees_the_slot(settings: Settings) -> None:
    models = {
        "long": {
            "source": "fake:300?endless=1&context=8192&seconds=0.01&slots=1",
            "task": "generation",
        }
    }
    one = Settings(state_dir=settings.state_dir, models=models)
    with PrimeModel.from_pretrained("long", settings=one) as model:
        for piece in model.stream("hi", max_tokens=8000):
            assert piece
            break
        started = time.monotonic()
        assert model.generate("hi", max_tokens=1)
    assert time.monotonic() - started < PATIENCE_SECONDS, "the first answer takes over 80 s"


def test_a_model_that_is_dropped_ends_its_thread(settings: Settings) -> None:
    def threads() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "prime-model"]

    model = PrimeModel.from_pretrained("writer", settings=settings)
    assert len(threads()) == 1
    del model
    gc.collect()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while threads():
        assert time.monotonic() < deadline, "the thread did not end"
        time.sleep(0.005)


def test_a_folder_without_a_chat_template_goes_on_with_the_text(
    settings: Settings, small_model: Path
) -> None:
    with PrimeModel.from_pretrained(small_model, settings=settings) as model:
        assert model.model_id == small_model.name
        answer = model.generate("w3 w4 w5", max_tokens=5, do_sample=False)
        assert answer == model.generate("w3 w4 w5", max_tokens=5, temperature=0, raw=True)
        assert len(answer.split()) == 5
        with pytest.raises(RequestError, match="has no chat template"):
            model.chat([{"role": "user", "content": "w3"}])
        with pytest.raises(RequestError, match="has no chat template"):
            model.generate("w3", system="w4")


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_prime_name_with_a_source(
    settings: Settings, small_model: Path, quantization: str
) -> None:
    models = {"prime-7b-chat-v1": {"source": f"dir:{small_model}"}}
    named = Settings(state_dir=settings.state_dir, models=models)
    with PrimeModel.from_pretrained("prime-7b-chat-v1", quantization, settings=named) as model:
        assert len(model.generate("w3 w4 w5", max_tokens=5, do_sample=False).split()) == 5
        backend: Any = model._backend
        [row] = backend._loop.run(backend._manager.get_stats())["models"]
    assert row["precision"] == quantization


@pytest.mark.parametrize("name", ["prime-7b-chat-v1", "prime-13b-reasoning-v1"])
def test_a_prime_name_without_a_source_names_the_setting(settings: Settings, name: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"set models\.{name}\.source"):
        PrimeModel.from_pretrained(name, quantization="8bit", settings=settings)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (("nope",), ModelNotFoundError, r"no model 'nope'; known models: .*writer"),
        (("reader",), RequestError, "'reader' is for embedding, not for generation"),
        (("reader", "8bit"), RequestError, "'reader' is for embedding, not for generation"),
        (("prime-7b-vision-v1",), UnsupportedError, "vision models are not supported yet"),
        (("writer", "16bit"), RequestError, "quantization is '16bit'; give None, '8bit' or '4bit'"),
        (("writer", "8bit", "http://h"), RequestError, "which the server at http://h decides"),
    ],
)
def test_what_cannot_be_loaded(
    settings: Settings, arguments: tuple[str, ...], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        PrimeModel.from_pretrained(*arguments, settings=settings)
    assert not [one for one in threading.enumerate() if one.name == "prime-model"]


def test_behind_a_server(server: StreamingService) -> None:
    server.answer_with(card(), spoken("Hel", "lo"), spoken("yes"))
    with PrimeModel.from_pretrained("m", endpoint=server.url + "/v1", api_key="k") as model:
        assert model.generate("hi", max_new_tokens=9, do_sample=False) == "Hello"
        assert model.chat(HI, temperature=0.5) == "yes"
    assert repr(model) == f"PrimeModel('m', endpoint=Client(base_url={server.url!r}, timeout=60))"
    assert server.received[0][0] == "/v1/models/m"
    assert server.received[0][1]["authorization"] == "Bearer k"
    first, second = server.bodies[1:3]
    assert first["messages"] == HI
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("m", 9, 0.0)
    assert (second["max_tokens"], second["temperature"]) == (64, 0.5)


def test_raw_text_goes_to_the_completions(server: StreamingService) -> None:
    chunk = {"choices": [{"index": 0, "text": " time", "finish_reason": "stop"}]}
    server.answer_with(card(context=0), [event(chunk), event("[DONE]")])
    with PrimeModel.from_pretrained("m", endpoint=server.url) as model:
        assert model.generate("Once upon a", raw=True) == " time"
    assert server.received[1][0] == COMPLETIONS
    assert (server.bodies[1]["prompt"], server.bodies[1]["max_tokens"]) == ("Once upon a", 256)


def test_a_model_without_a_template_behind_a_server_is_asked_once(
    server: StreamingService,
) -> None:
    chunk = {"choices": [{"index": 0, "text": "on", "finish_reason": "stop"}]}
    completed = [event(chunk), event("[DONE]")]
    no_template = refusal(400, "no_chat_template", "it has no chat template")
    server.answer_with(card(), no_template, completed, completed, no_template)
    with PrimeModel.from_pretrained("m", endpoint=server.url) as model:
        assert [model.generate("go"), model.generate("go")] == ["on", "on"]
        with pytest.raises(RequestError, match="it has no chat template"):
            model.chat(HI)
    paths = [path for path, _, _ in server.received[1:]]
    assert paths == [CHAT, COMPLETIONS, COMPLETIONS, CHAT]


def test_a_server_that_refuses(server: StreamingService) -> None:
    server.answer_with(card("embedding"), card("vision"), refusal(404, "model_not_found", "no 'm'"))
    for error, match in [
        (RequestError, "for embedding, not for generation"),
        (UnsupportedError, "vision models are not supported yet"),
        (ModelNotFoundError, "no 'm'"),
    ]:
        with pytest.raises(error, match=match):
            PrimeModel.from_pretrained("m", endpoint=server.url)


def test_no_server() -> None:
    with pytest.raises(NotRunningError, match=r"no server answers at http://127\.0\.0\.1:1 "):
        PrimeModel.from_pretrained("m", endpoint="http://127.0.0.1:1")


def test_behind_a_server_no_engine_is_needed(server: StreamingService) -> None:
    server.answer_with(card(), spoken("Hello"))
    blocked = ["torch", "ray", "transformers", "tokenizers", "numpy", "fastapi", "safetensors"]
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from ironcliw import PrimeModel\n"
        f"with PrimeModel.from_pretrained('m', endpoint={server.url!r}) as model:\n"
        "    print(model.generate('hi'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("Hello\n", "")
