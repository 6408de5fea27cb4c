"""The parts of generated text's time: by hand, with the fake decoder, and the command itself."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import generation_profile
from benchmarks.generation_profile import (
    ForwardPass,
    Split,
    TimedDecoder,
    main,
    measure,
    report,
    split,
)
from benchmarks.generation_work import Work
from benchmarks.harness import BenchmarkError
from serve.engines.decoders.fake import FakeDecoder, fake_tokenizer
from serve.engines.decoders.load import LoadOptions

WORK = Work([[1, 2, 3, 4]], 5)


def test_parts_by_hand() -> None:
    passes = [
        ForwardPass(tokens=512, rows=0, began=10.5, ended=12.0),
        ForwardPass(tokens=300, rows=1, began=12.0, ended=13.0),
        ForwardPass(tokens=1, rows=1, began=13.25, ended=13.5),
        ForwardPass(tokens=1, rows=1, began=14.0, ended=14.125),
    ]
    found = split(passes, draws=0.25, began=10.0, ended=15.0)
    assert (found.start, found.prompts, found.steps) == (0.5, 2.5, (0.25, 0.125))
    assert (found.draws, found.between) == (0.25, 1.375)
    assert found.whole == 5.0


def test_a_prompt_beside_streams_is_no_step() -> None:
    assert not ForwardPass(tokens=40, rows=3, began=0, ended=1).is_step
    assert ForwardPass(tokens=3, rows=3, began=0, ended=1).is_step


def test_nothing_to_divide() -> None:
    with pytest.raises(BenchmarkError, match="no forward pass was made"):
        split([], 0.0, 0.0, 1.0)


@pytest.mark.parametrize("streams", [1, 3])
def test_a_run_with_a_decoder(streams: int) -> None:
    decoder = FakeDecoder("fake:300?slots=3&seconds=0.004&token_seconds=0.001&endless=1")
    work = Work([[number, 2, 3, 4] for number in range(streams)], 5)
    found = measure(decoder, work, rounds=2)
    assert decoder.closed
    assert len(found.steps) == 4
    assert all(seconds >= 0.004 + 0.001 * streams for seconds in found.steps)
    assert found.prompts >= 0.004 + 0.001 * 4 * streams
    assert min(found.start, found.draws, found.between) > 0


def test_the_fastest_round_is_shown_and_the_first_is_not_counted() -> None:
    """A clock that each round's number makes faster or slower; only passes look at it."""
    speeds = itertools.chain([0.1, 3.0, 2.0, 5.0], itertools.repeat(9.0))
    times: Iterator[float] = iter(())
    now = 0.0

    def clock() -> float:
        nonlocal now, times
        # began, two for each of the five passes, ended
        if (step := next(times, None)) is None:
            times = itertools.repeat(next(speeds), 11)
            step = 1.0
        now += step
        return now

    found = measure(FakeDecoder("fake:300?slots=1&endless=1"), WORK, rounds=3, clock=clock)
    assert found.steps == pytest.approx([2.0] * 4)


def test_all_else_is_the_decoder_s() -> None:
    decoder = FakeDecoder("fake:258?slots=3&context=99")
    timed = TimedDecoder(decoder)
    assert (timed.slots, timed.context, timed.vocabulary) == (3, 99, decoder.vocabulary)
    with pytest.raises(AttributeError, match="no_such"):
        timed.no_such  # noqa: B018  # the access is the test


def test_report() -> None:
    found = Split(start=0.001, prompts=0.05, steps=(0.01, 0.03, 0.02), draws=0.004, between=0.005)
    text = report(found, WORK, token_bytes=200e6)
    assert "prompt                   50.00 ms   41.7%" in text
    assert "3 steps                  60.00 ms   50.0%" in text
    assert "whole                   120.00 ms  100.0%" in text
    assert "a step: median 20.00 ms, fastest 10.00, slowest 30.00; reads 10.0 GB/s" in text
    assert text.endswith("41.7 tokens/s generated\n")
    assert "GB/s" not in report(found, WORK)


def test_report_of_one_token() -> None:
    text = report(Split(0.1, 0.2, (), 0.1, 0.1), Work([[1]], 1))
    assert "0 steps                   0.00 ms    0.0%" in text
    assert "a step" not in text


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Texts, and the fake decoder in the place of the bundled model."""
    rows = [{"question": f"What is {n} apples?", "answer": "n"} for n in range(40)]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "gsm8k_train_2000.jsonl").write_text(lines, encoding="utf-8")
    fake_tokenizer().save(str(tmp_path / "tokenizer.json"))

    def load(file: Path, cache: Path, options: LoadOptions) -> FakeDecoder:
        return FakeDecoder(f"fake:300?slots={options.slots}&endless=1")

    monkeypatch.setattr("serve.engines.decoders.load.load_gguf", load)
    monkeypatch.setattr(generation_profile, "folder_of", lambda file: tmp_path)
    monkeypatch.setattr(generation_profile, "traffic", lambda file, work: 1e6)
    return tmp_path


def test_the_command(bundled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data", str(bundled), "--file", str(bundled / "m.gguf"), "--rounds", "1"]
    assert main(["--prompt", "9", "--tokens", "6", *common]) == 0
    shown = capsys.readouterr().out
    assert "5 steps" in shown
    assert "GB/s" in shown
    assert main(["--streams", "2", "--tokens", "3", *common]) == 0
    shown = capsys.readouterr().out
    assert "2 steps" in shown
    assert "GB/s" not in shown


def test_what_the_command_refuses(bundled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tokens", "0"])
    assert "0 is not a positive number" in capsys.readouterr().err
    assert main(["--data", str(bundled / "absent"), "--file", str(bundled / "m.gguf")]) == 1
    assert "fetch-data" in capsys.readouterr().err
