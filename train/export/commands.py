"""`ironcliw train merge` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ironcliw import console
from ironcliw.errors import SettingsError

What = Annotated[
    str,
    typer.Argument(
        metavar="RUN|ADAPTER|MODEL",
        help="Name, folder or URI of a run; an adapter's folder or its name in the register; a "
        "model's id, folder or GGUF file.",
    ),
]
Base = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Of an adapter that does not say it.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def merge(
    source: What,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to write.")],
    base: Base = None,
    precision: Annotated[
        str, typer.Option(help="Of the weights: auto (as the base's files), fp32, bf16 or fp16.")
    ] = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Merge an adapter into its base: a model of its own, with tokenizer and chat template."""
    if precision not in _PRECISIONS:
        raise SettingsError(f"--precision is {precision!r}; known are {', '.join(_PRECISIONS)}")
    settings = console.command_settings()
    from train.export import merge as merging

    found = merging.merge(
        source,
        to,
        settings,
        base=base,
        precision=precision,  # type: ignore[arg-type]  # one of them
        force=force,
    )
    _write({"merged": found.name, "base": found.base, "folder": str(to)}, as_json=as_json)


def export(
    source: What,
    form: Annotated[str, typer.Option("--format", help="gguf or safetensors.")] = "gguf",
    quantization: Annotated[
        str | None,
        typer.Option(help="Of gguf: f32, f16, bf16, q8_0 (int8), q4_0 or q4_1 (int4)."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="PATH", help="What to write; named by default.")
    ] = None,
    base: Base = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a model in another format; an adapter is merged into its base first."""
    settings = console.command_settings()
    from train.export import formats

    target = to or formats.default_target(source, form, quantization)
    found = formats.export(
        source,
        target,
        settings,
        form=form,
        quantization=quantization,
        base=base,
        force=force,
    )
    size = sum(each.stat().st_size for each in [target, *target.rglob("*")] if each.is_file())
    _write(
        {"exported": found.name, "file": str(target), "megabytes": f"{size / 1e6:.1f}"},
        as_json=as_json,
    )


def _write(facts: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        console.write_json(facts)
    else:
        console.write_table(("", ""), list(facts.items()))
