"""How early a warning comes: the token of the first alarm, and that of the first wrong word."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from companion.contest.contest import LEAST, parted, texts
from companion.contest.contestants import CHOSEN, Logistic, in_decades, monitor
from companion.measurement.schemas import STEPS
from spectral.monitor import Score

QUIET = 0.05
"""The fraction of right texts that may alarm at some token, of those that thresholds are of."""

FIRST_ROWS = 4
"""Outputs before which an effective rank says little but how few they are."""

ALONE = {
    "forbidden mass, first step": (0, 1, 0),
    "entropy of tokens": (1, 1, 0),
    "cross-attention: N_eff, sliding": (2, -1, FIRST_ROWS - 1),
}
"""Scores of one feature: its place in ``CHOSEN``, whether large or small values are bad, and the
first token, from 0, at which it is looked at."""

MONITOR = monitor().name


def step_values(row: pd.Series, window: int | None) -> np.ndarray:
    """What ``spectral.Monitor`` weighs at every token of a text: (tokens, features of ``CHOSEN``).

    The forbidden mass of the first step, the mean entropy of the last ``window`` tokens, and
    cross-attention's effective rank of as many outputs; of no window both are means so far.
    """
    entropy, ranks = (pd.Series(row[name], dtype=float) for name in STEPS)
    if window is None:
        means, ranks = entropy.expanding().mean(), ranks.expanding().mean()
    else:
        means = entropy.rolling(window, min_periods=1).mean()
    first = in_decades(np.array([row.forbidden_first], float))
    return np.column_stack([np.repeat(first, len(means)), means, ranks])


def weighed(score: Score) -> Logistic:
    """A monitor's score of ``CHOSEN`` as what it was fitted as."""
    means, weights = (
        np.array([part[name] for name in CHOSEN]) for part in (score.means, score.weights)
    )
    return Logistic(means, weights, score.bias)


def leads(rows: pd.DataFrame, fit: pd.DataFrame, window: int) -> pd.DataFrame:
    """A row per model and score: of invented texts, how many alarm and how many of these in time.

    A text alarms at its first token at which the score of the last ``window`` tokens reaches the
    threshold, which ``QUIET`` of the right texts of ``fit`` reach somewhere (of other speakers).
    ``begun_wrong``: of the invented texts with a wrong word, in %, those whose first word is wrong,
    so that no token comes before it. ``alarmed``: of the same, in %; ``in_time``: with an alarm at
    the first token of the first wrong word or before; ``lead``: the median of how many tokens
    before it, negative after it, over texts that alarm. ``false_alarms``: of texts that are not
    invented, in %. Texts without tokens, or of rows without tokens' numbers, do not count.
    """
    return pd.DataFrame(
        row
        for (_, model), group in rows.groupby(["parameters", "model"], sort=True)
        for row in _of_model(_stepped(group), _stepped(fit[fit.model == model]), window)
    )


def _stepped(rows: pd.DataFrame) -> pd.DataFrame:
    whole = texts(rows)
    return whole[whole[STEPS[0]].notna() & (whole.tokens > 0)].reset_index(drop=True)


def _of_model(rows: pd.DataFrame, fit: pd.DataFrame, window: int) -> Iterator[dict[str, object]]:
    alarms = {name: np.full(len(rows), np.inf) for name in (MONITOR, *ALONE)}  # first tokens
    values = [step_values(row, window) for _, row in rows.iterrows()]
    before = [step_values(row, window) for _, row in fit.iterrows()]
    whole, target = monitor().values(fit), fit.target.to_numpy()
    for train, held_out in parted(rows, fit):
        model = Logistic.fit(whole[train], target[train])
        for name, first in alarms.items():
            right = [_scored(name, before[i], model).max() for i in np.flatnonzero(train & ~target)]
            threshold = np.quantile(right, 1 - QUIET)
            for i in np.flatnonzero(held_out):
                reached = np.flatnonzero(_scored(name, values[i], model) >= threshold)
                first[i] = reached[0] if len(reached) else np.inf
    wrong = rows.target.to_numpy() & rows.first_wrong.notna().to_numpy()
    right = ~rows.target.to_numpy()
    for name, first in alarms.items():
        lead = (rows.first_wrong.to_numpy(float) - first)[wrong]
        alarmed = np.isfinite(lead)
        enough = alarmed.sum() >= LEAST
        yield {
            "model": rows.model.iloc[0],
            "contestant": name,
            "invented": int(wrong.sum()),
            "begun_wrong": 100 * float((rows.first_wrong[wrong] == 0).mean()),
            "alarmed": 100 * float(alarmed.mean()),
            "in_time": 100 * float((lead >= 0).mean()),
            "lead": float(np.median(lead[alarmed])) if enough else np.nan,
            "others": int(right.sum()),
            "false_alarms": 100 * float(np.isfinite(first[right]).mean()),
        }


def _scored(name: str, values: np.ndarray, model: Logistic) -> np.ndarray:
    """By token, no alarm before the first one that is looked at: (tokens,)."""
    if name == MONITOR:
        scores, start = model.log_odds(values), FIRST_ROWS - 1
    else:
        column, sign, start = ALONE[name]
        scores = sign * values[:, column]
    return np.where(np.arange(len(scores)) < start, -np.inf, scores)
