"""llama-cpp-python in process, one text at a time: it has no batching of its own.

From an environment of its own (`make bench-peers`): there is no wheel of it, it is compiled.
"""

from __future__ import annotations

import importlib
import os
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.child import Embed
from benchmarks.generation_work import Work
from benchmarks.harness import NotRun
from benchmarks.machine import ROOT

ENVIRONMENT = ROOT / ".venv-peers" / "llama"


def site_packages() -> Path | None:
    """Where the package is; None where it is not installed."""
    found = next(ENVIRONMENT.glob("lib/python*/site-packages"), None)
    return found if found is not None and (found / "llama_cpp").is_dir() else None


def missing(cap: str | None = None) -> NotRun | None:
    """Why the peer cannot run, or None when it can."""
    if cap is not None:
        return NotRun(f"llama-cpp-python is compiled for this machine, not capped at {cap}")
    if site_packages() is not None:
        return None
    return NotRun("llama-cpp-python is not installed; `make bench-peers` builds it")


def variables() -> dict[str, str]:
    """What a process needs to import it. It needs two small packages that we have as well."""
    found = site_packages()
    return {} if found is None else {"PYTHONPATH": os.pathsep.join((str(ROOT), str(found)))}


def build(file: Path, threads: int) -> Embed:
    """`Llama(...)` on the GGUF file."""
    llama_cpp: Any = importlib.import_module("llama_cpp")
    # its AMX kernels crash (ggml-org/llama.cpp#20824); this is what --no-repack does
    low = llama_cpp.llama_cpp
    if b"AMX_INT8 = 1" in low.llama_print_system_info():
        low.llama_model_default_params = _without_extra_buffers(low.llama_model_default_params)
    model = llama_cpp.Llama(
        str(file), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def generate(texts: list[str]) -> None:
        work = Work.of(texts)
        for prompt in work.prompts:
            model.reset()
            answer = list(islice(model.generate(prompt, temp=0.0), work.new_tokens))
            assert len(answer) == work.new_tokens

    return generate


def _without_extra_buffers(default: Any) -> Any:
    def changed() -> Any:
        parameters = default()
        parameters.use_extra_bufts = False
        return parameters

    return changed
