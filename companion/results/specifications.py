"""The specification curve: every effect under every choice that the paper leaves open.

Simonsohn, Simmons & Nelson (2020). A specification is a set of choices that was computed: those
that stored eigenvalues allow are crossed with one another, with the layers and with the filters of
utterances; centring, pooling, forcing and positions with one another and with these, for the mean
over layers; order and direction of the stress are changed one at a time.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from companion.results.comparisons import measured, stored

CHOICES = (
    "length", "forcing", "positions", "pooling", "centring", "order", "stretch", "utterances",
    "layers", "K", "p", "modes fitted", "missing modes", "eigenvalues", "epsilon",
)  # fmt: skip
"""What is chosen, by column; empty where an observable does not have that choice."""

CLAIMS = {
    ("cross_attention", "n_eff"): "1",
    ("self_attention", "n_eff"): "2",
    ("self_attention", "alpha"): "2",
    ("ffn", "n_eff"): "3",
    ("self_attention", "log10_kf"): "4",
    ("cross_attention", "log10_kf"): "4",
    ("ffn", "log10_kf"): "4",
}
"""The paper's claims about a change, numbered as in the list of claims that are tested."""

_ABOUT = ["parameters", "model", "component"]
_PAPER = ["delta_n_eff", "delta_log10_kf", "delta_alpha"]


def specification_curve(
    rows: pd.DataFrame,
    choice_rows: pd.DataFrame,
    condition: str,
    widths: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """The change of every observable by every specification, with its interval.

    ``rows`` are of ``measure``, ``choice_rows`` of ``choices``. One row per model, component,
    observable and specification: ``CHOICES``, ``change`` (of N_eff in %), ``low``, ``high`` and
    ``n``, the utterances (pooled: speakers) whose value exists on both sides. K in proportion to
    the width is of the models whose ``widths`` are given, where as many eigenvalues are stored.
    """
    widths = widths or {}
    tables = []
    for key, part in rows[rows.modes == rows.modes.max()].groupby(_ABOUT, sort=True):
        about = dict(zip(_ABOUT, key, strict=True))
        compared = stored(part, condition, widths.get(about["model"]))
        tables += [each.changes().assign(**about) for each in compared]
    for key, part in choice_rows.groupby(_ABOUT, sort=True):
        about = dict(zip(_ABOUT, key, strict=True))
        tables += [each.changes().assign(**about) for each in measured(part, condition)]
    table = pd.concat(tables, ignore_index=True)
    return table[[*_ABOUT, "observable", *CHOICES, "change", "low", "high", "n"]]


def agreement(table: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """How many specifications agree in sign with the paper, per model, component and observable.

    ``known`` are the published rows; their sign is the same in every row of a component. Shares in
    %: ``agree`` of all whose change exists, ``certain`` and ``opposite`` with an interval that lies
    wholly on the paper's side and wholly on the other.
    """
    keys = [*_ABOUT, "observable"]
    return _fractions(table, known, keys)


def agreement_by_choice(table: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """The same shares over all models, for each choice and each of its values."""
    keys = ["component", "observable", "value"]
    tables = [
        _fractions(table[table[choice].notna()].assign(value=table[choice]), known, keys).assign(
            choice=choice
        )
        for choice in CHOICES
    ]
    return pd.concat(tables, ignore_index=True)[
        ["component", "observable", "choice", "value", "claim", "paper", *_COUNTS]
    ]


_COUNTS = ["specifications", "agree", "certain", "opposite"]


def _fractions(table: pd.DataFrame, known: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    signs = np.sign(known.groupby("component")[_PAPER].mean())
    fractions = []
    for key, part in table[table.change.notna()].groupby(keys, sort=True):
        about = dict(zip(keys, key, strict=True))
        sign = float(signs.at[about["component"], f"delta_{about['observable']}"])
        low, high = np.sort(sign * part[["low", "high"]].to_numpy(), axis=1).T
        fractions.append(
            about
            | {
                "claim": CLAIMS.get((about["component"], about["observable"]), ""),
                "paper": "falls" if sign < 0 else "rises",
                "specifications": len(part),
                "agree": 100 * float((sign * part.change > 0).mean()),
                "certain": 100 * float((low > 0).mean()),
                "opposite": 100 * float((high < 0).mean()),
            }
        )
    return pd.DataFrame(fractions)
