"""The page of a comparison."""

from __future__ import annotations

from train.comparison.config import ComparisonConfig
from train.comparison.report import as_markdown
from train.comparison.run import SuiteResult
from train.comparison.win_rate import WinRate

CONFIG = {
    "name": "bots",
    "model_name": "SmolLM2-135M-Instruct",
    "adapters": {"bot": "my-run"},
    "suites": [{"name": "pairs", "data": {"train": ["pairs.jsonl"]}}],
}


def test_the_page_tells_what_each_candidate_is_and_how_it_did() -> None:
    measures = {
        "base": {"preference_accuracy": 0.5, "preference_margin": -1.0},
        "bot": {"preference_accuracy": 0.9, "preference_margin": 2.5},
    }
    rates = {
        ("bot", "base"): WinRate(wins=30, ties=0, rows=40, margin=3.5),
        ("base", "bot"): WinRate(wins=10, ties=0, rows=40, margin=-3.5),
    }
    result = SuiteResult("pairs", "preferences", 40, "ab", measures, rates)
    page = as_markdown(ComparisonConfig.model_validate(CONFIG), [result]).splitlines()
    assert page[:5] == ["# bots", "", "Base: SmolLM2-135M-Instruct.", "", "- bot: `my-run`"]
    assert "40 rows of preferences." in page
    assert "| base | 0.5000 | -1.0000 |" in page
    assert "| bot | 0.9000 (+0.4000) | 2.5000 (+3.5000) |" in page
    # each pair once, the later candidate first
    told = [line for line in page if line.startswith("| bot | base |")]
    assert told == ["| bot | base | 75.0% [59.8%, 85.8%] | +3.500 | better |"]
    assert not any(line.startswith("| base | bot |") for line in page)
