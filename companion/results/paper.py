"""The paper's table: ours, corrected for how many effects it tests, beside what was published."""

from pathlib import Path

import numpy as np
import pandas as pd

from companion.results.effects import OBSERVABLES
from companion.results.permutation import holm
from companion.results.tables import with_interval

GRAPHS = {
    "attention graph": "log10_attention_kf",
    "attention graph, by head": "log10_attention_kf_heads",
    "similarity graph": "log10_similarity_kf",
}
"""Observables of a layer's graph: the same for every component and K."""

SPECTRA = [name for name in OBSERVABLES if name not in GRAPHS.values()]


def published(path: Path) -> pd.DataFrame:
    """The known rows of the paper's table (K = 50), measured on other models than ours."""
    return pd.read_csv(path)


def with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """``effects`` with Holm's adjusted p-values, delta_<observable>_p_holm.

    A family is one headline, an observable of one component, K and length, over all models: few
    enough that 16 speakers, of whom no p is below 2^-15, can decide each of 16 models.
    """
    families = table.groupby(["length", "component", "modes"])
    return table.assign(
        **{
            f"delta_{name}_p_holm": families[f"delta_{name}_p"].transform(
                lambda p: holm(p.to_numpy(float))
            )
            for name in OBSERVABLES
        }
    )


def paper_table(table: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """The paper's table to read: ours (``with_holm``) and, apart, the published rows.

    A change stands before its interval and Holm's p. Graphs have a row of their own, for all K.
    """
    spectra = _shared(table, table.component, table.modes).assign(
        **{
            "N_eff (%)": _cells(table, "n_eff", 2),
            "log10 Kf": _cells(table, "log10_kf", 2),
            "log10 Kf, resolved": _cells(table, "log10_kf_resolved", 2),
            "alpha": _cells(table, "alpha", 3),
            "n (alpha)": [
                f"{n} ({alpha})"
                for n, alpha in zip(table.delta_n_eff_n, table.delta_alpha_n, strict=True)
            ],
        }
    )
    first = table.groupby(["model", "length"], sort=False).head(1)
    graphs = [
        _shared(first, pd.Series(graph, first.index), pd.Series("all", first.index)).assign(
            **{"log10 Kf": _cells(first, name, 2), "n (alpha)": first[f"delta_{name}_n"].map(str)}
        )
        for graph, name in GRAPHS.items()
    ]
    return pd.concat([spectra, *graphs, _theirs(known)], ignore_index=True).fillna("")


def _shared(table: pd.DataFrame, component: pd.Series, modes: pd.Series) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": "ladder",
            "model": table.model,
            "component": component,
            "K": modes,
            "length": table.length,
            "T clean, Hell": [
                f"{clean:.1f}, {stressed:.1f}"
                for clean, stressed in zip(table.tokens_clean, table.tokens_stressed, strict=True)
            ],
        }
    )


def _theirs(known: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": "published, OpenAI's Whisper",
            "model": known.model,
            "component": known.component,
            "K": 50,
            "length": "not stated",
            "T clean, Hell": "not stated",
            "N_eff (%)": known.delta_n_eff.map("{:+.2f}".format),
            "log10 Kf": known.delta_log10_kf.map("{:+.2f}".format),
            "alpha": known.delta_alpha.map("{:+.3f}".format),
            "n (alpha)": "not stated",
        }
    )


def _cells(table: pd.DataFrame, name: str, digits: int) -> list[str]:
    changes = with_interval(table, f"delta_{name}", digits, sign=True)
    tests = table[f"delta_{name}_p_holm"]
    return [f"{cell}{_test(p)}" for cell, p in zip(changes, tests, strict=True)]


def _test(p: float) -> str:
    if np.isnan(p):
        return ""
    return ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
