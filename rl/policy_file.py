"""A learned policy as a file: weights, what they were made for, and a hash of all of it.

The file is an `.npz` of numpy, so that the head needs no torch to decide. It carries the digest of
the features (`rl.schema`), which policy the network corrects (the expected-cost or the queue-aware
one) with its parameters, and what views of training looked like, by which `rl.neural` tells a view
that is unlike them. Who writes one: `rl.learning`, or any other trainer that scores options one by
one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import SettingsError
from rl.effects import EFFECTS
from rl.features import CONTEXT, OPTION
from rl.parameters import Parameters, kind_of, parameters_of
from rl.schema import schema_of

FORMAT = 1
INPUTS = len(CONTEXT) + len(OPTION)

Array = npt.NDArray[np.float32]
Layer = tuple[Array, Array]
_ZIP = b"PK\x03\x04"
_GUARD = ("low", "high", "mean", "precision")


@dataclass(frozen=True, slots=True)
class Guard:
    """What views of training looked like; beyond it the base decides.

    Attributes:
        low: Least value of each feature, those of the context before those of an option.
        high: Greatest value, likewise.
        mean: Of the context, of shape (len(CONTEXT),).
        precision: Inverse of its covariance, of shape (len(CONTEXT), len(CONTEXT)).
        limit: Greatest squared Mahalanobis distance of a context.
    """

    low: Array
    high: Array
    mean: Array
    precision: Array
    limit: float


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A learned policy.

    An option's score is minus its expected cost over the least one, by `tau`, plus the network's
    output for (context, option), less what its effects on others are learned to cost, by `tau`. The
    best is taken if it is `margin` better than the base's choice.

    Attributes:
        layers: (weight of shape (inputs, outputs), bias), with ReLU between them; one output.
        tau: USD that a score of 1 stands for.
        margin: Scores by which another choice than the base's must be better.
        reach: USD; options that are believed to cost so much more than the cheapest are left out.
        parameters: Of the base; their kind says which policy that is.
        machines: Whether it decides about buying early and giving back too; if not, the base does.
        effects: USD of a unit of each of `rl.effects.EFFECTS`; None where none was learned.
        training: What it was trained on, for people; values that JSON can hold.
        schema: See `rl.schema.schema_of`; "" stands for this release's.
        digest: SHA-256 of all of it, in hexadecimal; "" until it is saved.
    """

    layers: tuple[Layer, ...]
    guard: Guard
    tau: float
    margin: float
    reach: float
    parameters: Parameters
    machines: bool = False
    effects: Array | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    schema: str = ""
    digest: str = ""

    @property
    def own_schema(self) -> str:
        """The digest of this release that `schema` must be."""
        return schema_of(self.parameters, has_effects=self.effects is not None)

    @property
    def is_silent(self) -> bool:
        """Whether nothing was learned: it decides as its base does."""
        last = self.layers[-1]
        return not (last[0].any() or last[1].any() or np.any(self.effects))

    def silent(self) -> PolicyFile:
        """The same without what was learned."""
        none = (np.zeros((INPUTS, 1), dtype=np.float32), np.zeros(1, dtype=np.float32))
        return replace(self, layers=(none,), effects=None, schema="")


def save_policy(path: Path, policy: PolicyFile) -> PolicyFile:
    """Write a policy; returns it with its digest. Equal policies give equal bytes.

    Raises:
        SettingsError: the policy is not one that could be loaded, or the file cannot be written.
    """
    policy = replace(policy, schema=policy.schema or policy.own_schema)
    arrays, page = _arrays(policy), _page(policy)
    digest = _digest(arrays, page)
    finished = replace(policy, digest=digest)
    _check(finished, str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            np.savez(
                file, allow_pickle=False, page=np.array(page), digest=np.array(digest), **arrays
            )
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SettingsError(
            f"policy file {path} cannot be written ({error.strerror}); give a folder that exists"
        ) from error
    return finished


def load_policy(path: Path) -> PolicyFile:
    """A policy, checked.

    Raises:
        SettingsError: the file cannot be read, is no policy, is not what was written, was made for
            other features, or holds what is no number.
    """
    entries = _entries(path)
    digest = str(entries.pop("digest", ""))
    page = str(entries.pop("page", ""))
    if not digest or not page:
        raise SettingsError(f"{path} is no policy file: it has no page or no digest; train one")
    if (found := _digest(entries, page)) != digest:
        raise SettingsError(
            f"policy file {path} is damaged: its content has the hash {found[:12]}, and it says "
            f"{digest[:12]}; copy or train it again"
        )
    policy = _policy(path, entries, json.loads(page), digest)
    _check(policy, str(path))
    return policy


def _entries(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        content = path.read_bytes()
        if not content.startswith(_ZIP):  # numpy would advise to trust it
            raise SettingsError(
                f"{path} is no policy file: it is no .npz; give one that `python -m rl train` has "
                "written"
            )
        # of bytes: of a path numpy would leave a damaged file open
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise SettingsError(f"{path} is no policy file: it holds one array; train one")
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise SettingsError(
            f"policy file {path} cannot be read ({error.strerror}); write one by "
            "`python -m rl train --out`"
        ) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SettingsError(f"{path} is no policy file: {error}; copy or train it again") from error


def _policy(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], page: Mapping[str, Any], digest: str
) -> PolicyFile:
    if page.get("format") != FORMAT:
        raise SettingsError(
            f"policy file {path} has format {page.get('format')}, this release reads {FORMAT}; "
            "train it again"
        )
    count = int(page["layers"])
    return PolicyFile(
        layers=tuple((arrays[f"weight_{one}"], arrays[f"bias_{one}"]) for one in range(count)),
        guard=Guard(**{name: arrays[name] for name in _GUARD}, limit=float(page["limit"])),
        tau=float(page["tau"]),
        margin=float(page["margin"]),
        reach=float(page["reach"]),
        # files of earlier releases have the one base that there was
        parameters=parameters_of(page.get("base", "greedy"), page["parameters"], str(path)),
        machines=bool(page["machines"]),
        effects=arrays.get("effects"),
        training=page["training"],
        schema=str(page["schema"]),
        digest=digest,
    )


def _arrays(policy: PolicyFile) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {name: getattr(policy.guard, name) for name in _GUARD}
    if policy.effects is not None:
        found["effects"] = policy.effects
    for number, (weight, bias) in enumerate(policy.layers):
        found[f"weight_{number}"], found[f"bias_{number}"] = weight, bias
    return {name: np.ascontiguousarray(one, dtype=np.float32) for name, one in found.items()}


def _page(policy: PolicyFile) -> str:
    return json.dumps(
        {
            "format": FORMAT,
            "schema": policy.schema,
            "layers": len(policy.layers),
            "tau": policy.tau,
            "margin": policy.margin,
            "reach": policy.reach,
            "limit": policy.guard.limit,
            "machines": policy.machines,
            "base": kind_of(policy.parameters),
            "parameters": asdict(policy.parameters),
            "training": dict(policy.training),
        },
        sort_keys=True,
    )


def _digest(arrays: Mapping[str, npt.NDArray[Any]], page: str) -> str:
    digest = hashlib.sha256(page.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _check(policy: PolicyFile, where: str) -> None:
    """Raise for what could not decide."""
    if policy.schema != (own := policy.own_schema):
        raise SettingsError(
            f"policy file {where} was trained with other features ({policy.schema[:12]}, this "
            f"release has {own[:12]}); train it again"
        )
    figures = (policy.tau, policy.margin, policy.reach, policy.guard.limit)
    if not all(math.isfinite(one) and one >= 0 for one in figures) or policy.tau == 0:
        raise SettingsError(
            f"policy file {where}: tau, margin, reach and limit are {figures}; they must be "
            "numbers from 0, tau above it; train it again"
        )
    for name, array in _arrays(policy).items():
        if not np.isfinite(array).all():
            raise SettingsError(
                f"policy file {where}: {name} holds what is no number; its training failed"
            )
    _check_shapes(policy, where)


def _check_shapes(policy: PolicyFile, where: str) -> None:
    guard, width = policy.guard, len(CONTEXT)
    wanted: list[tuple[str, Sequence[int], Sequence[int]]] = [
        ("low", guard.low.shape, (INPUTS,)),
        ("high", guard.high.shape, (INPUTS,)),
        ("mean", guard.mean.shape, (width,)),
        ("precision", guard.precision.shape, (width, width)),
    ]
    if policy.effects is not None:
        wanted.append(("effects", policy.effects.shape, (len(EFFECTS),)))
    inputs = INPUTS
    for number, (weight, bias) in enumerate(policy.layers):
        last = number == len(policy.layers) - 1
        outputs = 1 if last or weight.ndim != 2 else weight.shape[1]
        wanted.append((f"weight_{number}", weight.shape, (inputs, outputs)))
        wanted.append((f"bias_{number}", bias.shape, (outputs,)))
        inputs = outputs
    if not policy.layers:
        raise SettingsError(f"policy file {where} has no layer; train it again")
    for name, shape, must in wanted:
        if tuple(shape) != tuple(must):
            raise SettingsError(
                f"policy file {where}: {name} has shape {tuple(shape)}, it must have {tuple(must)}"
            )
