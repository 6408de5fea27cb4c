"""The setting `cpu_capability`: what it may be, where it is applied, and where it is shown."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from cluster.status import write_status
from ironcliw.errors import SettingsError
from ironcliw.setting_sections import CpuCapability
from ironcliw.settings import load_settings
from native_ops import binary
from serve.host import use_cpu_capability
from serve.manager import TransformerManager
from serve.preflight import check

CPU_LEVEL = Path(__file__).resolve().parents[3] / "native_ops" / "csrc" / "cpu_level.h"


@pytest.fixture(autouse=True)
def there_are_levels() -> None:
    assert binary.load() is not None, binary.state().reason


@pytest.mark.parametrize("turn", [1, 2])
def test_what_a_test_leaves_behind_is_gone_in_the_next(turn: int) -> None:
    assert binary.state().level == binary.state().levels[-1]
    assert torch.get_num_threads() != 3
    binary.choose_level("baseline")
    torch.set_num_threads(3)


def absent_level() -> str:
    """A level that exists, on machines of another kind."""
    names: tuple[str, ...] = get_args(CpuCapability)
    return next(name for name in names if name not in binary.state().levels)


def test_the_setting_knows_the_levels_that_are_compiled() -> None:
    found = re.search(r"enum class Level : int \{ ([a-z0-9_, ]+) \}", CPU_LEVEL.read_text())
    assert found is not None
    assert tuple(found.group(1).split(", ")) == get_args(CpuCapability)


def test_the_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().cpu_capability is None
    monkeypatch.setenv("IRONCLIW_CPU_CAPABILITY", "baseline")
    assert load_settings().cpu_capability == "baseline"


def test_an_unknown_level_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONCLIW_CPU_CAPABILITY", "avx3")
    with pytest.raises(
        SettingsError, match=r"cpu_capability from environment: .*'avx512_bf16'.*given: 'avx3'"
    ):
        load_settings()


async def test_a_manager_computes_with_the_level_that_is_set() -> None:
    async with TransformerManager(load_settings(cpu_capability="baseline")):
        assert binary.state().level == "baseline"


def test_none_leaves_the_level_as_it_is() -> None:
    use_cpu_capability("baseline")
    use_cpu_capability(None)
    assert binary.state().level == "baseline"


def test_a_level_that_this_machine_lacks_is_refused_before_the_start() -> None:
    settings = load_settings(cpu_capability=absent_level())
    possible = re.escape(", ".join(binary.state().levels))
    match = rf"IRONCLIW_CPU_CAPABILITY\) is '{absent_level()}'; this machine can use {possible}"
    with pytest.raises(SettingsError, match=match):
        check(settings)
    with pytest.raises(SettingsError, match=match):
        TransformerManager(settings)


async def test_statistics_name_the_level(tmp_path: Path) -> None:
    settings = load_settings(
        models={"fake": {"source": "fake:8", "task": "embedding", "bytes": 1000}},
        cpu_capability="baseline",
    )
    async with TransformerManager(settings) as manager:
        # this process has torch: a level is known before anything was loaded
        assert (await manager.get_stats())["native"] == "baseline"
        await manager.load_model("fake")
        assert (await manager.get_stats())["native"] == "baseline"


@pytest.mark.parametrize("compiled", [True, False])
async def test_status_shows_what_a_manager_computes_with(
    compiled: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # undone before anything else looks for the binary
        if not compiled:
            patch.setitem(sys.modules, "_ironcliw_native", None)  # as if it were not installed
            binary.load.cache_clear()
        level = "baseline" if compiled else None
        async with TransformerManager(load_settings(cpu_capability=level)) as manager:
            stats = await manager.get_stats()
    binary.load.cache_clear()
    stats.pop("models")
    report: dict[str, Any] = {"degraded": [], "nodes": [], "queues": {}, "models": []}
    write_status({**report, "variants": [{"name": "local", **stats}]})
    shown = "baseline" if compiled else "none, the slow references in torch: there are no compiled"
    assert f"compiled kernels: {shown}" in capsys.readouterr().out
