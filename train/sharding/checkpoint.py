"""Reading a worker's rows of a checkpoint, whatever number of workers wrote it."""

from __future__ import annotations

import logging
import re

import torch

from ironcliw.errors import CheckpointError, DamagedCheckpointError
from train.checkpoint.files import STATE, decode_state, read_tensors
from train.checkpoint.manifest import Manifest
from train.checkpoint.snapshot import Checkpoint
from train.checkpoint.store import CheckpointStore, VanishedError
from train.fingerprint import Fingerprint, check_resume
from train.loop.optimizer import PREFIX
from train.sharding.layout import Piece, rows_of
from train.sharding.parameters import ShardedParameters

logger = logging.getLogger(__name__)

_SHARD = re.compile(r"shard_(\d+)_of_(\d+)\.safetensors")


class PieceReader:
    """Reads one worker's rows of a checkpoint, whatever number of workers wrote it.

    Args:
        store: Of the run.
        flat: The worker's pieces.
        fingerprint: Of the run that wants to go on.
        allow_inexact: Go on though the bits will differ.
    """

    def __init__(
        self,
        store: CheckpointStore,
        flat: ShardedParameters,
        fingerprint: Fingerprint,
        *,
        allow_inexact: bool,
    ) -> None:
        self._store, self._flat = store, flat
        self._fingerprint, self._allow_inexact = fingerprint, allow_inexact

    def load(self, name: str) -> Checkpoint:
        """This worker's part of a checkpoint; every byte of the files it needs is compared.

        Raises:
            DamagedCheckpointError: a file is not what was written.
            InexactResumeError: going on gives other bits, and that is not allowed.
            CheckpointError: it is of other parameters.
        """
        where = self._store.backend.where
        try:
            manifest = self._store.manifest(name)
            location = where(name)
            inexact = check_resume(
                manifest.fingerprint, self._fingerprint, location, self._allow_inexact
            )
            state = decode_state(self._file(name, manifest, STATE), where(name, STATE))
            if state["layout"] != self._flat.layout():
                raise CheckpointError(
                    f"checkpoint {location} holds other parameters than this run trains; resume "
                    "with the configuration that it was saved with"
                )
            tensors = self._tensors(name, manifest)
        except VanishedError:
            raise DamagedCheckpointError(f"{where(name)} was removed while it was read") from None
        if inexact:
            logger.warning("INEXACT RESUME from %s: %s", location, "; ".join(inexact))
        return Checkpoint(manifest.step, tensors, state, manifest, location, inexact)

    def _tensors(self, name: str, manifest: Manifest) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        filled = 0
        pieces = {piece.name: piece for piece in self._flat.pieces}
        for file in manifest.files:
            match = _SHARD.fullmatch(file.name)
            if file.name == STATE or (match and not self._needs(int(match[1]), int(match[2]))):
                continue
            raw = self._store.verified(name, file)
            tensors = read_tensors(raw, self._store.backend.where(name, file.name))
            if match is None:
                found.update(tensors)
                continue
            rank, workers = int(match[1]), int(match[2])
            for key, tensor in tensors.items():
                _, kind, parameter = key.split("/", 2)
                piece = pieces[parameter]
                target = found.setdefault(
                    f"{kind}/{parameter}", tensor.new_zeros(piece.local_shape)
                )
                filled += _copy_rows(piece, target, tensor, rank, workers)
        kinds = sum(1 for key in found if not key.startswith(PREFIX)) // max(1, len(pieces))
        if filled != kinds * sum(len(piece.rows) for piece in pieces.values()):
            raise DamagedCheckpointError(
                f"{self._store.backend.where(name)} lacks rows of some parameters"
            )
        return found

    def _needs(self, rank: int, workers: int) -> bool:
        """Whether a file has a row of this worker's; who has none still needs the names."""
        pieces = self._flat.pieces
        return any(_common(piece, rank, workers) for piece in pieces) or (
            rank == 0 and not any(piece.rows for piece in pieces)
        )

    def _file(self, name: str, manifest: Manifest, wanted: str) -> bytes:
        for file in manifest.files:
            if file.name == wanted:
                return self._store.verified(name, file)
        raise DamagedCheckpointError(
            f"the manifest of {self._store.backend.where(name)} lists no {wanted}"
        )


def _common(piece: Piece, rank: int, workers: int) -> range:
    """The rows that a piece and another worker's piece of the same parameter share."""
    other = rows_of(rank, workers, piece.shape[0])
    return range(max(piece.rows.start, other.start), min(piece.rows.stop, other.stop))


def _copy_rows(
    piece: Piece, target: torch.Tensor, source: torch.Tensor, rank: int, workers: int
) -> int:
    """Copy what a piece shares with that of a worker of `workers`; how many rows these are."""
    common = _common(piece, rank, workers)
    if not common:
        return 0
    first = rows_of(rank, workers, piece.shape[0]).start
    target[common.start - piece.rows.start : common.stop - piece.rows.start] = source[
        common.start - first : common.stop - first
    ]
    return len(common)
