"""Whether adapters are measured on the tokens that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping

from ironcliw.errors import SettingsError
from ironcliw.settings import Settings
from train.comparison.config import Suite
from train.data.read import read_data
from train.data.tokenized import TokenizedData
from train.export.source import Source
from train.tokenizer import TrainingTokenizer


def check_templates(
    suite: Suite,
    data: TokenizedData,
    adapters: Mapping[str, Source],
    base: str,
    settings: Settings,
) -> None:
    """Refuse to measure by the base's chat template what was trained with another one.

    A suite that names its template is measured with that, whatever adapters were trained with.

    Args:
        suite: Of rows.
        data: Its rows by its own template, or by the base's.
        adapters: What is compared, by name.
        base: The model's name.
        settings: Of the head.

    Raises:
        SettingsError: an adapter's template makes other tokens of the rows, and the suite names
            none; or that template is not here.
    """
    if suite.data.chat_template is not None:
        return
    for name, source in adapters.items():
        if source.chat_template is None:
            continue
        tokenizer = TrainingTokenizer.load(base, settings, template=source.chat_template)
        if read_data(suite.data, tokenizer).train.digest != data.digest:
            raise SettingsError(
                f"adapter {name} ({source.name}) was trained with a chat template of its own, "
                f"which makes other tokens of the rows of suite {suite.name!r} than that of {base} "
                "does; set data.chat_template of the suite to the one that all are measured with: "
                f"{_shown(source.chat_template)} as in training"
            )


def _shown(template: str) -> str:
    """A file's name; the Jinja itself is long."""
    return template if template.endswith(".jinja") else "the text in the run's config.json"
