"""Effects of stress: Hell against clean, paired by utterance, with intervals over speakers."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION, SHUFFLED
from companion.results import intervals
from companion.results.intervals import Columns, Interval, rows_by, weighted_mean
from companion.stress.scoring import Outcome

RAW, MATCHED = "raw", "length-matched"
"""All rows of a text; as many of its first rows as the shorter of the two texts has."""

PAIRS = "length-matched pairs"
RANDOM_ROWS, FIRST_ROWS = "random rows", "first rows"
SIDES = ("clean", "stressed")
OBSERVABLES = {
    "n_eff": "n_eff",
    "alpha": "alpha",
    "log10_kf": "kirchhoff",
    "log10_kf_resolved": "kirchhoff_resolved",
    "log10_attention_kf": "attention_kirchhoff",
    "log10_attention_kf_heads": "attention_kirchhoff_heads",
    "log10_similarity_kf": "similarity_kirchhoff",
}
"""What is read off a spectrum or graph, and its column in the measured rows."""

GROUP = ["parameters", "model", "component", "modes"]
"""What a row of a table is about, whatever the length."""

KEY = [*GROUP, "length"]
ALL, WITHOUT_LOOPS = "all", "without loops"
LEAST = 8
"""Utterances, and half as many speakers, without which a kind of transcript has no row."""

_OF_SPECTRA = ("n_eff", "alpha", "log10_kf", "log10_kf_resolved")


def size_of(model: str) -> str:
    """A model's name without the seed that one of the ladder ends in: ``xs-0`` gives ``xs``."""
    return re.sub(r"-\d+$", "", model)


def published(path: Path) -> pd.DataFrame:
    """The known rows of the paper's table (K = 50), measured on other models than ours."""
    return pd.read_csv(path)


def both_sides(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """The rows to compare, with their ``length``, raw or matched, and ``side``: clean, stressed."""
    kept = rows[rows.condition.isin([REFERENCE_CONDITION, condition])]
    partner = kept.condition.map({REFERENCE_CONDITION: condition, condition: REFERENCE_CONDITION})
    kept = kept[(kept.matched_with == "") | (kept.matched_with == partner)]
    return kept.assign(
        length=np.where(kept.matched_with == "", RAW, MATCHED),
        side=np.where(kept.condition == REFERENCE_CONDITION, *SIDES),
    )


def observed(rows: pd.DataFrame, name: str) -> pd.Series:
    """An observable of every row; NaN where a logarithm or an index is not finite."""
    column = rows[OBSERVABLES[name]]
    if not name.startswith("log10"):
        return column
    return np.log10(column.where((column > 0) & np.isfinite(column)))


def layer_means(rows: pd.DataFrame, condition: str, also: Sequence[str] = ()) -> pd.DataFrame:
    """One row per model, component, K, utterance and length; columns <observable>_<side>.

    The sides are clean and stressed. Observables are averaged over layers. ``length`` is "raw", or
    "length-matched" where both sides keep as many of their first tokens as the shorter has. What is
    not finite in some layer (alpha where K modes are not resolved, Kf of a disconnected graph) is
    NaN. ``also`` names further columns that tell rows apart, such as the draw of a random network.
    """
    present, of = known_in(rows), [*GROUP, *also, "utterance", "speaker"]
    columns = [*of, "condition", "matched_with", "tokens", *map(OBSERVABLES.get, present)]
    kept = both_sides(rows[columns], condition)  # texts and spectra would be copied along
    kept = kept.assign(**{name: observed(kept, name) for name in present})
    groups = kept.groupby([*GROUP, "length", *of[len(GROUP) :], "side"])[[*present, "tokens"]]
    wide = groups.mean(skipna=False).unstack("side")
    wide.columns = [f"{observable}_{side}" for observable, side in wide.columns]
    return wide.reset_index()


def known_observables(means: pd.DataFrame) -> list[str]:
    """The observables that ``layer_means`` has."""
    return [name for name in OBSERVABLES if f"{name}_clean" in means]


def known_in(rows: pd.DataFrame) -> list[str]:
    """The observables that measured rows have."""
    return [name for name, column in OBSERVABLES.items() if column in rows]


def change(name: str, clean: np.ndarray, stressed: np.ndarray) -> np.ndarray:
    """From a mean of an observable to another: of N_eff in %, of all others the difference."""
    return 100 * (stressed / clean - 1) if name == "n_eff" else stressed - clean


def changes_without(
    name: str, clean: np.ndarray, stressed: np.ndarray, speakers: np.ndarray
) -> np.ndarray:
    """The ``change`` of means, of all and without each speaker, as ``jackknife`` takes it.

    clean and stressed (utterances,) or (utterances, columns) -> (speakers + 1,) or (speakers + 1,
    columns). What does not exist on both sides of an utterance is left out.
    """
    weights, both = intervals.deletions(speakers), np.isfinite(clean) & np.isfinite(stressed)
    sides = (np.where(both, side, np.nan) for side in (clean, stressed))
    return change(name, *(weighted_mean(weights, side) for side in sides))


def mean_tokens(group: pd.DataFrame) -> Columns:
    """The mean numbers of tokens on both sides."""
    return {f"tokens_{side}": group[f"tokens_{side}"].mean() for side in SIDES}


def effects(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Changes under ``condition``: of N_eff in %, of alpha and of each log10 Kf by difference.

    One row per model, component, K and length. A change ``delta_<observable>`` stands beside its
    interval (_low, _high), the two-sided p-value of ``paired_p`` (_p), and the number of utterances
    whose value exists on both sides (_n); the mean numbers of tokens on both sides are given too.
    """

    def describe(group: pd.DataFrame) -> Columns:
        row, speakers, names = (
            mean_tokens(group),
            group.speaker.to_numpy(),
            known_observables(group),
        )
        before, after = (group[[f"{name}_{side}" for name in names]].to_numpy() for side in SIDES)
        tests = intervals.paired_p(after - before, speakers)
        for name, clean, stressed, p in zip(names, before.T, after.T, tests.tolist(), strict=True):
            changes = changes_without(name, clean, stressed, speakers)
            number = intervals.jackknife(changes, np.unique(speakers))
            row |= change_columns(name, number, int(np.isfinite(stressed - clean).sum()), p)
        return row

    return rows_by(layer_means(rows, condition), KEY, describe)


def change_columns(name: str, number: Interval, n: int, p: float = np.nan) -> Columns:
    """The change of an observable as columns of a table of ``effects``."""
    return {f"delta_{name}": number, f"delta_{name}_p": p, f"delta_{name}_n": n}


def by_observable(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Some observables of a table of ``effects``, one below the other.

    Columns ``observable``, ``change``, ``low``, ``high``, ``p``, ``n`` beside those of the row.
    """
    about = [column for column in table.columns if not str(column).startswith("delta_")]
    parts = []
    for name in names:
        column = f"delta_{name}"
        columns = {column: "change", f"{column}_speakers": "change_speakers"}
        columns |= {f"{column}_{part}": part for part in ("low", "high", "p", "n")}
        parts.append(table[[*about, *columns]].rename(columns=columns).assign(observable=name))
    return pd.concat(parts, ignore_index=True)


def sides(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Mean N_eff and alpha of each side with intervals; one row per model, component, K, length.

    Only utterances whose alpha exists on both sides count, so that the two means are of the same.
    """
    means = layer_means(rows, condition)
    paired = means[means.alpha_clean.notna() & means.alpha_stressed.notna()]
    names = ("n_eff", "alpha")
    long = pd.concat(
        paired.assign(side=side, **{name: paired[f"{name}_{side}"] for name in names})
        for side in SIDES
    )
    return rows_by(long, [*KEY, "side"], lambda group: {"n": len(group)} | {
        name: intervals.mean_over(group[name], group.speaker) for name in names
    })  # fmt: skip


def pair_effects(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """``effects`` from all pairs of a clean and a stressed utterance of equal T, nothing cut.

    All such pairs of a model count alike, whoever speaks; a speaker is left out at both ends. _n is
    the number of utterances that have a partner, of the side that has fewer. There is no p-value:
    the two sides of a pair are other utterances, and exchanging them would exchange these as well.
    """
    means = layer_means(rows, condition)
    return rows_by(means[means.length == RAW], GROUP, _pair_columns)


def pair_weights(
    weights: np.ndarray, tokens: list[np.ndarray], usable: list[np.ndarray]
) -> list[np.ndarray]:
    """In how many pairs each utterance's clean and its stressed side are, in every row of weights.

    weights (rows, utterances); tokens and usable hold (utterances,) of both sides. Pairs are
    counted by length: rows x utterances x lengths, not utterances^2.
    """
    lengths = np.unique(np.concatenate(tokens))
    hot = [
        (side[:, None] == lengths) & use[:, None] for side, use in zip(tokens, usable, strict=True)
    ]
    return [weights * (weights @ hot[1 - i] @ hot[i].T) for i in range(2)]


def _pair_columns(group: pd.DataFrame) -> Columns:
    tokens = [group[f"tokens_{side}"].to_numpy(int) for side in SIDES]
    weights, speakers = intervals.deletions(group.speaker.to_numpy()), np.unique(group.speaker)
    pairs = pair_weights(weights[:1], tokens, [np.ones(len(group), bool)] * 2)
    row: Columns = {"length": PAIRS}
    for side, once, length in zip(SIDES, pairs, tokens, strict=True):
        row[f"tokens_{side}"] = float(weighted_mean(once, length)[0])
    for name in known_observables(group):
        values = [group[f"{name}_{side}"].to_numpy() for side in SIDES]
        pairs = pair_weights(weights, tokens, [np.isfinite(side) for side in values])
        changes = change(name, *map(weighted_mean, pairs, values))
        fewer = min(int((side[0] > 0).sum()) for side in pairs)
        row |= change_columns(name, intervals.jackknife(changes, speakers), fewer)
    return row


def outcomes_of(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """One row per model and utterance: the outcome under stress, and whether either side loops."""
    raw = rows[rows.matched_with == ""]
    texts = raw.drop_duplicates(["model", "condition", "utterance"])
    wide = texts.pivot(index=["model", "utterance", "speaker"], columns="condition").outcome
    loops = (wide[[REFERENCE_CONDITION, condition]] == Outcome.LOOP).any(axis=1)
    return pd.DataFrame({"outcome": wide[condition], "loops": loops}).reset_index()


def effects_by_outcome(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """``effects`` of the utterances of each outcome under stress, with their ``outcome``.

    ``all`` of them are there too, and those that loop on neither side. An outcome of fewer than
    ``LEAST`` utterances, or of fewer than half as many speakers, has no row.
    """
    tables = []
    for model, texts in outcomes_of(rows, condition).groupby("model", sort=False):
        kinds = {
            ALL: texts,
            WITHOUT_LOOPS: texts[~texts.loops],
            **dict(iter(texts.groupby("outcome"))),
        }
        for name, chosen in kinds.items():
            if len(chosen) >= LEAST and chosen.speaker.nunique() >= LEAST / 2:
                kept = rows[(rows.model == model) & rows.utterance.isin(chosen.utterance)]
                table = effects(kept, condition)
                tables.append(table.assign(outcome=str(name), utterances=len(chosen)))
    return pd.concat(tables, ignore_index=True)


def row_choices(
    rows: pd.DataFrame, null_rows: pd.DataFrame, condition: str, modes: int
) -> pd.DataFrame:
    """``effects`` at equal length by ``rows`` kept: random ones, of `nulls`, and first ones.

    A text's first rows are not a random part of it: where rows differ by their place in the text,
    cutting the longer side to its first ones makes a change of its own. One row per model,
    component and way, of the utterances that `nulls` has and that loop on neither side, as ``rows``
    of `measure` say; ``utterances`` counts them.
    """
    random = null_rows[(null_rows.null == SHUFFLED) & (null_rows.modes == modes)]
    first = rows[(rows.modes == modes) & rows.model.isin(random.model.unique())]
    texts, keys = outcomes_of(first, condition), ["model", "utterance"]
    kept = texts[~texts.loops].merge(random[keys].drop_duplicates())[keys]
    columns = [*keys, "parameters", "speaker", "component", "modes", "layer", "condition",
               "matched_with", "tokens", *(OBSERVABLES[name] for name in _OF_SPECTRA)]  # fmt: skip
    tables = []
    for way, table in ((RANDOM_ROWS, random), (FIRST_ROWS, first)):
        changes = effects(table.loc[table.matched_with != "", columns].merge(kept), condition)
        counts = changes.model.map(kept.groupby("model").size())
        tables.append(changes.assign(rows=way, utterances=counts))
    head = ["parameters", "model", "component", "modes", "rows", "utterances"]
    ends = ("", "_low", "_high", "_speakers")
    numbers = [f"delta_{name}{end}" for name in _OF_SPECTRA for end in ends]
    whole = pd.concat(tables, ignore_index=True)[[*head, *numbers]]
    return whole.sort_values([*head[:4], "rows"], ignore_index=True)


def pooled_effects(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``effects`` put together over the seeds of each size (``size_of``), by ``joint``.

    ``model`` is the size, ``seeds`` their number; sizes of one seed have no row. With few seeds
    intervals are wide: that is what few seeds say. No p-value: networks are not exchangeable pairs.
    """

    def describe(group: pd.DataFrame) -> Columns:
        row: Columns = {"seeds": len(group)} | mean_tokens(group)
        for name in [name for name in OBSERVABLES if f"delta_{name}" in group]:
            together = intervals.joint(group[f"delta_{name}_speakers"].tolist()).interval
            row |= change_columns(name, together, group[f"delta_{name}_n"].max())
        return row

    sized = table.assign(model=table.model.map(size_of))
    return rows_by(sized[sized.duplicated(KEY, keep=False)], KEY, describe)


def with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """``effects`` with Holm's adjusted p-values, delta_<observable>_p_holm.

    A family is one headline, an observable of one component, K and length, over all models: few
    enough that 16 speakers, of whom no p is below 2^-15, can decide each of 16 models.
    """
    families = table.groupby(["length", "component", "modes"])
    tests = [f"delta_{name}_p" for name in OBSERVABLES]
    return table.assign(**{f"{p}_holm": families[p].transform(intervals.holm) for p in tests})
