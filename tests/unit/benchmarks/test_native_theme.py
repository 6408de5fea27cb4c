"""Theme `native` and the streams over HTTP, without models: bytes, rows, the busy neighbour."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest

from benchmarks import generation_streams, native_generation, roofline
from benchmarks.generation_work import Work
from benchmarks.harness import BenchmarkError, Figure, NotRun, Samples
from benchmarks.native_accuracy import build_rows as accuracy_rows
from benchmarks.native_generation import OURS, SERVER, decode_rates, neighbour
from native_ops.gguf import GgufFile

LAYERS, HEADS, KV_HEADS, WIDTH, VOCABULARY = 2, 4, 2, 64, 16


def model(path: Path, *, tied: bool) -> GgufFile:
    """A file with an embedding of 2,048 bytes, as much again for the output, and 256 bytes more."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    table = np.zeros((VOCABULARY, WIDTH), np.float16)
    writer.add_tensor("token_embd.weight", table)
    writer.add_tensor("output_norm.weight", np.zeros(WIDTH, np.float32))
    if not tied:
        writer.add_tensor("output.weight", table)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile.read(path)


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_reads_each_matrix_once_and_one_row_of_the_embedding(
    tmp_path: Path, tied: bool
) -> None:
    file = model(tmp_path / "m.gguf", tied=tied)
    assert roofline.weight_bytes(file) == VOCABULARY * WIDTH * 2 + WIDTH * 4


def test_a_token_reads_the_cache_of_its_context(tmp_path: Path) -> None:
    file = model(tmp_path / "m.gguf", tied=True)
    keys_and_values = 2 * LAYERS * KV_HEADS * (WIDTH // HEADS) * 2
    assert roofline.kv_bytes(file, 10) == 10 * keys_and_values
    work = Work([[0] * 8], 4)
    total = roofline.weight_bytes(file) + 10 * keys_and_values
    assert native_generation.traffic(tmp_path / "m.gguf", work) == total


def test_bandwidth_is_bytes_over_seconds() -> None:
    assert roofline.gigabytes_per_second(0.5) == pytest.approx(2 * roofline.READ_BYTES / 1e9)


def test_the_prompt_is_taken_off_the_rate() -> None:
    assert decode_rates([2.0, 3.0], [1.0, 1.0], Work([[1]], 101)) == Samples((100.0, 50.0))


def test_a_rate_below_zero_is_no_figure() -> None:
    rates = decode_rates([1.0], [1.5], Work([[1]], 101))
    assert isinstance(rates, NotRun)
    assert native_generation.share_row(rates, 1.0, {1: Samples.of([1.0])}).met is False


def test_the_share_is_of_the_fastest_read_of_each_round() -> None:
    bandwidth = {1: Samples.of([10.0, 20.0]), 2: Samples.of([20.0, 5.0])}
    row = native_generation.share_row(Samples.of([140.0, 140.0]), 100e6, bandwidth)
    assert row.ratio == pytest.approx(0.7)
    bandwidth = {1: Samples.of([10.0]), 2: Samples.of([20.0])}
    assert row.met is True
    assert native_generation.share_row(Samples.of([129.0]), 100e6, bandwidth).met is False


def test_rows_against_the_peer() -> None:
    stream: dict[str, Figure] = {OURS: Samples.of([25.0]), SERVER: Samples.of([10.0])}
    prompt: dict[str, Figure] = {OURS: Samples.of([90.0]), SERVER: NotRun("absent")}
    assert [row.met for row in native_generation.peer_rows(stream, prompt, None)] == [False, False]
    assert [row.met for row in native_generation.peer_rows(stream, prompt, "avx2")] == [True, False]


def test_rows_beside_a_busy_process() -> None:
    beside: dict[str, Figure] = {OURS: Samples.of([61.0]), SERVER: Samples.of([21.0])}
    kept, against = native_generation.neighbour_rows(Samples.of([100.0]), beside)
    assert (kept.met, against.met) == (True, False)
    assert native_generation.neighbour_rows(Samples.of([103.0]), beside)[0].met is False


def test_the_neighbour_is_busy_and_ends_with_the_block() -> None:
    before = set(psutil.Process().children())
    with neighbour():
        [process] = set(psutil.Process().children()) - before
        deadline = time.monotonic() + 30
        while process.cpu_times().user < 0.2:
            assert time.monotonic() < deadline, "it is not busy"
            time.sleep(0.05)
    assert not process.is_running()


def test_a_neighbour_that_ends_early_spoils_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_generation, "_NEIGHBOUR_SECONDS", 0.0)
    # other tests may have left helpers of `multiprocessing`, which live as long as this process
    before = set(psutil.Process().children())
    with pytest.raises(BenchmarkError, match="ended after 0 s"), neighbour():
        [process] = set(psutil.Process().children()) - before
        process.wait(60)


def test_rows_of_accuracy() -> None:
    assert [row.met for row in accuracy_rows([-0.004, 0.9901, 9.2, 1000.0], 10)] == [True, True]
    assert [row.met for row in accuracy_rows([0.0051, 0.9899, 9.2, 1000.0], 10)] == [False, False]
    assert [row.met for row in accuracy_rows(NotRun("no transformers"), 10)] == [False, False]


def test_rows_of_streams() -> None:
    peer = Samples.of([10.0])
    row = generation_streams.build_row(32, Samples.of([40.0]), peer, None)
    assert (row.name, row.met) == ("32 streams over HTTP", True)
    assert generation_streams.build_row(32, Samples.of([39.0]), peer, None).met is False
    assert generation_streams.build_row(32, Samples.of([39.0]), peer, "avx2").goal is None
    assert generation_streams.build_row(8, Samples.of([25.0]), peer, "avx2").met is True
    assert generation_streams.build_row(1, Samples.of([25.0]), NotRun("x"), None).met is False


class _Answers(BaseHTTPRequestHandler):
    """Answers a completion with as many tokens as were asked for; one fewer for prompt [0]."""

    together = threading.Barrier(3)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert body["ignore_eos"] is True
        if body["prompt"] != [0]:
            self.together.wait(60)
        count = body["max_tokens"] - (body["prompt"] == [0])
        content = json.dumps({"usage": {"completion_tokens": count}}).encode()
        self.send_response(429 if body["max_tokens"] == 7 else 200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def completions() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/completions"
    server.shutdown()
    thread.join()
    server.server_close()


def test_streams_run_at_once_and_are_counted(completions: str) -> None:
    # the server answers none before all three have asked
    assert 0 < generation_streams.ask(completions, Work([[1], [2], [3]], 5)) < 30
    with pytest.raises(BenchmarkError, match="gave 4 tokens instead of 5"):
        generation_streams.ask(completions, Work([[0]], 5))
    with pytest.raises(BenchmarkError, match="answered 429"):
        generation_streams.ask(completions, Work([[0]], 7))
