"""`ironcliw chat`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any

import typer

from ironcliw import console
from ironcliw.client import DEFAULT_CHAT_MODEL, Client, Completion, GenerationOptions
from serve.conversation import DEFAULT_ANSWER_TOKENS, Conversation, converse
from serve.texts import piped_text

chat = typer.Typer()


@chat.command()
def chat_with_model(
    prompt: Annotated[
        str | None, typer.Argument(help="Unset: a conversation, or standard input from a pipe.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model should be.")] = None,
    model: Annotated[str, typer.Option(help="A generating model.")] = DEFAULT_CHAT_MODEL,
    temperature: Annotated[float | None, typer.Option(help="0: the likeliest token.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Share of probability to draw from.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Number of tokens to draw from.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help=f"Most tokens of an answer; unset: {DEFAULT_ANSWER_TOKENS}."),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends the answer; repeatable.")
    ] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Wait for the whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a model, once or in a conversation."""
    options: GenerationOptions = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    options |= {"seed": seed, "max_tokens": max_tokens, "stop": stop or None}
    interactive = prompt is None and sys.stdin.isatty()
    if interactive and as_json:
        raise typer.BadParameter("--json needs a PROMPT, or a text on standard input")
    console.command_settings()
    with Client() as client:
        talk = Conversation(client, model, system, options, streaming=not (no_stream or as_json))
        if interactive:
            converse(talk)
            return
        answer = talk.ask(prompt if prompt is not None else piped_text("PROMPT"), quiet=as_json)
    if as_json:
        console.write_json(_document(answer))


def _document(answer: Completion | None) -> dict[str, Any]:
    assert answer is not None, "JSON is never streamed"
    return {
        "model": answer.model,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": dataclasses.asdict(answer.usage),
        "served": dataclasses.asdict(answer.served),
    }
