"""The machine, the versions and the commit that a result belongs to.

Covers Linux and macOS; what cannot be found out is written as `unknown`, never guessed.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The instruction sets that decide how fast a matrix product can be.
_FLAGS = (
    "avx2 fma avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_int8 "
    "asimd asimdhp asimddp bf16 i8mm sve"
).split()
PACKAGES = ("ironcliw", "torch", "transformers", "sentence-transformers", "ray", "fastapi", "numpy")
INFINITY_PACKAGES = ("infinity-emb", "torch", "transformers", "sentence-transformers")


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """Hardware and system of a run."""

    cpu: str
    cores: int
    memory_bytes: int
    flags: tuple[str, ...]
    gpu: str
    system: str

    @classmethod
    def read(cls) -> Machine:
        """Look at this machine."""
        linux = Path("/proc/cpuinfo")
        text = linux.read_text(encoding="utf-8") if linux.exists() else ""
        return cls(
            cpu=cpu_model(text) or _output(["sysctl", "-n", "machdep.cpu.brand_string"]),
            cores=os.cpu_count() or 0,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            flags=cpu_flags(text),
            gpu=_gpu(),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
        )

    @property
    def slug(self) -> str:
        """Hardware as part of a file name, as in `intel-xeon-processor-2c`."""
        words = re.sub(r"\((r|tm)\)|\bcpu\b|@.*", " ", self.cpu.lower())
        return re.sub(r"[^a-z0-9]+", "-", words).strip("-") + f"-{self.cores}c"


def cpu_model(cpuinfo: str) -> str:
    """The processor's name in the text of /proc/cpuinfo, or an empty string."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found.group(1).strip() if found else ""


def cpu_flags(cpuinfo: str) -> tuple[str, ...]:
    """Those instruction sets that decide the speed of a matrix product."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    present = set(found.group(1).split()) if found else set()
    return tuple(flag for flag in _FLAGS if flag in present)


def versions(names: Sequence[str] = PACKAGES, folder: Path | None = None) -> dict[str, str]:
    """Versions of installed packages, here or in another environment's site-packages."""
    path = [str(folder)] if folder else sys.path
    found: dict[str, str] = {} if folder else {"python": platform.python_version()}
    for name in names:
        candidates = importlib.metadata.distributions(name=name, path=path)
        found[name] = next((item.version for item in candidates), "not installed")
    return found


def commit() -> str:
    """The commit of this tree, with `+dirty` where files differ from it."""
    revision = _output(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    if revision == "unknown":
        return "no commit"
    changed = _output(["git", "-C", str(ROOT), "status", "--porcelain"], empty="")
    return revision + ("+dirty" if changed else "")


def data_folder(given: Path) -> Path:
    """The folder of the texts; a relative one that is not below the current folder is ours."""
    return given if given.is_absolute() or given.exists() else ROOT / given


def load_average() -> float:
    """Runnable processes over the last minute: well above 0 means that others were at work."""
    return os.getloadavg()[0]


def _gpu() -> str:
    if shutil.which("nvidia-smi"):
        return _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return "Apple (not used)" if platform.system() == "Darwin" else "none"


def _output(command: list[str], empty: str = "unknown") -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return empty
    return done.stdout.strip() or empty if done.returncode == 0 else empty
