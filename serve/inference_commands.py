"""`ironcliw decide` and `ironcliw chat`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from ironcliw import console
from ironcliw.client import (
    DEFAULT_CHAT_MODEL,
    DEFAULT_MODEL,
    ChoiceAnswer,
    Client,
    Completion,
    Decision,
    GenerationOptions,
    PredicateAnswer,
    choice_question,
    predicate_question,
)
from serve.conversation import Conversation, converse, piped_text, write_notes
from serve.texts import read_texts

NONE_OF_THESE = "none of these"
_SHOWN_CHARACTERS = 60

decide = typer.Typer()
chat = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Many = list[str] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about one text; `label` is None where none fits or none was asked for."""

    text: str
    label: str | None
    scores: dict[str, float]
    predicates: dict[str, float]


@decide.command()
def decide_texts(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="A text.")] = None,
    label: Annotated[Many, typer.Option(help="A label to choose from; repeatable.")] = None,
    describe: Annotated[
        Many, typer.Option(metavar="LABEL=TEXT", help="What a label means; repeatable.")
    ] = None,
    example: Annotated[
        Many, typer.Option(metavar="LABEL=TEXT", help="A text of a label; repeatable.")
    ] = None,
    predicate: Annotated[
        Many, typer.Option(metavar="STATEMENT", help="How likely is it true? Repeatable.")
    ] = None,
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="One text a line; `-`: standard input.")
    ] = None,
    model: Annotated[str, typer.Option(help="A model of `ironcliw models`.")] = DEFAULT_MODEL,
    method: Annotated[
        str | None, typer.Option(help="embedding, nli, classifier or lm; unset: by the model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Choose the label that fits a text, or none; estimate how likely statements are true."""
    if (text is None) == (file is None):
        raise typer.BadParameter("give a text, or --file FILE, and not both")
    labels, statements = label or [], predicate or []
    if not labels and not statements:
        raise typer.BadParameter("give labels with --label, or statements with --predicate")
    questions = _questions(labels, describe or [], example or [], statements)
    console.command_settings()
    texts = [text] if text is not None else read_texts(str(file))
    verdicts = _decide_each(texts, questions, statements, {"model": model, "method": method})
    if as_json:
        for verdict in verdicts:
            console.write_line(_json_line(verdict, bool(labels)))
    elif file is None:
        _write_one(next(iter(verdicts)), bool(labels))
    else:
        _write_many(list(verdicts), bool(labels), statements)


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
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer.")] = None,
    stop: Annotated[Many, typer.Option(help="A text that ends the answer; repeatable.")] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Wait for the whole.")] = False,
    as_json: Json = False,
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
        answer = talk.ask(prompt if prompt is not None else piped_text(), quiet=as_json)
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


def _questions(
    labels: list[str], describe: list[str], example: list[str], statements: list[str]
) -> list[dict[str, Any]]:
    questions = [predicate_question(statement) for statement in statements]
    descriptions = dict(_assigned("--describe", given, labels) for given in describe)
    examples: dict[str, list[str]] = {}
    for given in example:
        name, text = _assigned("--example", given, labels)
        examples.setdefault(name, []).append(text)
    if labels:
        questions.insert(0, choice_question(labels, descriptions, examples))
    return questions


def _assigned(option: str, given: str, labels: Sequence[str]) -> tuple[str, str]:
    """The label and the text of `LABEL=TEXT`; a label may hold an equals sign itself."""
    for label in sorted(labels, key=len, reverse=True):
        if given.startswith(label + "="):
            return label, given[len(label) + 1 :]
    raise typer.BadParameter(f"{option} {given!r} does not begin with a --label and `=`")


def _decide_each(
    texts: list[str],
    questions: list[dict[str, Any]],
    statements: list[str],
    fields: dict[str, Any],
) -> Iterator[Verdict]:
    with Client() as client, console.progress("deciding", len(texts)) as update:
        for done, text in enumerate(texts, start=1):
            answer = client.decide(text, questions, **fields)
            write_notes(None, answer.served)
            if answer.truncated_tokens:
                console.note(f"{answer.truncated_tokens} tokens beyond the model's window were cut")
            yield _verdict(text, answer, statements)
            update(done)


def _verdict(text: str, decision: Decision, statements: list[str]) -> Verdict:
    # the choice, where there is one, was asked first
    first, likely = decision.answers[0], decision.answers[-len(statements) or None :]
    predicates = {
        statement: answer.probability
        for statement, answer in zip(statements, likely, strict=False)
        if isinstance(answer, PredicateAnswer)
    }
    if not isinstance(first, ChoiceAnswer):
        return Verdict(text, None, {}, predicates)
    scores = {str(label): score for label, score in first.probabilities.items()}
    return Verdict(text, str(first.choice), scores, predicates)


def _json_line(verdict: Verdict, labelled: bool) -> str:
    document: dict[str, Any] = {"text": verdict.text}
    if labelled:
        document |= {"label": verdict.label, "scores": verdict.scores}
    if verdict.predicates:
        document["predicates"] = verdict.predicates
    return json.dumps(document)


def _write_one(verdict: Verdict, labelled: bool) -> None:
    if labelled and verdict.label is None:
        console.write_line(NONE_OF_THESE)
    elif labelled:
        ranked = sorted(verdict.scores.items(), key=lambda item: -item[1])
        console.write_table(("label", "probability"), ((name, _share(p)) for name, p in ranked))
    if verdict.predicates:
        rows = ((statement, _share(p)) for statement, p in verdict.predicates.items())
        console.write_table(("statement", "probability"), rows)


def _write_many(verdicts: list[Verdict], labelled: bool, statements: list[str]) -> None:
    columns = ["text", *(["label", "probability"] if labelled else []), *statements]
    rows = []
    for verdict in verdicts:
        text = verdict.text
        if len(text) > _SHOWN_CHARACTERS:
            text = text[: _SHOWN_CHARACTERS - 3] + "..."
        row: list[object] = [text]
        if labelled:
            score = None if verdict.label is None else _share(verdict.scores[verdict.label])
            row += [verdict.label or NONE_OF_THESE, score]
        rows.append([*row, *(_share(verdict.predicates.get(one)) for one in statements)])
    console.write_table(columns, rows)


def _share(probability: float | None) -> str | None:
    return None if probability is None else f"{probability:.4f}"
