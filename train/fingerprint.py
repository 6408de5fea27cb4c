"""What the bits of a run depend on besides its seed: saved with it, compared on resume.

torch's results depend on its build, on the instruction set that it chose, on the number of threads
and on the shapes of its inputs (LayerNorm's weight gradient differs between 1 and 2 threads, a row
of a matrix product with the number of rows beside it). Where all of these are as they were, a
resumed run has the bits of one that was never interrupted; where one differs it may not, and a
resume is refused unless it is allowed by name.

Not covered: a driver or firmware that changes arithmetic, and libraries that choose by the sizes
of the caches or by the clock frequency of two processors of one model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from ironcliw.errors import InexactResumeError, OtherModelError
from native_ops import binary, loss_head

ALLOW = "--allow-inexact"
_X86 = ("vendor_id", "cpu family", "model")
_ARM = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part")
_NO_WORLD_SIZE = 0
_WHOLE = "none"
"""Sharding where each worker holds the whole model; manifests do not say it, as the older ones."""
UNKNOWN_HELD_OUT = ""
"""Of a manifest from before it was saved: nothing can be said of it, so nothing is refused."""


def _words(text: str) -> Any:
    return field(metadata={"words": text})


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything, besides the seed, that a run's numbers depend on.

    Attributes:
        model: Id, for messages; it is not compared, since one model may have two names.
        model_digest: Of the weights that training starts from.
        data_digest: Of the tokenised data.
        config_digest: Of the fields of the configuration that change the numbers.
        world_size: Workers; 0 where gradients are added in a fixed order over logical shards, so
            that the number of workers changes nothing.
        sharding: How the model is spread over workers: it changes the order of sums.
        held_out: Digest of what is measured, of which rows and when (`evaluation.held_out`). No
            weight depends on it, but the log does, and whether the result is published.
    """

    model: str
    model_digest: str = _words("model's weights")
    data_digest: str = _words("data")
    config_digest: str = _words("configuration")
    torch_version: str = _words("torch")
    torch_build: str = _words("build of torch")
    transformers: str = _words("transformers")
    peft: str = _words("peft")
    processor: str = _words("processor")
    torch_level: str = _words("torch's instruction set")
    native_level: str = _words("compiled kernels")
    threads: int = _words("threads")
    device: str = _words("device")
    dtype: str = _words("dtype")
    attention: str = _words("attention implementation")
    micro_batch_tokens: int = _words("tokens in a micro-batch")
    shards: int = _words("logical shards")
    loss_head_tile: int = _words("tokens in a tile of the loss head")
    loss_head_rows: int = _words("positions in a tile of the loss head")
    world_size: int = _words("workers")
    sharding: str = field(default=_WHOLE, metadata={"words": "sharding"})
    held_out: str = field(
        default=UNKNOWN_HELD_OUT, metadata={"words": "held-out rows, or what is measured of them"}
    )

    @classmethod
    def here(
        cls,
        *,
        model: str,
        model_digest: str,
        data_digest: str,
        config_digest: str,
        dtype: torch.dtype,
        micro_batch_tokens: int,
        shards: int,
        attention: str,
        device: torch.device | str = "cpu",
        kernels: bool = True,
        world_size: int = 1,
        fixed_order: bool = True,
        sharding: str = _WHOLE,
        held_out: str = UNKNOWN_HELD_OUT,
    ) -> Self:
        """Of a run in this process, with the number of threads that torch has now.

        Args:
            model: Id, for messages.
            model_digest: Of the weights that training starts from.
            data_digest: Of the tokenised data.
            config_digest: `digest_of` the configuration's fields that change the numbers.
            dtype: Of the computation.
            micro_batch_tokens: Most tokens in a micro-batch.
            shards: Logical shards of a global batch.
            attention: Implementation, such as "sdpa".
            device: Where the model is.
            kernels: Whether the compiled kernels are used where they are installed.
            world_size: Workers.
            fixed_order: Gradients are added in the order of the logical shards, whoever computed
                them; the number of workers is then not compared.
            sharding: How the model is spread over workers.
            held_out: Digest of what is measured, of which rows and when.
        """
        return cls(
            model=model,
            model_digest=model_digest,
            data_digest=data_digest,
            config_digest=config_digest,
            torch_version=torch.__version__,
            torch_build=_build_digest(torch.__config__.show()),
            transformers=_version("transformers"),
            peft=_version("peft"),
            processor=processor_here(),
            torch_level=torch.backends.cpu.get_cpu_capability(),
            native_level=_kernels() if kernels else "off",
            threads=torch.get_num_threads(),
            device=device_name(torch.device(device)),
            dtype=str(dtype).removeprefix("torch."),
            attention=attention,
            micro_batch_tokens=micro_batch_tokens,
            shards=shards,
            loss_head_tile=loss_head.TILE,
            loss_head_rows=loss_head.ROWS,
            world_size=_NO_WORLD_SIZE if fixed_order else world_size,
            sharding=sharding,
            held_out=held_out,
        )

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        values = dataclasses.asdict(self)
        if self.sharding == _WHOLE:
            del values["sharding"]
        if self.held_out == UNKNOWN_HELD_OUT:
            del values["held_out"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Out of a manifest.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        types = {f.name: str if f.type in ("str", str) else int for f in dataclasses.fields(cls)}
        values = {"sharding": _WHOLE, "held_out": UNKNOWN_HELD_OUT, **values}
        if set(values) != set(types):
            odd = sorted(set(values) ^ set(types))
            raise ValueError(f"fingerprint: fields {odd} are missing or unknown")
        for name, kind in types.items():
            if type(values[name]) is not kind:
                raise ValueError(f"fingerprint: {name} is {values[name]!r}, not {kind.__name__}")
        return cls(**values)


def differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """What is not as it was, in words: "threads: 2 when saved, 1 here"."""
    found = []
    for f in dataclasses.fields(Fingerprint):
        before, now = getattr(old, f.name), getattr(new, f.name)
        is_known = f.name != "held_out" or UNKNOWN_HELD_OUT not in (before, now)
        if f.metadata and before != now and is_known:
            words = f.metadata["words"]
            found.append(f"{words}: {_shown(before)} when saved, {_shown(now)} here")
    return found


def check_resume(
    old: Fingerprint, new: Fingerprint, location: str, allow_inexact: bool = False
) -> tuple[str, ...]:
    """Whether a run may go on from a checkpoint.

    Args:
        old: Of the checkpoint.
        new: Of the run that wants to go on.
        location: Of the checkpoint, for messages.
        allow_inexact: Go on though the bits will differ.

    Returns:
        The differences that were allowed; empty where the resume is exact.

    Raises:
        OtherModelError: the checkpoint was trained from other weights, which nothing allows.
        InexactResumeError: something else differs and `allow_inexact` is false.
    """
    if old.model_digest != new.model_digest:
        raise OtherModelError(
            f"checkpoint {location} was trained from {old.model} (weights "
            f"{_shown(old.model_digest)}), this run trains {new.model} (weights "
            f"{_shown(new.model_digest)}); name that model, or another folder for this run"
        )
    found = differences(old, new)
    if found and not allow_inexact:
        raise InexactResumeError(
            f"checkpoint {location} cannot be continued exactly: {'; '.join(found)}; restore what "
            f"differs, or give {ALLOW} to go on with other bits, which the log will say"
        )
    return tuple(found)


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of values that JSON can hold, whatever their order."""

    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def processor(cpuinfo: str) -> str:
    """Vendor, family and model in the text of /proc/cpuinfo; empty where it names none."""
    # the first processor's lines; all have the same model
    lines = (line.partition(":") for line in cpuinfo.split("\n\n")[0].splitlines())
    found = {key.strip(): value.strip() for key, _, value in lines}
    for keys in (_X86, _ARM):
        if all(key in found for key in keys):
            return ", ".join(f"{key} {found[key]}" for key in keys)
    return ""


def _kernels() -> str:
    """Their level and interface, by whose number other kernels are told apart; or that none are."""
    level = binary.state().level
    return f"{level}, interface {binary.INTERFACE}" if level else "none: references"


def loss_head_tiles() -> str:
    """Tokens and positions of a tile of the loss head, which decide the order of its sums."""
    return f"{loss_head.TILE} x {loss_head.ROWS}"


def processor_here() -> str:
    """What the processor of this machine calls itself."""
    linux = Path("/proc/cpuinfo")
    if linux.exists():
        return processor(linux.read_text()) or platform.machine()
    if platform.system() == "Darwin":
        command = ("sysctl", "-n", "machdep.cpu.brand_string")
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    return platform.processor() or platform.machine()


def _build_digest(config: str) -> str:
    """Without the line that says which instruction set is in use: it has a field of its own."""
    lines = [line for line in config.splitlines() if "CPU capability usage" not in line]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def device_name(device: torch.device) -> str:
    """A GPU by its name and capability, else the kind of device."""
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return f"cuda {torch.cuda.get_device_name(device)} {capability}"
    return device.type


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _shown(value: Any) -> str:
    """A digest by its first digits."""
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{32,}", text) else text
