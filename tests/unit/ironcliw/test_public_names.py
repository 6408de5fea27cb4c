"""The public surface, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ironcliw

ROOT = Path(__file__).parents[3]


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after a statement."""
    program = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_public_names() -> None:
    names = [
        *("AsyncClient", "Client", "PrimeModel", "Trainer", "TrainingConfig"),
        *("TransformerManager", "__version__"),
    ]
    assert ironcliw.__all__ == names
    assert ironcliw.__all__ == sorted(ironcliw.__all__)
    assert set(ironcliw.__all__) <= set(dir(ironcliw))


def test_names_load_on_first_use() -> None:
    from ironcliw.client import Client

    assert ironcliw.Client is Client


@pytest.mark.parametrize(
    ("name", "extra"),
    [("Trainer", "train"), ("TrainingConfig", "train"), ("PrimeModel", "local")],
)
def test_an_absent_package_is_named_with_its_extra(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: str) -> None:
        raise ModuleNotFoundError("No module named 'some'", name="some")

    monkeypatch.setattr(ironcliw.importlib, "import_module", fail)
    with pytest.raises(ImportError, match=rf"'some': pip install 'ironcliw\[{extra}\]'"):
        getattr(ironcliw, name)


def test_a_run_is_described_without_its_libraries() -> None:
    loaded = loaded_by("from ironcliw import TrainingConfig; TrainingConfig(model_name='x')")
    assert "pydantic" in loaded
    assert loaded & {"ray", "torch", "numpy", "transformers", "pyarrow"} == set()


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'ironcliw' has no attribute 'Nothing'"):
        ironcliw.Nothing  # noqa: B018


def test_importing_the_package_costs_nothing() -> None:
    heavy = {"ray", "torch", "pydantic", "httpx", "numpy", "sqlalchemy", "typer", "rich"}
    assert loaded_by("import ironcliw") & heavy == set()


def test_the_client_needs_neither_ray_nor_torch_nor_numpy() -> None:
    loaded = loaded_by("from ironcliw import AsyncClient, Client")
    assert "httpx" in loaded
    assert loaded & {"ray", "torch", "numpy", "sqlalchemy", "transformers"} == set()


def test_a_model_behind_a_server_needs_no_engine() -> None:
    loaded = loaded_by("from ironcliw import PrimeModel")
    assert "httpx" in loaded
    engines = {"ray", "torch", "numpy", "transformers", "tokenizers", "safetensors", "fastapi"}
    assert loaded & engines == set()
