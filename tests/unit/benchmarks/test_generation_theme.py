"""Themes `generation` and `decisions` without models: work, rows, figures, commands."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from benchmarks.generation_http import build_rows as http_rows
from benchmarks.generation_http import first_token
from benchmarks.generation_work import Work, build, prompts, stall, waits
from benchmarks.harness import BenchmarkError, Figure, NotRun, Options, Samples
from benchmarks.peers import llama_cpp_python, llama_server
from benchmarks.peers.zero_shot_work import pack, unpack
from benchmarks.themes import decisions, decisions_http, generation
from benchmarks.wrk import WrkResult
from serve.engines.decoders.fake import FakeDecoder, fake_tokenizer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "sft"
    folder.mkdir()
    rows = [
        {"question": f"What is {n} and {n} apples?", "answer": f"It is {2 * n}."} for n in range(40)
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "gsm8k_train_2000.jsonl").write_text(lines, encoding="utf-8")
    tokenizer: tokenizers.Tokenizer = fake_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_work_travels_as_text() -> None:
    work = Work([[1, 2], [3, 4]], 16)
    assert Work.of([work.text()]) == work
    assert work.generated == 32


def test_prompts_have_the_length_and_differ(data: Path) -> None:
    found = prompts(data, data, 8, 50, seed=3)
    assert [len(prompt) for prompt in found] == [50] * 8
    assert len({tuple(prompt[:20]) for prompt in found}) == 8
    assert prompts(data, data, 8, 50, seed=3) == found
    assert prompts(data, data, 8, 50, seed=4) != found


def test_prompts_without_enough_data(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="has no 8 prompts of 5000"):
        prompts(data, data, 8, 5000)
    with pytest.raises(BenchmarkError, match="fetch-data"):
        prompts(tmp_path / "absent", data, 1, 5)


def test_work_of_a_run(data: Path) -> None:
    options = Options(data=data, model=data, quick=True)
    work = generation.choose_work(options, data)
    assert set(work) == {"1 stream", "8 streams", "prefill", "stall"}
    assert [len(prompt) for prompt in work["stall"].prompts] == [64] * 7 + [800]
    assert work["prefill"].new_tokens == 1
    assert work["1 stream"].prompts == work["8 streams"].prompts[:1]


def test_waits_count_what_the_long_prompt_covers() -> None:
    # a token each 10 ms; the second stream then waits from 30 to 75 ms
    times = [[0.0, 0.01, 0.02, 0.03, 0.05], [0.0, 0.01, 0.02, 0.03, 0.075]]
    ratio, usual, longest, first = waits(times, began=0.031, ended=0.08, first=0.049)
    assert ratio == pytest.approx(4.5)
    assert (usual, longest, first) == pytest.approx((10, 45, 49))


def test_waits_count_a_stream_that_is_still_waiting_at_the_end() -> None:
    ratio, _, longest, _ = waits([[0.0, 0.01, 0.02]], began=0.021, ended=0.08, first=0.059)
    assert (ratio, longest) == pytest.approx((6, 60))


async def test_stall_with_a_runner() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from serve.generation.runner import GenerationRunner

    decoder = FakeDecoder("fake:300?slots=8&context=1000&seconds=0.002&token_seconds=0.0001")
    work = Work([[n, n, n] for n in range(7)] + [[9] * 200], 400)
    with ThreadPoolExecutor(1) as executor:
        runner = GenerationRunner(decoder, executor)
        ratio, usual, longest, first = await stall(runner, work)
        assert runner.stats().running == 0
        runner.close()
    assert ratio == pytest.approx(longest / usual)
    assert usual >= 2
    # 200 tokens take 20 ms at least
    assert first >= 20


def test_rows_of_rates() -> None:
    missing: Figure = NotRun("not installed")
    rates: dict[str, Figure] = {
        generation.OURS: Samples.of([120.0]),
        generation.BF16: Samples.of([100.0]),
        generation.SERVER: missing,
    }
    rows = {row.name: row for row in generation.rate_rows("8 streams", rates)}
    assert rows["8 streams against transformers bf16"].met is True
    assert rows["8 streams against llama.cpp server"].met is None
    prefill = generation.rate_rows("prefill", rates)
    assert [str(row.goal) for row in prefill] == ["None", ">= 8x"]
    assert prefill[0].name == "prompt of 800 tokens against transformers bf16"
    [*_, one] = generation.rate_rows("1 stream", rates, "avx2")
    assert str(one.goal) == ">= 2x"


def test_rows_of_stalls() -> None:
    rows = generation.stall_rows([[2.0, 10.0, 20.0, 300.0], [3.2, 10.0, 32.0, 310.0]])
    assert [row.ours for row in rows][1:3] == [Samples((10.0, 10.0)), Samples((20.0, 32.0))]
    assert [row.met for row in rows] == [True, None, None, None]
    assert generation.stall_rows([[3.5, 10.0, 35.0, 300.0]])[0].met is False


def test_rows_over_http() -> None:
    pairs = [(0.030, 0.025), (0.031, 0.024), (0.052, 0.024)]
    rows = http_rows(pairs, Samples.of([2.3]))
    assert [row.met for row in rows] == [True, None, None, False]
    assert isinstance(rows[0].ours, Samples)
    assert rows[0].ours.median == pytest.approx(7.0)


class _Stream(BaseHTTPRequestHandler):
    """Answers a streamed completion; without [DONE] when asked for one token."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert body["stream"] is True
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'data: {"choices": []}\n\n')
        if body["prompt"] != [0]:
            self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def stream_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/completions"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_first_token_is_timed_and_the_end_checked(stream_url: str) -> None:
    assert 0 < first_token(stream_url, [1, 2]) < 10
    with pytest.raises(BenchmarkError, match="answered 200"):
        first_token(stream_url, [0])


def test_llama_cpps_amx_is_turned_off_where_it_is() -> None:
    words = llama_server.command(Path("s"), Path("m.gguf"), 2, 8080, "flags\t: avx2 amx_int8 fma")
    assert words[-1] == "--no-repack"
    plain = llama_server.command(Path("s"), Path("m.gguf"), 2, 8080, "flags\t: avx2 fma")
    assert plain == words[:-1]
    assert plain[plain.index("--parallel") + 1] == "8"
    few = llama_server.command(Path("s"), Path("m.gguf"), 2, 8080, "", slots=2)
    assert few[few.index("--ctx-size") + 1] == "2048"


def test_peers_that_are_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(llama_cpp_python, "ENVIRONMENT", tmp_path)
    monkeypatch.setattr(llama_server, "ENVIRONMENT", tmp_path / "server")
    assert "make bench-peers" in str(llama_cpp_python.missing())
    assert "make bench-peers" in str(llama_server.missing())
    assert "server for avx2 is not installed" in str(llama_server.missing("avx2"))
    assert "not capped at avx2" in str(llama_cpp_python.missing("avx2"))
    assert llama_cpp_python.variables() == {}
    package = tmp_path / "lib" / "python3.11" / "site-packages"
    (package / "llama_cpp").mkdir(parents=True)
    assert llama_cpp_python.missing() is None
    assert llama_cpp_python.variables()["PYTHONPATH"].endswith(str(package))


def test_texts_and_labels_travel_as_text() -> None:
    packed = [pack("a b", ["x", "y"]), pack("c", ["z"])]
    assert unpack(packed) == [("a b", ["x", "y"]), ("c", ["z"])]


def test_rows_of_accuracy() -> None:
    figures = dict.fromkeys(decisions.ACCURACY, 0.95)
    rows = {row.name: row for row in decisions.accuracy_rows(figures)}
    assert rows["CLINC150 label names accuracy"].ours == Samples((95.0,))
    assert rows["CLINC150 10 examples accuracy"].met is True
    assert rows["CLINC150 5 examples auroc"].met is False
    assert rows["CLINC150 label names ece"].met is False


def test_rows_of_entailment() -> None:
    rates: dict[str, Figure] = {
        decisions.OURS: Samples.of([3.0]),
        decisions.OURS_FP32: Samples.of([1.2]),
        decisions.FP32: Samples.of([1.0]),
        decisions.BF16: NotRun("x"),
    }
    assert [row.met for row in decisions.entailment_rows(rates)] == [True, None, None]


def test_rows_of_decisions_over_http() -> None:
    rows = decisions_http.build_rows(
        [WrkResult(rate=70, p50_ms=9, p99_ms=12)], [WrkResult(rate=100, p50_ms=8, p99_ms=9)], 20
    )
    assert [row.met for row in rows] == [False, None]


def test_questions_are_one_line_of_json() -> None:
    text = decisions_http.questions(["book_flight", "alarm"])
    (question,) = json.loads(text)
    assert "\n" not in text
    assert [choice["value"] for choice in question["choices"]] == ["book flight", "alarm"]


def test_our_contestant_is_named_as_it_is_built() -> None:
    module, _, name = generation.BUILDERS[generation.OURS].partition(":")
    assert (module, name) == (build.__module__, build.__name__)
    assert np.all([":" in builder for builder in generation.BUILDERS.values()])
