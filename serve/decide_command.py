"""`ironcliw decide`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from ironcliw import console
from ironcliw.client import (
    DEFAULT_MODEL,
    ChoiceAnswer,
    Client,
    Decision,
    PredicateAnswer,
    ScoreAnswer,
    choice_question,
    predicate_question,
    score_question,
)
from serve.conversation import write_notes
from serve.texts import piped_text, read_texts

NONE_OF_THESE = "none of these"
_SHOWN_CHARACTERS = 60

decide = typer.Typer()

Many = list[str] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of each text: at most one question over names, and statements.

    Attributes:
        kind: What the names are: `label`, `level`, or None where there are none.
        questions: In the form of the interface; the one over names comes first.
        statements: Of the predicates.
    """

    kind: str | None
    questions: list[dict[str, Any]]
    statements: list[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about one text; `name` is None where none fits or none was asked for.

    Attributes:
        text: The text.
        name: The likeliest label or level.
        scores: Probability of each label or level, in the order asked.
        mean: The mean level, counted from 1; None for labels.
        predicates: Probability of each statement.
    """

    text: str
    name: str | None
    scores: dict[str, float]
    mean: float | None
    predicates: dict[str, float]


@decide.command()
def decide_texts(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="A text; unset: standard input's.")
    ] = None,
    label: Annotated[Many, typer.Option(help="A label to choose from; repeatable.")] = None,
    level: Annotated[
        Many, typer.Option(help="A level of a scale, the lowest first; repeatable.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What is asked about labels or levels.")
    ] = None,
    describe: Annotated[
        Many, typer.Option(metavar="LABEL=TEXT", help="What a label or level means; repeatable.")
    ] = None,
    example: Annotated[
        Many, typer.Option(metavar="LABEL=TEXT", help="A text of a label; repeatable.")
    ] = None,
    predicate: Annotated[
        Many, typer.Option(metavar="STATEMENT", help="How likely is it true? Repeatable.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Choose none below this probability that any fits."),
    ] = None,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="A probability for each label (method nli).")
    ] = False,
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="One text a line; `-`: standard input.")
    ] = None,
    model: Annotated[str, typer.Option(help="A model of `ironcliw models`.")] = DEFAULT_MODEL,
    method: Annotated[
        str | None, typer.Option(help="embedding, nli, classifier or lm; unset: by the model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Choose the label or level that fits a text, or none; tell how likely statements are true."""
    asked = _asked(label or [], level or [], question, describe or [], example or [], predicate)
    if asked.kind is None and (threshold is not None or multi_label):
        raise typer.BadParameter("--threshold and --multi-label go with --label or --level")
    texts = _texts(text, file)
    fields = {"model": model, "method": method, "refusal_threshold": threshold}
    verdicts = _decide_each(texts, asked, {**fields, "multi_label": multi_label or None})
    if as_json:
        for verdict in verdicts:
            console.write_line(_json_line(verdict, asked))
    elif file is None:
        _write_one(next(iter(verdicts)), asked)
    else:
        _write_many(list(verdicts), asked)


def _texts(text: str | None, file: str | None) -> list[str]:
    if text is not None and file is not None:
        raise typer.BadParameter("give a text, or --file FILE, and not both")
    if text is None and file is None and sys.stdin.isatty():
        raise typer.BadParameter("give a text, --file FILE, or a text on standard input")
    console.command_settings()
    if file is not None:
        return read_texts(file)
    return [piped_text("TEXT") if text is None else text]


def _asked(
    labels: list[str],
    levels: list[str],
    question: str | None,
    describe: list[str],
    example: list[str],
    statements: Many,
) -> Asked:
    predicates = [predicate_question(statement) for statement in statements or []]
    names, kind = (levels, "level") if levels else (labels, "label")
    if labels and levels:
        raise typer.BadParameter("give labels, or levels, and not both")
    if not names and not predicates:
        raise typer.BadParameter("give labels with --label, or statements with --predicate")
    if not names and (question or describe or example):
        raise typer.BadParameter("--question, --describe and --example go with --label or --level")
    if levels and example:
        raise typer.BadParameter("--example goes with --label")
    if len(names) == 1:
        raise typer.BadParameter(
            f"--{kind} is given once; give two or more, or one statement with --predicate"
        )
    if not names:
        return Asked(None, predicates, statements or [])
    descriptions = dict(_assigned("--describe", given, names) for given in describe)
    asking = {} if question is None else {"instructions": question}
    if levels:
        first = score_question(levels, descriptions, **asking)
    else:
        first = choice_question(labels, descriptions, _examples(example, labels), **asking)
    return Asked(kind, [first, *predicates], statements or [])


def _examples(example: list[str], labels: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for given in example:
        name, text = _assigned("--example", given, labels)
        found.setdefault(name, []).append(text)
    return found


def _assigned(option: str, given: str, names: Sequence[str]) -> tuple[str, str]:
    """The label and the text of `LABEL=TEXT`; a label may hold an equals sign itself."""
    for name in sorted(names, key=len, reverse=True):
        if given.startswith(name + "="):
            return name, given[len(name) + 1 :]
    raise typer.BadParameter(f"{option} {given!r} does not begin with a --label and `=`")


def _decide_each(texts: list[str], asked: Asked, fields: dict[str, Any]) -> Iterator[Verdict]:
    with Client() as client, console.progress("deciding", len(texts)) as update:
        for done, text in enumerate(texts, start=1):
            answer = client.decide(text, asked.questions, **fields)
            write_notes(None, answer.served)
            if answer.truncated_tokens:
                console.note(f"{answer.truncated_tokens} tokens beyond the model's window were cut")
            yield _verdict(text, answer, asked)
            update(done)


def _verdict(text: str, decision: Decision, asked: Asked) -> Verdict:
    first, likely = decision.answers[0], decision.answers[-len(asked.statements) or None :]
    predicates = {
        statement: answer.probability
        for statement, answer in zip(asked.statements, likely, strict=False)
        if isinstance(answer, PredicateAnswer)
    }
    if isinstance(first, ChoiceAnswer):
        scores = {str(label): score for label, score in first.probabilities.items()}
        return Verdict(text, str(first.choice), scores, None, predicates)
    if isinstance(first, ScoreAnswer):
        scores = first.probabilities
        likeliest = max(scores, key=lambda name: scores[name])
        return Verdict(text, likeliest, scores, first.score, predicates)
    return Verdict(text, None, {}, None, predicates)


def _json_line(verdict: Verdict, asked: Asked) -> str:
    document: dict[str, Any] = {"text": verdict.text}
    if asked.kind is not None:
        document[asked.kind] = verdict.name
        if asked.kind == "level":
            document["score"] = verdict.mean
        document["scores"] = verdict.scores
    if verdict.predicates:
        document["predicates"] = verdict.predicates
    return json.dumps(document)


def _write_one(verdict: Verdict, asked: Asked) -> None:
    if asked.kind is not None and verdict.name is None:
        console.write_line(NONE_OF_THESE)
    elif asked.kind is not None:
        ranked = list(verdict.scores.items())
        if verdict.mean is None:
            ranked.sort(key=lambda item: -item[1])
        else:
            console.write_line(f"score {verdict.mean:.2f} of {len(ranked)}")
        rows = ((name, _share(probability)) for name, probability in ranked)
        console.write_table((asked.kind, "probability"), rows)
    if verdict.predicates:
        rows = ((statement, _share(p)) for statement, p in verdict.predicates.items())
        console.write_table(("statement", "probability"), rows)


def _write_many(verdicts: list[Verdict], asked: Asked) -> None:
    named = [] if asked.kind is None else [asked.kind, "probability"]
    scored = ["score"] if asked.kind == "level" else []
    rows = []
    for verdict in verdicts:
        text = verdict.text
        if len(text) > _SHOWN_CHARACTERS:
            text = text[: _SHOWN_CHARACTERS - 3] + "..."
        row: list[object] = [text]
        if named:
            best = None if verdict.name is None else _share(verdict.scores[verdict.name])
            row += [verdict.name or NONE_OF_THESE, best]
        if scored:
            row.append(None if verdict.mean is None else f"{verdict.mean:.2f}")
        rows.append([*row, *(_share(verdict.predicates.get(one)) for one in asked.statements)])
    console.write_table(["text", *named, *scored, *asked.statements], rows)


def _share(probability: float | None) -> str | None:
    return None if probability is None else f"{probability:.4f}"
