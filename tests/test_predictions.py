"""Predictions: read as they were committed, judged by intervals, older than what they predict."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from companion.claims.numbers import NotMeasured, Tables
from companion.claims.predictions import (
    BOTH,
    COMMIT,
    FALSE,
    NUMBERS,
    TRUE,
    UNMEASURED,
    Prediction,
    judge,
    read_predictions,
)
from companion.claims.rules import OPEN
from companion.results.intervals import Interval

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "predictions.md"


def _tables(folder: Path) -> Tables:
    return Tables(folder / "whisper", folder / "replication.csv")


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
    (judged,) = judge([_line(side, bound)], _tables(Path()), numbers).outcome
    assert judged == outcome


def test_what_is_not_there_is_not_measured(tmp_path: Path) -> None:
    table = judge([_line("above", 0.0, number="pooled n_eff")], _tables(tmp_path), NUMBERS)
    assert list(table.outcome) == [UNMEASURED]
    assert list(table.lacks) == ["there is no replication.csv yet"]


# --- the numbers ---------------------------------------------------------------------------------

KEYS = {"parameters": 1, "model": "tiny.en"}
NEAR = 0.1  # half of every planted interval
WRONG = 1e6  # what no number may read


def _columns(**numbers: float) -> dict[str, float]:
    return {
        f"{name}{end}": value + reach
        for name, value in numbers.items()
        for end, reach in (("", 0), ("_low", -NEAR), ("_high", NEAR))
    }


def _plant(
    folder: Path, name: str, *rows: Mapping[str, object], wrong: Mapping[str, object]
) -> None:
    """A table, in which every row is also there with each key of ``wrong`` changed, and WRONG."""
    table = []
    for row in rows:
        table.append({**KEYS, **row})
        for key, value in {"model": "small", **wrong}.items():
            bad = {name: WRONG for name, cell in row.items() if isinstance(cell, float)}
            table.append({**KEYS, **row, **bad, key: value})
    folder.mkdir(exist_ok=True)
    frame = pd.DataFrame(table)
    keys = [name for name in frame if not pd.api.types.is_float_dtype(frame[name])]
    frame.drop_duplicates(keys).to_csv(folder / f"{name}.csv", index=False)


def _plant_all(folder: Path) -> dict[str, float]:
    """Every table that the predictions read, and what each number then is."""
    numbers = {"n_eff": -1.0, "alpha": 2.0, "log10_difference": 3.0, "log10_ratio": 4.0}
    parts = {"cross_attention": 10.0, "self_attention": 20.0, "ffn": 30.0}
    cell = {"of": "measured", "decoding": "openai", "sample": "unseen", "loops": "dropped",
            "modes": 50}  # fmt: skip
    rows = [
        cell | {"component": part} | _columns(
            **{name: base + value for name, value in numbers.items()}, alpha_stressed=base
        )
        for part, base in parts.items()
    ]  # fmt: skip
    crossed = rows[0]
    for key, value, base in (
        ("loops", "matched", 110.0), ("loops", "kept", 120.0), ("modes", 10, 130.0),
        ("decoding", "unrestricted", 140.0),
    ):  # fmt: skip
        moved = {name: base + x for name, x in numbers.items()}
        rows.append(crossed | {key: value} | _columns(**moved))
    _plant(folder, "replication", *rows, wrong={"of": "controls", "sample": "all"})
    halves = [
        {"decoding": "openai", "component": "cross_attention", "modes": 50, "draw": i,
         "n_eff": -5.0 if i < 7 else 7.0, "difference": -50.0 if i < 6 else 10.0}
        for i in range(10)
    ]  # fmt: skip
    _plant(folder, "replication_halves", *halves, wrong={"decoding": "unrestricted", "modes": 10})

    whisper = folder / "whisper"
    matched = {"length": "length-matched", "modes": 50}
    changes = [
        matched | {"component": part, "outcome": "without loops"}
        | _columns(delta_n_eff=base + 1, delta_log10_kf_resolved=base + 2)
        for part, base in parts.items()
    ]  # fmt: skip
    _plant(whisper, "by_outcome", *changes, wrong={"length": "raw", "modes": 10, "outcome": "all"})
    control: dict[str, object] = {
        **matched, "component": "cross_attention", "observable": "n_eff", "control": "spectrum",
        **_columns(remaining=41.0, fraction=0.5),
    }  # fmt: skip
    _plant(
        whisper,
        "controls",
        control,
        wrong={"control": "initialised", "observable": "alpha", "modes": 10},
    )
    beginnings = [
        {"component": component, "observable": name, "condition": condition, "when": "any",
         "prefix": 0} | _columns(auc=auc)
        for component, name, condition, auc in (
            ("cross_attention", "alpha", "noise", 0.6), ("cross_attention", "alpha", "mix", 0.8),
            ("transcript", "log_probability_per_word_piece", "noise", 0.2),
            ("transcript", "log_probability_per_word_piece", "mix", 0.1),
        )
    ]  # fmt: skip
    _plant(whisper, "early_warning", *beginnings, wrong={"when": "before", "prefix": 8})
    whole: dict[str, object] = {
        "component": "transcript", "observable": "log_probability_per_word_piece",
        "condition": "noise",
        **_columns(auc=0.25),
    }  # fmt: skip
    _plant(whisper, "within_conditions_k50", whole, wrong={"observable": "tokens"})
    layers = [
        {"network": "trained", "layer": layer, "condition": condition} | _columns(unstable=value)
        for layer, condition, value in ((1, "clean", 0.2), (1, "hell", 0.3), (2, "clean", 0.2),
                                        (2, "hell", 0.5))
    ]  # fmt: skip
    _plant(whisper, "propagators", *layers, wrong={"network": "random"})
    fractions = {"gain_below_one": WRONG, "product_decays": 0.05, "rank_one_fraction": 0.25}
    theorem = {"network": "trained", "condition": "hell", **_columns(**fractions)}
    _plant(whisper, "hypotheses", theorem, wrong={"network": "random", "condition": "clean"})
    _plant(whisper, "noise_width", _columns(width_db=7.0), wrong={})
    apart: dict[str, object] = {
        "network": "trained",
        "quantity": "distance",
        **_columns(ratio_stressed=WRONG, change=-9.0),
    }
    _plant(
        whisper, "attraction_distances", apart,
        wrong={"network": "random", "quantity": "centred_distance"},
    )  # fmt: skip
    texts = {"side": "hell", "words": 0} | _columns(alike=1.5)
    _plant(whisper, "attraction_texts", texts, wrong={"side": "said", "words": 1})
    perturbation = {"condition": "clean", "direction": "singular", "level_db": 20}
    _plant(
        whisper, "subtle_stress", perturbation | _columns(changed=60.0, new_candidates=4.0),
        wrong={"condition": "hell", "direction": "random", "level_db": 40},
    )  # fmt: skip
    kinds = [
        {"condition": "hell", "outcome": kind} | _columns(fraction=fraction, passing=80.0)
        for kind, fraction in (("invention", 55.0), ("loop", 15.0))
    ]
    _plant(whisper, "outcome_confidence", *kinds, wrong={"condition": "clean"})
    pd.DataFrame(
        [KEYS | {"decoding": rule, "clips": 50, "with_words": words}
         for rule, words in (("openai", 49), ("unrestricted", 1))]
    ).to_csv(folder / "whisper" / "words_from_nonspeech.csv", index=False)  # fmt: skip
    return {
        "pooled n_eff": 9.0, "pooled alpha": 12.0, "pooled log10 difference": 13.0,
        "pooled log10 ratio": 14.0, "pooled n_eff, matched": 109.0, "pooled n_eff, kept": 119.0,
        "pooled n_eff, K = 10": 129.0, "pooled n_eff, unrestricted": 139.0,
        "pooled n_eff, self-attention": 19.0, "pooled n_eff, ffn": 29.0,
        "pooled slope, largest": 30.0, "halves n_eff below 6": 0.7,
        "halves log10 difference above 1.5": 0.6, "matched n_eff": 11.0,
        "matched n_eff, self-attention": 21.0, "matched n_eff, ffn": 31.0,
        "matched log10 resolved index": 12.0, "matched n_eff, mean": 21.0,
        "matched n_eff beyond controls": 41.0, "control over trained": 0.5, "alpha AUC": 0.7,
        "log-probability AUC minus alpha AUC": 0.15, "log-probability AUC": 0.75, "unstable": 20.0,
        "noise, 10 to 90 %": 7.0, "product decays": 0.05, "rank-one fraction": 0.25,
        "distance change": -9.0, "pairs alike, Hell": 1.5, "texts changed": 60.0,
        "new candidates": 4.0, "inventions": 55.0, "loops": 15.0, "inventions above -1": 80.0,
        "words from non-speech": 98.0, "words from non-speech, unrestricted": 2.0,
    }  # fmt: skip


def test_every_number_is_the_cell_that_its_name_says(tmp_path: Path) -> None:
    expected = _plant_all(tmp_path)
    tables = _tables(tmp_path)
    intervals = {name: NUMBERS[name](tables, "tiny.en") for name in expected}
    estimates = {name: interval.estimate for name, interval in intervals.items()}
    assert estimates == pytest.approx(expected)
    assert all(interval.low < interval.estimate < interval.high for interval in intervals.values())
    assert set(NUMBERS) - set(expected) == {"pooled n_eff, base minus tiny.en"}
    for name in NUMBERS:
        with pytest.raises(NotMeasured):
            NUMBERS[name](tables, "base")


def test_models_are_compared_as_if_of_other_utterances(tmp_path: Path) -> None:
    _plant_all(tmp_path)
    path = tmp_path / "replication.csv"
    table = pd.read_csv(path)
    base = table[table.model == "tiny.en"].assign(model="base")
    names = ["n_eff", "n_eff_low", "n_eff_high"]
    base[names] = base[names] - 3.0
    pd.concat([table, base]).to_csv(path, index=False)
    contrast = NUMBERS["pooled n_eff, base minus tiny.en"](_tables(tmp_path), BOTH)
    assert contrast.estimate == pytest.approx(-3.0)
    assert contrast.high - contrast.estimate == pytest.approx(NEAR * 2**0.5)


def test_planted_tables_decide_every_line_of_the_page(tmp_path: Path) -> None:
    _plant_all(tmp_path)
    lines = [line for line in read_predictions(PAGE) if line.model == "tiny.en"]
    assert UNMEASURED not in set(judge(lines, _tables(tmp_path), NUMBERS).outcome)


def test_the_page_has_every_claim_but_the_one_that_needs_more_models() -> None:
    lines = read_predictions(PAGE)
    assert {line.claim for line in lines} == set(range(1, 17)) - {14}
    assert set(NUMBERS) == {line.number for line in lines}


def test_a_line_that_is_no_prediction_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("| X | 1 | something | a number | tiny.en | beside | 3 |\n")
    with pytest.raises(ValueError, match="is no prediction"):
        read_predictions(page)


def test_the_page_is_as_it_was_committed_before_the_rows() -> None:
    committed = _git("log", "--diff-filter=A", "--format=%H", "--", str(PAGE)).split()
    assert committed[-1].startswith(COMMIT)
    assert _git("show", f"{COMMIT}:docs/predictions.md") == PAGE.read_text(encoding="utf-8")
    rows = "data/results/whisper"
    added = _git("log", "--diff-filter=A", "--format=%H %ct", "--", rows).splitlines()
    written = int(_git("show", "-s", "--format=%ct", COMMIT))
    assert all(int(line.split()[1]) > written for line in added)
    for line in _git(  # those of inputs, which no line is about, were made beside the page
        "log", "--diff-filter=A", "--format=%H", "--", rows, f":!{rows}/inputs"
    ).splitlines():
        assert not subprocess.run(
            ["git", "merge-base", "--is-ancestor", COMMIT, line], cwd=ROOT, check=False
        ).returncode
