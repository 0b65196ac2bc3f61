"""Within one condition: hallucinated transcripts against the others, under the same stress.

Clean against stressed compares sounds as much as transcripts. Here the sound is of one kind, and
only the transcript differs: what separates the two marks hallucination, and not noise. Which
utterances are hallucinated is not drawn by chance, so a difference is an association, not a cause.
"""

import numpy as np
import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results.answers import ANSWER, answers
from companion.results.confidence import CONFIDENCES
from companion.results.effects import GROUP, OBSERVABLES, RAW, interval_columns, layer_means
from companion.results.intervals import NOTHING, Interval, interval, weighted_mean
from companion.results.verdict import side

DIFFERS, BY_LENGTH = "differs", "explained by length"
ALIKE, TOO_FEW = "no difference seen", "too few"


def within_conditions(rows: pd.DataFrame, least: int) -> pd.DataFrame:
    """Candidates minus others by model, condition, component, K and observable, all T tokens.

    ``difference`` is that of the means; ``adjusted`` the candidates' coefficient in a least-squares
    fit on candidate and T, so at equal T; ``auc`` the probability that a candidate's value is the
    larger of the two (0.5 for no difference), each with its interval over speakers. ``verdict``:
    "differs" where both differences exclude zero on one side, "explained by length" where only the
    first does, "too few" where either group has fewer than ``least`` utterances. Log-probabilities
    and T have "transcript" as component and 0 as K.
    """
    table: list[dict[str, object]] = []
    said = answers(rows)
    for name in [each for each in rows.condition.unique() if each != REFERENCE_CONDITION]:
        own = said[said.condition == name]
        for key, group in own.groupby(["parameters", "model"], sort=True):
            row = dict(zip(["parameters", "model"], key, strict=True))
            row |= {"component": ANSWER, "modes": 0, "condition": name}
            known = group[[*CONFIDENCES]].notna().any()
            for column in (*known.index[known], "tokens"):
                found = contrast(group, column, "tokens", least)
                table.append({**row, "observable": column, **found})
        means = layer_means(rows, name)
        means = means[means.length == RAW].merge(own[["model", "utterance", "candidate"]])
        for key, group in means.groupby(GROUP, sort=True):
            row = dict(zip(GROUP, key, strict=True)) | {"condition": name}
            for observable in OBSERVABLES:
                column = f"{observable}_stressed"
                if column in group:
                    found = contrast(group, column, "tokens_stressed", least)
                    table.append({**row, "observable": observable, **found})
    return pd.DataFrame(table)


def contrast(group: pd.DataFrame, column: str, length: str, least: int) -> dict[str, object]:
    """Candidates minus others in a column, a row per utterance; the columns are described above.

    The adjusted difference is at equal ``length``, another column.
    """
    group = group[np.isfinite(group[column])]
    values, tokens = group[column].to_numpy(float), group[length].to_numpy(float)
    candidate, speakers = group.candidate.to_numpy(bool), group.speaker.to_numpy()
    counts = {"candidates": int(candidate.sum()), "others": int((~candidate).sum())}
    found = {"difference": NOTHING, "adjusted": NOTHING, "auc": NOTHING}
    if min(counts.values()) >= least:
        inside, outside = (np.where(own, values, np.nan) for own in (candidate, ~candidate))
        statistics = {
            "difference": lambda w: weighted_mean(w, inside) - weighted_mean(w, outside),
            "adjusted": lambda w: adjusted_difference(w, values, candidate, tokens),
            "auc": lambda w: larger_probability(w, values, candidate),
        }
        for name, statistic in statistics.items():
            if name != "adjusted" or column != length:
                bounds = (1.0, min(counts.values())) if name == "auc" else (0.0, 0)
                found[name] = interval(statistic, speakers, *bounds)
    columns: dict[str, object] = {**counts}
    for name, one in found.items():
        columns |= interval_columns(name, one)
    enough = min(counts.values()) >= least
    return columns | {"verdict": _verdict(found) if enough else TOO_FEW}


def adjusted_difference(
    weights: np.ndarray, values: np.ndarray, group: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """The coefficient of ``group`` in a weighted least-squares fit of values on 1, group and T.

    weights (rows, utterances), the others (utterances,) -> (rows,); NaN where group and T cannot
    be told apart.
    """
    y, g, t = (each - each.mean() for each in (values, group.astype(float), tokens.astype(float)))

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        total = weights.sum(1)
        return np.asarray(weights @ (a * b) - (weights @ a) * (weights @ b) / total)

    gg, tt, gt = product(g, g), product(t, t), product(g, t)
    determinant = gg * tt - gt**2
    known = determinant > 1e-9 * gg * tt
    top = product(g, y) * tt - gt * product(t, y)
    return np.divide(top, determinant, out=np.full(len(weights), np.nan), where=known)


def larger_probability(weights: np.ndarray, values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The probability that a value of the group exceeds one outside it; ties count half.

    The area under the ROC curve (Mann & Whitney 1947): weights (rows, utterances) -> (rows,).
    """
    inside, outside = values[group], values[~group]
    wins = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    first, second = weights[:, group], weights[:, ~group]
    pairs = first.sum(1) * second.sum(1)
    won = ((first @ wins) * second).sum(1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def _verdict(found: dict[str, Interval]) -> str:
    raw, adjusted = side(found["difference"]), side(found["adjusted"])
    if raw == 0:
        return ALIKE
    unadjusted = np.isnan(found["adjusted"].estimate)  # T itself
    return DIFFERS if unadjusted or raw == adjusted else BY_LENGTH
