"""Predictions: read as they were committed, judged by intervals, older than what they predict."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from spectral.claims.predictions import (
    COMMIT,
    FALSE,
    TRUE,
    UNMEASURED,
    Prediction,
    judge,
    read_predictions,
)
from spectral.claims.registered import NUMBERS, pooled
from spectral.claims.rules import OPEN
from spectral.results.bootstrap import Interval

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "predictions.md"


def _line(side: str, bound: float, number: str = "n", model: str = "m") -> Prediction:
    return Prediction("X", 1, "", number, model, side, bound)


def _git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode or (ROOT / ".git" / "shallow").exists():
        pytest.skip("no git history here")
    return run.stdout


@pytest.mark.parametrize(
    ("side", "bound", "outcome"),
    [
        ("below", -1.0, TRUE),
        ("above", -1.0, FALSE),
        ("below", -3.0, OPEN),
        ("above", -5.0, TRUE),
        ("below", -5.0, FALSE),
    ],
)
def test_an_outcome_takes_the_whole_interval(side: str, bound: float, outcome: str) -> None:
    numbers = {"n": lambda tables, model: Interval(-3.0, -4.0, -2.0)}
    (found,) = judge([_line(side, bound)], Path(), numbers).outcome
    assert found == outcome


def test_what_is_not_there_is_not_measured(tmp_path: Path) -> None:
    lines = [_line("above", 0.0, number="nobody's"), _line("above", 0.0, number="pooled n_eff")]
    assert set(judge(lines, tmp_path, NUMBERS).outcome) == {UNMEASURED}


def test_a_number_is_the_cell_that_its_name_says(tmp_path: Path) -> None:
    cell = {
        "of": "measured", "model": "tiny.en", "decoding": "openai", "sample": "unseen",
        "loops": "dropped", "component": "cross_attention", "modes": 50,
    }  # fmt: skip
    others = [
        cell | {"sample": "all"}, cell | {"modes": 10}, cell | {"loops": "kept"},
        cell | {"model": "base"}, cell | {"decoding": "unrestricted"}, cell | {"component": "ffn"},
    ]  # fmt: skip
    rows = [one | {"n_eff": float(i)} for i, one in enumerate([cell, *others])]
    table = pd.DataFrame(rows).assign(n_eff_low=-1.0, n_eff_high=9.0)
    table.to_csv(tmp_path / "replication.csv", index=False)
    assert pooled("n_eff")(tmp_path, "tiny.en") == Interval(0.0, -1.0, 9.0)
    assert pooled("n_eff", loops="kept")(tmp_path, "tiny.en").estimate == 3.0
    with pytest.raises(KeyError):
        pooled("n_eff")(tmp_path, "small")


def test_the_page_has_every_claim_but_the_one_that_needs_more_models() -> None:
    lines = read_predictions(PAGE)
    assert {line.claim for line in lines} == set(range(1, 17)) - {14}
    assert set(NUMBERS) <= {line.number for line in lines}


def test_a_line_that_is_no_prediction_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("| X | 1 | something | a number | tiny.en | beside | 3 |\n")
    with pytest.raises(ValueError, match="is no prediction"):
        read_predictions(page)


def test_the_page_is_as_it_was_committed_before_the_rows() -> None:
    committed = _git("log", "--diff-filter=A", "--format=%H", "--", str(PAGE)).split()
    assert committed[-1].startswith(COMMIT)
    assert _git("show", f"{COMMIT}:docs/predictions.md") == PAGE.read_text(encoding="utf-8")
    rows = "data/results/whisper/pooling", "data/results/whisper/measure"
    first = _git("log", "--diff-filter=A", "--format=%H", "--", *rows).split()
    for added in first[-1:]:
        _git("merge-base", "--is-ancestor", COMMIT, added)
        older, newer = (int(_git("show", "-s", "--format=%ct", one)) for one in (COMMIT, added))
        assert older < newer
