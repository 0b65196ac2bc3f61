"""Claims 7, 9, 12 and 13: milder stresses, subtle ones, and convergence."""

from pathlib import Path

import pandas as pd

from spectral.claims.numbers import difference, of, read_table, sizes
from spectral.claims.rules import ABOVE, BELOW, Part, Statement
from spectral.results.bootstrap import LEVEL, Interval
from spectral.results.warnings import BEFORE, MEAN

_CHANCE = 0.5
_MODES = 50
_STEP, _OTHERS = "step", ("smooth", "no change")
_KEYS = ["parameters", "model"]
_WITHIN = "within_conditions_k50"


def _interval_columns(*names: str) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def early_warning(tables: Path) -> list[Part]:
    """Claim 7: under one stress, hallucinated answers have the higher alpha, from the beginning."""
    columns = [*_KEYS, "component", "modes", "condition", "observable", "verdict"]
    table = read_table(tables, _WITHIN, columns + _interval_columns("auc", "adjusted"))
    rows = table[(table.observable == "alpha") & (table.modes == _MODES)].dropna(subset="auc")
    parts = []
    for says, name, bound in (
        ("a hallucinated answer's alpha is more likely the higher one", "auc", _CHANCE),
        ("hallucinated answers have the higher alpha, at equal length", "adjusted", 0.0),
    ):
        statements = [
            Statement(f"{row.model}, {row.component}, {row.condition}", of(row, name), ABOVE, bound)
            for _, row in rows.iterrows()
        ]
        needs = "" if statements else "stresses under which some answers are hallucinated"
        parts.append(Part(says, _WITHIN, statements, needs))
    return [*parts, _before(tables)]


def _before(tables: Path) -> Part:
    """What was written before the first wrong word; the mean over all numbers of tokens."""
    columns = [*_KEYS, "condition", "when", "prefix", "component", "observable"]
    table = read_table(tables, "early_warning", columns + _interval_columns("auc"))
    means = table[(table.prefix == MEAN) & (table.when == BEFORE) & (table.observable == "alpha")]
    statements = [
        Statement(f"{row.model}, {row.component}, {row.condition}", of(row, "auc"), ABOVE, _CHANCE)
        for _, row in means.dropna(subset="auc").iterrows()
    ]
    says = "alpha is higher before a hallucination, in the same stress"
    needs = "" if statements else "enough answers whose beginnings were still right"
    return Part(says, "early_warning", statements, needs)


def transition(tables: Path) -> list[Part]:
    """Claim 9: most courses are a step, over severity and over depth.

    A course is decided where at least 95 % of the resampled voices decide alike; the share of steps
    is bounded by taking all others for no steps, and for steps.
    """
    columns = [*_KEYS, "component", "modes", "length", "along", "verdict", "support"]
    table = read_table(tables, "transitions", columns)
    long = table[table.verdict != "too few"]
    return [
        Part(
            f"most courses over {along} are a step", "transitions",
            [
                Statement(model, _steps(group), ABOVE, _CHANCE)
                for (_, model), group in long[long.along == along].groupby(_KEYS)
            ],
            "" if (long.along == along).any() else "courses of four points or more",
        )
        for along in ("severity", "depth")
    ]  # fmt: skip


def _steps(courses: pd.DataFrame) -> Interval:
    sure = courses[courses.support >= LEVEL]
    low = float((sure.verdict == _STEP).sum() / len(courses))
    high = float((len(courses) - sure.verdict.isin(_OTHERS).sum()) / len(courses))
    return Interval(float((courses.verdict == _STEP).mean()), low, high)


def attraction(tables: Path) -> list[Part]:
    """Claim 12: in the largest size Hell draws states together, and texts are few."""
    columns = [*_KEYS, "network", "quantity", *_interval_columns("ratio_stressed", "change")]
    table = read_table(tables, "attraction_distances", columns)
    texts = read_table(
        tables, "attraction_texts", [*_KEYS, "side", "words", *_interval_columns("alike")]
    )
    large = sizes(table)[-1]
    states = table[table.model.isin(large)].set_index(["model", "quantity", "network"]).sort_index()
    pairs = sorted({key[:2] for key in states.index})
    change = {key: of(row, "change") for key, row in states.iterrows()}
    trained = [(f"{m}, {q}", states.loc[(m, q, "trained")], (m, q)) for m, q in pairs]
    whole = texts[texts.words == 0].set_index(["model", "side"])
    return [
        Part("states in Hell are closer at the last layer than at input", "attraction_distances",
             [Statement(a, of(row, "ratio_stressed"), BELOW, 1) for a, row, _ in trained]),
        Part("they are closer in Hell than on clean speech (%)", "attraction_distances",
             [Statement(a, of(row, "change"), BELOW, 0) for a, row, _ in trained]),
        Part("by more than in the random twin (%)", "attraction_distances",
             [Statement(a, difference(change[*key, "trained"], change[*key, "random"]), BELOW, 0)
              for a, _, key in trained]),
        Part("more pairs share their text in Hell than were said alike (%)", "attraction_texts",
             [Statement(m, difference(of(whole.loc[(m, "hell")], "alike"),
                                      of(whole.loc[(m, "said")], "alike")), ABOVE, 0)
              for m in large]),
    ]  # fmt: skip


def subtle(tables: Path) -> list[Part]:
    """Claim 13: the least change of clean speech that was tried makes new hallucinations."""
    columns = [*_KEYS, "condition", "direction", "level_db", *_interval_columns("new_candidates")]
    table = read_table(tables, "subtle_stress", columns)
    clean = table[table.condition == "clean"].sort_values([*_KEYS, "direction"])
    level = clean.level_db.max()  # below the log-mel's own size
    statements = [
        Statement(f"{row.model}, {row.direction}", of(row, "new_candidates"), ABOVE, 0)
        for _, row in clean[clean.level_db == level].iterrows()
    ]
    says = f"changes {level:g} dB below the log-mel make new hallucinations (% of answers)"
    return [Part(says, "subtle_stress", statements)]
