"""Claims 8, 10 and 11: what the measured propagators say."""

from pathlib import Path

import pandas as pd

from spectral.claims.numbers import MODEL_KEYS, difference, of, read_table, sizes
from spectral.claims.rules import ABOVE, BELOW, Part, Statement
from spectral.results.unstable import ALL_LAYERS, BEYOND, TRAINED

_SHARES = (
    "gain_below_one",
    "product_decays",
    "relative_injection_decays",
    "normed_injection_decays",
    "product_rank_one",
    "rank_one_share",
)
_MOST = 0.5
_SMALL_GAP = 0.5
_STRESS = "hell"


def unstable(tables: Path) -> list[Part]:
    """Claim 8: more unstable dimensions in Hell than on clean speech, and in hallucinations."""
    keys = ["model", "layer", "network", "condition"]
    table = read_table(tables, "propagators", [*keys, "unstable", "unstable_low", "unstable_high"])
    rows = {tuple(row[keys]): of(row, "unstable") for _, row in table.iterrows()}
    layers = table[["parameters", "model", "layer"]].drop_duplicates().sort_values(
        ["parameters", "model", "layer"]
    )  # fmt: skip
    changes = {
        network: [
            difference(rows[model, layer, network, _STRESS], rows[model, layer, network, "clean"])
            for _, model, layer in layers.itertuples(index=False)
        ]
        for network in ("trained", "random")
    }
    names = [f"{model}, layer {layer}" for _, model, layer in layers.itertuples(index=False)]
    both = zip(changes["trained"], changes["random"], strict=True)
    parts = {
        "more unstable dimensions in Hell than on clean speech": changes["trained"],
        "the rise is larger than of the random twin": [difference(*pair) for pair in both],
    }
    return [
        Part(
            says, "propagators",
            [Statement(name, found, ABOVE, 0) for name, found in zip(names, numbers, strict=True)],
        )
        for says, numbers in parts.items()
    ] + _hallucinated(tables)  # fmt: skip


def _hallucinated(tables: Path) -> list[Part]:
    """Under one stress: hallucinated answers against the others, means over layers."""
    columns = [
        f"{name}{end}" for name in ("difference", "adjusted") for end in ("", "_low", "_high")
    ]
    keys = [*MODEL_KEYS, "condition", "network", "layer"]
    table = read_table(tables, "unstable_dimensions", [*keys, *columns])
    rows = table[table.layer == ALL_LAYERS].dropna(subset="difference")
    says = "under one stress, hallucinated answers have more of them"
    needs = "" if len(rows) else "stresses under which some answers are hallucinated"
    return [
        Part(
            part, "unstable_dimensions",
            [
                Statement(f"{row.model}, {row.condition}", of(row, name), ABOVE, 0)
                for _, row in rows[rows.network == network].sort_values(keys).iterrows()
            ],
            needs,
        )
        for part, name, network in (
            (f"{says}, raw", "difference", TRAINED),
            (f"{says}, at equal length", "adjusted", TRAINED),
            ("by more than in their random twins, at equal length", "adjusted", BEYOND),
        )
    ]  # fmt: skip


def decay(tables: Path) -> list[Part]:
    """Claim 10: in the smallest size, gains are below one and what early layers inject decays.

    Modulo the direction 1, for in the whole space no product can decay; an injection by its share
    of the hidden state, and by what the final norm passes on of it.
    """
    table = _hypotheses(tables)
    small = sizes(table)[0]
    return [
        _share(table, small, "every gain is below one, at most tokens", "gain_below_one"),
        _share(table, small, "the product of layers decays, at most tokens", "product_decays"),
        _share(table, small, "the first injection decays relative to the hidden state, at most "
               "tokens", "relative_injection_decays"),
        _share(table, small, "the first injection decays after the final norm, at most tokens",
               "normed_injection_decays"),
        _beyond_twin(table, small, "it does so after the final norm oftener than in the random "
                     "twin", "normed_injection_decays"),
    ]  # fmt: skip


def rank_one(tables: Path) -> list[Part]:
    """Claim 11: in the largest size, sensitivity is of rank one and gaps are small."""
    table = _hypotheses(tables)
    large = sizes(table)[-1]
    columns = ["model", "layer", "network", "condition", "gap", "gap_low", "gap_high"]
    layers = read_table(tables, "propagators", columns)
    chosen = layers[
        layers.model.isin(large) & (layers.network == "trained") & (layers.condition == _STRESS)
    ]
    gaps = [
        Statement(f"{row.model}, layer {row.layer}", of(row, "gap"), BELOW, _SMALL_GAP)
        for _, row in chosen.sort_values(["model", "layer"]).iterrows()
    ]
    return [
        _share(table, large, "most of the sensitivity is in one direction", "rank_one_share"),
        _beyond_twin(table, large, "more of it than in the random twin", "rank_one_share"),
        _share(table, large, "the product is of rank one, at most tokens", "product_rank_one"),
        Part(f"gaps are below {_SMALL_GAP}", "propagators", gaps),
    ]  # fmt: skip


def _hypotheses(tables: Path) -> pd.DataFrame:
    columns = ["model", "parameters", "network", "condition", *_SHARES]
    table = read_table(tables, "hypotheses", columns)
    return table[table.condition == _STRESS]


def _share(table: pd.DataFrame, models: list[str], says: str, name: str) -> Part:
    rows = table[table.network == "trained"].set_index("model")
    statements = [Statement(model, of(rows.loc[model], name), ABOVE, _MOST) for model in models]
    return Part(says, "hypotheses", statements)


def _beyond_twin(table: pd.DataFrame, models: list[str], says: str, name: str) -> Part:
    rows = table.set_index(["model", "network"])
    statements = [
        Statement(
            model,
            difference(of(rows.loc[model, "trained"], name), of(rows.loc[model, "random"], name)),
            ABOVE, 0,
        )
        for model in models
    ]  # fmt: skip
    return Part(says, "hypotheses", statements)
