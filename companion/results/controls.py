"""Effects in controls of several draws, and how much of the model's own is beyond them.

Controls are random networks, and networks trained on unpaired audio and text, whose draws are
seeds. Draws and utterances are crossed: every network is fed the same texts. So an interval adds
what differs between draws to what differs between speakers (``joint``); from one draw, as
``draws`` says, it cannot.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from companion.measurement.schemas import INITIALISED, SPECTRUM, UNPAIRED
from companion.results.effects import (
    GROUP,
    OBSERVABLES,
    change,
    effects,
    interval_columns,
    layer_means,
)
from companion.results.intervals import (
    NOTHING,
    Interval,
    deletions,
    jackknife,
    joint,
    weighted_mean,
)
from companion.results.tables import with_interval
from companion.results.verdict import side

DRAWN = (INITIALISED, SPECTRUM, UNPAIRED)
"""The nulls that are other networks, of which there are several draws."""

_KEY = [*GROUP, "length"]
_SIDES = ("clean", "stressed")


@dataclass(frozen=True)
class Crossed:
    """One observable in every draw of a random network, of the same utterances."""

    clean: np.ndarray  # (draws, utterances)
    stressed: np.ndarray  # (draws, utterances)
    speakers: np.ndarray  # (utterances,)

    def changes(self, name: str, weights: np.ndarray) -> np.ndarray:
        """The change in each draw: weights (rows, utterances) -> (rows, draws)."""
        both = np.isfinite(self.clean) & np.isfinite(self.stressed)
        means = (
            weighted_mean(weights, np.where(both, values, np.nan).T)
            for values in (self.clean, self.stressed)
        )
        return change(name, *means)

    def without(self, name: str) -> np.ndarray:
        """The change in each draw, of all and without each speaker: (speakers + 1, draws)."""
        return self.changes(name, deletions(self.speakers))


def over_draws(values: np.ndarray, speakers: np.ndarray) -> Interval:
    """The mean over draws of values (speakers + 1, draws), by ``joint``; draws without one apart.

    One draw has the interval over speakers alone.
    """
    names = np.unique(speakers)
    found = [jackknife(column, names) for column in values.T if np.isfinite(column).all()]
    return joint(found).found if found else NOTHING


def control_effects(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """``effects`` of one random network's rows, over all its draws; with a column ``draws``.

    Utterances count that every draw was fed. There is no p-value: the permutation of ``paired_p``
    knows nothing of draws. Of a model with one draw, all is as ``effects`` says.
    """
    several = rows.groupby("model").draw.transform("nunique") > 1
    tables = [effects(rows[~several], condition).assign(draws=1)]
    table = []
    for key, group in _drawn_means(rows[several], condition):
        row: dict[str, object] = dict(zip(_KEY, key, strict=True))
        row |= {f"tokens_{side}": group[f"tokens_{side}"].mean() for side in _SIDES}
        for name in _observables(group):
            crossed = _crossed(group, name)
            found = over_draws(crossed.without(name), crossed.speakers)
            both = np.isfinite(crossed.clean) & np.isfinite(crossed.stressed)
            row |= interval_columns(f"delta_{name}", found) | {
                f"delta_{name}_p": np.nan,
                f"delta_{name}_n": int(both.any(0).sum()),
            }
        table.append(row | {"draws": group.draw.nunique()})
    tables.append(pd.DataFrame(table))
    # One without rows has floats for K and for the number of parameters.
    return pd.concat([part for part in tables if len(part)] or tables, ignore_index=True)


def remaining(rows: pd.DataFrame, null_rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """What of a model's effect its controls do not show, on the same utterances.

    One row per ``GROUP``, length, observable and ``control``. ``trained`` and ``random`` changes,
    their difference ``remaining`` and the ``fraction`` random / trained (NaN where the trained
    one's interval covers zero) stand beside their intervals (_low, _high). ``draw_sd`` is the
    standard deviation between the ``draws``, ``as_large`` how many of them change as far as the
    trained model to the same side, ``n`` the utterances.
    """
    trained = {tuple(key): part for key, part in layer_means(rows, condition).groupby(_KEY)}
    table = []
    for null in DRAWN:
        for key, group in _drawn_means(null_rows[null_rows.null == null], condition):
            own = trained.get(key)
            if own is None:
                continue
            own = own[own.utterance.isin(group.utterance)]
            group = group[group.utterance.isin(own.utterance)]
            for name in _observables(group) if len(group) else ():
                row = dict(zip(_KEY, key, strict=True)) | {"observable": name, "control": null}
                table.append(row | _remaining(own, group, name))
    return pd.DataFrame(table)


def readable_remaining(table: pd.DataFrame) -> pd.DataFrame:
    """``remaining`` to read."""
    said = {name: with_interval(table, name, 2, sign=True) for name in _READ}
    kept = ["model", "component", "modes", "length", "observable", "control", "draws", "n"]
    return table[kept].assign(**said, draw_sd=table.draw_sd.round(2), as_large=table.as_large)


_READ = ("trained", "random", "remaining", "fraction")


def _remaining(own: pd.DataFrame, group: pd.DataFrame, name: str) -> dict[str, object]:
    model, control = _crossed(own.assign(draw=0), name), _crossed(group, name)
    ours, theirs = model.without(name), control.without(name)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = dict(zip(_READ, (ours, theirs, ours - theirs, theirs / ours), strict=True))
    found = {part: over_draws(each, control.speakers) for part, each in values.items()}
    if side(found["trained"]) == 0:
        found["fraction"] = NOTHING
    by_draw = theirs[0][np.isfinite(theirs[0])]
    as_large = (by_draw * np.sign(ours[0, 0]) >= abs(ours[0, 0])).sum()
    row: dict[str, object] = {"draws": len(control.clean), "n": len(control.speakers)}
    for part, each in found.items():
        row |= interval_columns(part, each)
    spread = by_draw.std(ddof=1) if len(by_draw) > 1 else np.nan
    return row | {"draw_sd": spread, "as_large": int(as_large)}


def _drawn_means(
    rows: pd.DataFrame, condition: str
) -> Iterator[tuple[tuple[object, ...], pd.DataFrame]]:
    """``layer_means`` of every draw, of the utterances that all draws of a group were fed."""
    parts = [layer_means(part, condition).assign(draw=draw) for draw, part in rows.groupby("draw")]
    if not parts:
        return
    for key, group in pd.concat(parts).groupby(_KEY, sort=True):
        times = group.groupby("utterance").draw.transform("nunique")
        yield tuple(key), group[times == group.draw.nunique()]


def _observables(group: pd.DataFrame) -> list[str]:
    return [name for name in OBSERVABLES if f"{name}_clean" in group]


def _crossed(group: pd.DataFrame, name: str) -> Crossed:
    sides = [group.pivot(index="draw", columns="utterance", values=f"{name}_{s}") for s in _SIDES]
    speakers = group.drop_duplicates("utterance").set_index("utterance").speaker
    clean, stressed = (side.to_numpy() for side in sides)
    return Crossed(clean, stressed, speakers[sides[0].columns].to_numpy())
