"""Training operators alone: the loss head and the linear layers with adapters, in time and memory.

Linux only. The shapes are SmolLM2-135M's. Each figure comes from a process of its own, since the
memory that one contestant leaves behind would be free for the next: its first call is measured for
memory, the fastest of the next ones for time. "PEFT's formula" is what its LoRA layers compute,
module by module.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F

from benchmarks.harness import (
    BenchmarkError,
    Figure,
    Goal,
    Options,
    Row,
    Samples,
    interleave,
)
from benchmarks.peers import trl_loss_head
from ironcliw.settings import load_settings
from native_ops import loss_head as head
from native_ops.lora import LoraLayer, lora_linear
from serve.host import use_cpu_capability

THEME = "native"
VOCABULARY, WIDTH, POSITIONS, SUPERVISED = 49152, 576, 512, 0.4
RANK, SCALE = 16, 2.0
LAYERS = {"q, k, v": (576, 192, 192), "gate, up": (1536, 1536)}
OURS, REFERENCE, CHUNKS = "ours", "our torch reference", "chunks of 128 rows in torch"
NAIVE, TRL, PEFT = "naive cross-entropy", trl_loss_head.NAME, "PEFT's formula"
SPEED_GOALS = {NAIVE: 2.5, TRL: 15.0, REFERENCE: 1.2, CHUNKS: None}
MEMORY_GOALS = {NAIVE: 1 / 5, TRL: 1 / 15}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Call = Callable[[], object]


def training_rows(options: Options) -> list[Row]:
    """The rows of both operators, in float32 and bfloat16.

    Raises:
        BenchmarkError: a contestant's process failed.
    """
    rounds = options.rounds or (1 if options.quick else 5)
    missing = trl_loss_head.missing()
    absent: dict[str, Figure] = {} if missing is None else {TRL: missing}
    contestants = [name for name in HEADS if name not in absent]
    rows: list[Row] = []
    for dtype in DTYPES:
        rows += _head_rows(dtype, _measure(options, "head", contestants, dtype, rounds), absent)
        for layers in LAYERS:
            found = _measure(options, layers, (OURS, PEFT), dtype, rounds)
            name = f"LoRA {layers} {dtype}, {POSITIONS} tokens, forward and backward"
            ours, peer = (_rates(found[key]) for key in (OURS, PEFT))
            rows.append(Row(THEME, name, "calls/s", ours, {PEFT: peer}))
    return rows


def _head_rows(
    dtype: str, found: dict[str, list[dict[str, float]]], absent: dict[str, Figure]
) -> list[Row]:
    name = f"loss head {dtype}, {POSITIONS} tokens, {SUPERVISED:.0%} supervised"
    rows = [
        Row(
            THEME,
            f"{name}, forward and backward, against {peer}",
            "calls/s",
            _rates(found[OURS]),
            {peer: _rates(found[peer]) if peer in found else absent[peer]},
            Goal(bound, relative=True) if bound else None,
        )
        for peer, bound in SPEED_GOALS.items()
    ]
    return rows + [
        Row(
            THEME,
            f"{name}, memory, against {peer}",
            "MiB",
            _memory(found[OURS]),
            {peer: _memory(found[peer]) if peer in found else absent[peer]},
            Goal(bound, at_most=True, relative=True) if bound else None,
            "largest resident size over that before the call",
        )
        for peer, bound in MEMORY_GOALS.items()
    ]


def _rates(measured: Sequence[dict[str, float]]) -> Samples:
    return Samples.of(1 / one["seconds"] for one in measured)


def _memory(measured: Sequence[dict[str, float]]) -> Samples:
    return Samples.of(one["mebibytes"] for one in measured)


def _measure(
    options: Options, work: str, contestants: Sequence[str], dtype: str, rounds: int
) -> dict[str, list[dict[str, float]]]:
    calls = {name: partial(_in_process, options, work, name, dtype) for name in contestants}
    return interleave(calls, rounds)


def _in_process(options: Options, work: str, contestant: str, dtype: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.native_training", work, contestant, dtype]
    done = subprocess.run(
        [*command, str(options.threads), str(2 if options.quick else 5)],
        env=options.child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"{contestant} ({work}, {dtype}) failed: {done.stderr[-1500:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def head_call(contestant: str, dtype: torch.dtype) -> Call:
    """The loss of random hidden states under a frozen head, forward and backward."""
    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH).mul_(0.02).to(dtype)
    targets = torch.randint(0, VOCABULARY, (POSITIONS,))
    targets[torch.randperm(POSITIONS)[round(SUPERVISED * POSITIONS) :]] = head.IGNORED

    def call() -> tuple[float, torch.Tensor | None]:
        hidden.grad = None
        loss = HEADS[contestant](hidden, weight, targets)
        torch.autograd.backward(loss)
        return float(loss.detach()), hidden.grad

    return call


def lora_call(contestant: str, dtype: torch.dtype, outputs: Sequence[int]) -> Call:
    """Layers that share their input, adapters in float32, forward and backward."""
    torch.manual_seed(0)
    x = torch.randn(POSITIONS, WIDTH).to(dtype).requires_grad_()
    layers = [
        LoraLayer(
            torch.randn(count, WIDTH).to(dtype),
            None,
            torch.randn(RANK, WIDTH).requires_grad_(),
            torch.randn(count, RANK).requires_grad_(),
        )
        for count in outputs
    ]
    seeds = [torch.randn(POSITIONS, count).to(dtype) for count in outputs]
    forward = lora_linear if contestant == OURS else _peft
    return lambda: torch.autograd.backward(forward(x, layers, SCALE), seeds)


def _ours(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return head.loss_head(hidden, weight, targets)[0]


def _reference(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    # as where nothing was compiled
    with patch.object(head, "_kernel", lambda x, operator, reference: reference):
        return head.loss_head(hidden, weight, targets)[0]


def _naive(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy((hidden @ weight.t()).float(), targets, ignore_index=head.IGNORED)


def _chunks(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The gradient in the forward pass, by rows, all of the vocabulary at once."""
    chosen = (targets != head.IGNORED).nonzero().squeeze(1)
    gradient, loss = torch.zeros_like(hidden), torch.zeros(())
    with torch.no_grad():
        for first in range(0, len(chosen), 128):
            at = chosen[first : first + 128]
            logits = (hidden[at] @ weight.t()).float()
            logits -= logits.logsumexp(1, keepdim=True)
            loss -= logits.gather(1, targets[at, None]).sum()
            logits.exp_()
            logits[torch.arange(len(at)), targets[at]] -= 1
            gradient[at] = logits.to(hidden.dtype) @ weight
    # what an autograd function would give: this loss, that gradient
    backward = (hidden * gradient / len(chosen)).sum()
    return backward + (loss / len(chosen) - backward).detach()


def _peft(x: torch.Tensor, layers: Sequence[LoraLayer], scale: float) -> tuple[torch.Tensor, ...]:
    outputs = []
    for weight, bias, a, b in layers:
        y = F.linear(x, weight, bias)
        outputs.append((y + F.linear(F.linear(x.to(a.dtype), a), b) * scale).to(x.dtype))
    return tuple(outputs)


HEADS = {
    OURS: _ours,
    NAIVE: _naive,
    TRL: trl_loss_head.loss_head,
    REFERENCE: _reference,
    CHUNKS: _chunks,
}


def main(arguments: Sequence[str]) -> None:
    """A contestant's process: `WORK CONTESTANT DTYPE THREADS REPEATS`."""
    work, contestant, dtype, threads, repeats = arguments
    use_cpu_capability(load_settings().cpu_capability)
    torch.set_num_threads(int(threads))
    kind = DTYPES[dtype]
    if work == "head":
        call = head_call(contestant, kind)
    else:
        call = lora_call(contestant, kind, LAYERS[work])
    # what a first product sets up, once a process, is nobody's memory
    torch.mm(torch.zeros(64, WIDTH, dtype=kind), torch.zeros(WIDTH, 256, dtype=kind))
    # proc(5): 5 sets the largest resident size back to the present one
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _largest_resident()
    call()
    grown = _largest_resident() - before
    seconds = []
    for _ in range(int(repeats)):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    sys.stdout.write(json.dumps({"seconds": min(seconds), "mebibytes": grown}))


def _largest_resident() -> float:
    """Mebibytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main(sys.argv[1:])
