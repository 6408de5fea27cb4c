"""A teacher's answers in a file, so that what was asked once need not be asked again.

answers.jsonl   a line that says who was asked for which labels, then a line for each text
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ironcliw.errors import SettingsError
from train.heads.texts import text_key

FORMAT_VERSION = 1


class KeptAnswers:
    """The probabilities that a model gave to labels, by text.

    Args:
        file: Made where it is not there; its folder, too.
        model: That answers.
        labels: L names.

    Raises:
        SettingsError: the file holds answers of another model, or for other labels.
    """

    def __init__(self, file: Path, model: str, labels: Sequence[str]) -> None:
        self.file = file
        self._found: dict[str, list[float]] = {}
        header = {"format_version": FORMAT_VERSION, "model": model, "labels": list(labels)}
        if file.is_file():
            self._read(header)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        self._append(header)

    def __len__(self) -> int:
        return len(self._found)

    def get(self, text: str) -> list[float] | None:
        """What was answered, L probabilities; None: it was not asked yet."""
        return self._found.get(text_key(text).hex())

    def add(self, text: str, scores: Sequence[float]) -> None:
        """Keep an answer; it is in the file when this returns."""
        key = text_key(text).hex()
        if key in self._found:
            return
        self._found[key] = list(scores)
        self._append({"text": key, "scores": self._found[key]})

    def _append(self, line: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def _read(self, header: dict[str, Any]) -> None:
        whole = self.file.read_text(encoding="utf-8")
        ended = whole.rfind("\n") + 1
        if ended < len(whole):  # cut off while it was written
            with self.file.open("r+b") as stream:
                stream.truncate(len(whole[:ended].encode()))
        lines = whole[:ended].splitlines()
        try:
            first, *others = (json.loads(line) for line in lines)
            self._found = {str(each["text"]): list(each["scores"]) for each in others}
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{self.file} is damaged ({error}); remove it, and the teacher is asked again"
            ) from error
        changed = [key for key in header if first.get(key) != header[key]]
        if changed:
            raise SettingsError(
                f"{self.file} holds answers with another {' and '.join(changed)}; name a new "
                "folder, or remove it"
            )
