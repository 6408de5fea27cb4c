"""The roof over decoding: how fast memory can be read, and how much of it a token needs.

A stream that generates reads every weight and all of its KV cache for each token, and computes
next to nothing with them; so tokens a second are bounded by bytes a second. The bandwidth is that
of reading 512 MB, far more than any cache holds, with the same number of threads.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.child import Embed
from native_ops.gguf import GgufFile

READ_BYTES = 512 << 20
_KV_BYTES = 2
"""Of an element of the KV cache: 16 bits."""


def build(_: Path, threads: int) -> Embed:
    """A contestant that reads `READ_BYTES` once, with that many threads."""
    import torch

    torch.set_num_threads(threads)
    # written, so that each page is there: what was never written is one page of zeros
    values = torch.ones(READ_BYTES // 8, dtype=torch.int64)

    def read(_: list[str]) -> None:
        # of torch's reductions the one with the least arithmetic a byte
        values.sum()

    return read


def gigabytes_per_second(seconds: float) -> float:
    """The bandwidth, from the seconds of one read."""
    return READ_BYTES / seconds / 1e9


def weight_bytes(file: GgufFile) -> int:
    """What one token reads of the weights, as the file stores them.

    Of an embedding that is not the output matrix too, a token reads one row: nothing.
    """
    total = sum(tensor.nbytes for tensor in file.tensors.values())
    if "output.weight" in file.tensors:
        total -= file.tensors["token_embd.weight"].nbytes
    return total


def kv_bytes(file: GgufFile, context: float) -> float:
    """What one token reads of a KV cache that holds `context` tokens, on average."""
    kind = file.text("general.architecture")
    heads = file.integer(f"{kind}.attention.head_count")
    width = file.integer(f"{kind}.embedding_length") // heads
    shared = file.integer(f"{kind}.attention.head_count_kv", heads)
    return 2 * file.integer(f"{kind}.block_count") * shared * width * _KV_BYTES * context
