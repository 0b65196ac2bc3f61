"""The numbers that the predictions are about, each from a table of another notebook."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from spectral.claims.numbers import difference, of, read_table, share
from spectral.claims.predictions import BOTH, Number
from spectral.results.bootstrap import Interval

_POOLED, _OUTCOMES = "replication", "by_outcome"
_KEYS = ["of", "model", "decoding", "sample", "loops", "component", "modes"]
_PARTS = ("self_attention", "cross_attention", "ffn")
_SMALLER, _LARGER = "tiny.en", "base"


def pooled(name: str, **where: object) -> Number:
    """A number of the pooled table: by default cross-attention, unseen, loops dropped, K = 50."""
    chosen: dict[str, object] = {
        "of": "measured", "decoding": "openai", "sample": "unseen", "loops": "dropped",
        "component": "cross_attention", "modes": 50,
    } | where  # fmt: skip

    def number(tables: Path, model: str) -> Interval:
        table = read_table(tables, _POOLED, [*_KEYS, name, f"{name}_low", f"{name}_high"])
        return of(_only(table, chosen | {"model": model}), name)

    return number


def larger_minus_smaller(tables: Path, model: str) -> Interval:
    """base's pooled change of effective rank minus tiny.en's; of both models together."""
    if model != BOTH:
        raise KeyError(model)
    change = pooled("n_eff")
    return difference(change(tables, _LARGER), change(tables, _SMALLER))


def halves(holds: Callable[[pd.DataFrame], "pd.Series[bool]"]) -> Number:
    """The fraction of random halves of clean speech of which something holds, and its interval."""

    def number(tables: Path, model: str) -> Interval:
        table = read_table(
            tables, "replication_halves", ["model", "decoding", "component", "modes"]
        )
        own = table[
            (table.model == model) & (table.decoding == "openai")
            & (table.component == "cross_attention") & (table.modes == 50)
        ]  # fmt: skip
        if own.empty:
            raise KeyError(model)
        found = share(int(holds(own).sum()), len(own))
        return Interval(found.estimate / 100, found.low / 100, found.high / 100)

    return number


def largest_slope(tables: Path, model: str) -> Interval:
    """The largest pooled slope in Hell, over components."""
    found = [pooled("alpha_stressed", component=part)(tables, model) for part in _PARTS]
    return max(found, key=lambda one: one.estimate)


def without_loops(name: str, component: str) -> Number:
    """A change per utterance, length-matched, K = 50, of those that loop on neither side."""

    def number(tables: Path, model: str) -> Interval:
        column = f"delta_{name}"
        keys = ["model", "component", "outcome", "length", "modes"]
        needed = [*keys, column, f"{column}_low", f"{column}_high"]
        chosen = {
            "model": model, "component": component, "outcome": "without loops",
            "length": "length-matched", "modes": 50,
        }  # fmt: skip
        return of(_only(read_table(tables / "whisper", _OUTCOMES, needed), chosen), column)

    return number


def mean_of_components(tables: Path, model: str) -> Interval:
    """The mean over components of the change of effective rank; as if they varied together.

    Numbers of the same utterances do vary together, and their mean then varies as much as they do
    on average: no interval of the mean is wider.
    """
    found = [without_loops("n_eff", part)(tables, model) for part in _PARTS]
    ends = [[one.estimate, one.low, one.high] for one in found]
    return Interval(*(sum(column) / len(found) for column in zip(*ends, strict=True)))


def outcome(kind: str) -> Number:
    """The share of transcripts in Hell of one kind in %, with its exact interval."""

    def number(tables: Path, model: str) -> Interval:
        table = read_table(tables / "whisper", "outcomes", ["model", "condition"])
        counts = read_table(tables / "whisper", "word_error", ["model", "condition", "n"])
        chosen = {"model": model, "condition": "hell"}
        n = int(_only(counts, chosen)["n"])
        found = float(_only(table, chosen).get(kind, 0.0))
        return share(round(found / 100 * n), n)

    return number


NUMBERS: Mapping[str, Number] = {
    "pooled n_eff": pooled("n_eff"),
    "pooled alpha": pooled("alpha"),
    "pooled log10 difference": pooled("log10_difference"),
    "pooled log10 ratio": pooled("log10_ratio"),
    "pooled n_eff, matched": pooled("n_eff", loops="matched"),
    "pooled n_eff, unrestricted": pooled("n_eff", decoding="unrestricted"),
    "pooled n_eff, kept": pooled("n_eff", loops="kept"),
    "pooled n_eff, ffn": pooled("n_eff", component="ffn"),
    "pooled n_eff, self-attention": pooled("n_eff", component="self_attention"),
    "pooled n_eff, K = 10": pooled("n_eff", modes=10),
    "pooled n_eff, base minus tiny.en": larger_minus_smaller,
    "pooled slope, largest": largest_slope,
    "halves n_eff below 6": halves(lambda table: table.n_eff.abs() < 6),
    "halves log10 difference above 1.5": halves(
        lambda table: table.difference.abs() > 10**1.5
    ),
    "matched n_eff": without_loops("n_eff", "cross_attention"),
    "matched n_eff, self-attention": without_loops("n_eff", "self_attention"),
    "matched n_eff, ffn": without_loops("n_eff", "ffn"),
    "matched log10 resolved index": without_loops("log10_kf_resolved", "cross_attention"),
    "matched n_eff, mean": mean_of_components,
    "inventions": outcome("invention"),
    "loops": outcome("loop"),
}  # fmt: skip
"""By the names that docs/predictions.md gives them; the others are not measured yet."""


def _only(table: pd.DataFrame, chosen: Mapping[str, object]) -> "pd.Series[float]":
    """The one row that has these values; KeyError where there is none."""
    rows = table
    for name, value in chosen.items():
        rows = rows[rows[name] == value]
    if len(rows) != 1:
        raise KeyError(f"{len(rows)} rows of {dict(chosen)}")
    return rows.iloc[0]
