"""The id by which a head knows its own machines among those of a project.

Two heads may have the same `cloud.cluster_name`: its default is one for all. So each state
directory has an id too, made at random when it is first asked for and kept; every machine carries
it.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from ironcliw.errors import ClusterError

_FORM = re.compile(r"[0-9a-f]{8}")


def head_id(state_dir: Path) -> str:
    """The id of a state directory, 8 hexadecimal digits; it is made where there is none.

    Processes that ask for the first one at once are given the same.

    Raises:
        ClusterError: the file is damaged.
    """
    found = read_head_id(state_dir)
    if found is not None:
        return found
    path = _path(state_dir)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    temporary.write_text(secrets.token_hex(4) + "\n", encoding="ascii")
    try:
        # unlike a rename it does not replace the id that another process has made meanwhile
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    made = read_head_id(state_dir)
    assert made is not None, "the file was there a moment ago"
    return made


def read_head_id(state_dir: Path) -> str | None:
    """The same without making one; None: there is none.

    Raises:
        ClusterError: the file is damaged.
    """
    path = _path(state_dir)
    try:
        found = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    if not _FORM.fullmatch(found):
        raise ClusterError(
            f"{path} is damaged: it holds {found!r} and should hold 8 hexadecimal digits; write "
            "the ones there that the machines' label ironcliw-head has, or remove the file if "
            "there are no machines"
        )
    return found


def _path(state_dir: Path) -> Path:
    return state_dir / "head_id"
