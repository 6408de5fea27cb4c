"""Where learning starts: a policy that has learned nothing, and what views of training are like."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rl.learning.plan import Training
from rl.parameters import Parameters
from rl.policy_file import Guard, PolicyFile

RIDGE = 1e-3  # added to the covariance: some features never differ
FARTHEST = 0.999  # share of training's contexts that are near, before the limit is doubled

Rows = npt.NDArray[np.float32]


def unlearned(parameters: Parameters, plan: Training, guard: Guard) -> PolicyFile:
    """A policy that decides as its base does, without a margin.

    Args:
        parameters: Of the base.
        plan: How will be learned.
        guard: Of its training.
    """
    return PolicyFile(
        layers=(),
        guard=guard,
        tau=plan.tau,
        margin=0.0,
        reach=plan.reach,
        parameters=parameters,
        machines=plan.machines,
    ).silent()


def guard_of(contexts: Rows, options: Rows) -> Guard:
    """What views of training look like.

    Args:
        contexts: Of decisions, (N, len(CONTEXT)).
        options: That were weighed in them, (any, len(OPTION)).
    """
    context = contexts.astype(np.float64)
    mean = context.mean(axis=0)
    off = context - mean
    covariance = off.T @ off / len(off) + RIDGE * np.eye(off.shape[1])
    precision = np.linalg.inv(covariance)
    distances = np.einsum("ni,ij,nj->n", off, precision, off, optimize=True)
    return Guard(
        low=np.concatenate([contexts.min(axis=0), options.min(axis=0)]),
        high=np.concatenate([contexts.max(axis=0), options.max(axis=0)]),
        mean=mean.astype(np.float32),
        precision=precision.astype(np.float32),
        limit=2.0 * float(np.quantile(distances, FARTHEST)),
    )
