"""Small runs of training that a proof can kill: a model of some thousand weights, each worker of an
attempt a process of its own.

An attempt is forked from a process that has imported everything and computed nothing: it begins
within milliseconds, so that hundreds of kills take minutes. `fresh` attempts start a new
interpreter instead, with another hash seed and another working directory.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import train.sharding.assembly  # noqa: F401  # imported when it is needed, and so by each worker
from benchmarks.harness import BenchmarkError
from benchmarks.machine import ROOT
from benchmarks.resume_encoder import make_encoder, make_texts
from cluster.testing.ports import free_ports
from cluster.vm.agent import DONE_FOLDER, HOOKS_FOLDER, NOTICE_FILE
from cluster.vm.facts import write_atomically
from ironcliw.settings import Settings, process_environment
from train.checkpoint.faults import FaultAt, Faults, kill
from train.checkpoint.store import CheckpointStore
from train.config import make_config
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData
from train.job import Job
from train.loop.reduce import ProcessGroup
from train.run_files import ADAPTER, CHECKPOINTS, LOG, MODEL, OUTCOME
from train.worker import work

WORDS = 64
ROWS = 20
LONGEST_SECONDS = 120.0
MEETING_SECONDS = 20.0
"""So long workers wait for each other; one that is killed before they meet is waited for."""
ENCODER = "encoder"
"""Beside the model: one that is trained where runs are on embeddings."""
STEPS = "steps.txt"
"""Beside a run: the steps that its attempts did, one a line."""
_FRESH = """
import pickle, sys
from train.worker import work
with open(sys.argv[1], "rb") as file:
    work(pickle.load(file))
"""


def make_model(folder: Path) -> Path:
    """A Llama of two layers with random weights, in Hugging Face's format, and an encoder."""
    import transformers

    torch.manual_seed(0)
    made: Any = transformers.LlamaConfig
    config = made(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    module: Any = transformers.LlamaForCausalLM(config)
    module.save_pretrained(folder)
    make_encoder(folder.parent / ENCODER)
    return folder


def make_rows() -> TokenizedData:
    """Random tokens, the second half of each row supervised."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(ROWS):
        length = int(random.integers(4, 30))
        tokens = random.integers(0, WORDS, length).astype(np.int32)
        rows.append(TokenRow(tokens, np.arange(length) >= length // 2))
    return TokenizedData.of_rows(rows, [(0, at + 1) for at in range(ROWS)], ["rows"])


def make_pairs() -> TokenizedData:
    """Prompts of random tokens, each with two answers."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(ROWS):
        prompt, chosen, rejected = random.integers(1, 14, 3).tolist()
        tokens = random.integers(0, WORDS, prompt + chosen + rejected).astype(np.int32)
        borders = (prompt, prompt + chosen)
        rows.append(TokenRow(tokens, np.arange(len(tokens)) >= prompt, borders))
    return TokenizedData.of_rows(rows, [(0, at + 1) for at in range(ROWS)], ["pairs"])


def make_job(folder: Path, model: Path, changes: dict[str, Any]) -> Job:
    """A run of some ten steps.

    Args:
        folder: Of the run; made.
        model: Of `make_model`; in its place the one beside it where embeddings are trained.
        changes: To the configuration.
    """
    given = {
        "model_name": str(model.parent / ENCODER if "embedding" in changes else model),
        "precision": "fp32",
        "batch_size": 4,
        "micro_batch_tokens": 48,
        "num_epochs": 2,
        "lora_rank": 4,
        "learning_rate": 1e-2,
        "max_failures": -1,
        "checkpoint": {"every": 2},
        **changes,
    }
    handover = folder / "handover"
    for kind in (HOOKS_FOLDER, DONE_FOLDER):  # the agent of a machine makes them
        (handover / kind).mkdir(parents=True)
    settings = Settings(state_dir=folder / "state", handover_dir=handover)
    config = make_config(given, "proof")
    data = make_rows() if config.preference is None else make_pairs()
    if config.embedding is not None:
        data = make_texts(ROWS)
    return Job(config, settings, str(folder / "run"), data, data, 1)


def result(job: Job) -> str:
    """sha256 of the final weights and of the log, byte for byte; the log has the measures of
    held-out rows, which the workers share.

    Raises:
        BenchmarkError: the run has no result, or measured nothing.
    """
    kind = ADAPTER if job.config.use_lora else MODEL
    run = Path(job.uri)
    weights = sorted((run / kind).glob("*.safetensors"))
    if not weights or not (run / LOG).exists():
        outcome = run / OUTCOME
        told = outcome.read_text() if outcome.exists() else "it has no outcome"
        raise BenchmarkError(f"the run in {run} has no result: {told}")
    if b'"event":"evaluation"' not in (run / LOG).read_bytes():
        raise BenchmarkError(f"the run in {run} measured nothing; give it rows to hold out")
    total = hashlib.sha256()
    for file in (*weights, run / LOG):
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def attempt(
    job: Job,
    *,
    kill_after: float | None = None,
    killed: int = 0,
    point: str | None = None,
    visit: int = 1,
    mistake: Callable[[], object] | None = None,
    notice_after: float | None = None,
) -> int | None:
    """One attempt in forked processes, as many as the run has workers.

    Args:
        job: The run.
        kill_after: Seconds until a worker is killed from outside; None: none is.
        killed: Which worker.
        point: A place of a checkpoint's commit at which the first worker kills itself; None: none.
        visit: Which visit of that place.
        mistake: Called in each process before it begins.
        notice_after: Seconds until its machine's agent tells that it is taken back; None: never.

    Returns:
        0 where all workers ended well, else the exit code of the first that did not; -SIGKILL
        where that was killed. None: it did not end in time.
    """
    (port,) = free_ports(1)
    faults: Faults | None = FaultAt(point, kill, visit) if point else None
    pids = [
        _fork(job, rank, port, mistake, faults if rank == 0 else None)
        for rank in range(job.config.workers)
    ]
    handover = job.settings.handover_dir
    try:
        codes = _watch(pids, killed, kill_after, notice_after, handover)
    finally:
        if handover is not None:
            (handover / NOTICE_FILE).unlink(missing_ok=True)
    return next((code for code in codes if code != 0), 0)


def _fork(
    job: Job,
    rank: int,
    port: int,
    mistake: Callable[[], object] | None,
    faults: Faults | None,
) -> int:
    """Start a worker; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        _be_quiet(Path(job.uri).parent / "attempts.log")
        if mistake is not None:
            mistake()
        with (Path(job.uri).parent / STEPS).open("a", buffering=1) as steps:
            group = _meet(rank, job.config.workers, port)
            work(job, group, lambda done: print(done.step, file=steps), faults)
        code = 0
    finally:
        os._exit(code)


def _meet(rank: int, size: int, port: int) -> ProcessGroup | None:
    """The workers of an attempt; None: there is one."""
    if size == 1:
        return None
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=MEETING_SECONDS),
    )
    return ProcessGroup()


def steps_lost(job: Job) -> int:
    """Steps that were done and are in no checkpoint, after an attempt that has ended."""
    lines = (Path(job.uri).parent / STEPS).read_text().split()
    done = int(lines[-1]) if lines else 0
    saved = CheckpointStore(f"{job.uri}/{CHECKPOINTS}", read_only=True).all()
    return max(0, done - (saved[0].step if saved else 0))


def fresh_attempt(job: Job) -> int:
    """One attempt of one worker in a new interpreter, elsewhere and with another hash seed."""
    with tempfile.TemporaryDirectory(prefix="ironcliw-proof-") as folder:
        file = Path(folder) / "job.pickle"
        file.write_bytes(pickle.dumps(job))
        environment = {
            **process_environment(),
            "PYTHONHASHSEED": str(int(time.time()) % 10_000),
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.run(
            [sys.executable, "-c", _FRESH, str(file)],
            cwd=folder,
            env=environment,
            capture_output=True,
            check=False,
            timeout=LONGEST_SECONDS,
        ).returncode


def _be_quiet(file: Path) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def _watch(
    pids: list[int],
    killed: int,
    kill_after: float | None,
    notice_after: float | None,
    handover: Path | None,
) -> list[int | None]:
    """The exit codes of an attempt's processes; None: it had not ended in time."""
    begun = time.monotonic()
    codes: dict[int, int | None] = {}
    while len(codes) < len(pids) and time.monotonic() - begun < LONGEST_SECONDS:
        for pid in (each for each in pids if each not in codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - begun
        if kill_after is not None and passed >= kill_after:
            if pids[killed] not in codes:
                os.kill(pids[killed], signal.SIGKILL)
            kill_after = None
        if notice_after is not None and passed >= notice_after:
            assert handover is not None
            now = time.time()
            told = {"at": now, "deadline": now + 30, "reason": "preempted"}
            write_atomically(handover / NOTICE_FILE, json.dumps(told))
            notice_after = None
        time.sleep(0.002)
    for pid in (each for each in pids if each not in codes):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [codes.get(pid) for pid in pids]
