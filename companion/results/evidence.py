"""All that is known of each effect: raw, at equal length, beside every null; and a verdict.

Some nulls are other networks: random ones, and ones trained on unpaired audio and text, whose draws
are seeds. Draws and utterances are crossed: every network is fed the same texts. So an interval
adds what differs between draws to what differs between speakers (``joint``); from one draw, as
``draws`` says, it cannot.

Only 95 % intervals decide a verdict. A side is + or - where an interval excludes zero, and none
where it does not. Of an effect whose raw interval has a side:

survives             every length control has that side, and the effect at equal length lies beyond
                     that of every control network and of other speech: its whole interval is
                     farther out
survives in part     so too, but the whole interval at equal length is less than half the raw effect
explained by length  no length control has that side, the interval at equal length leaves the raw
                     effect out, and Gaussian rows of the same lengths move to that side
undecided            all else, and effects without a raw side; the reason says what failed

At equal length is with random rows of each text, the headline. Control networks and other speech
were cut to their first rows, so they are compared with the model's own first rows. A length control
on the opposite side counts against the raw effect.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from companion.measurement import schemas
from companion.results import effects, intervals
from companion.results.effects import GROUP, KEY, MATCHED, RAW
from companion.results.intervals import NOTHING, Columns, Interval, as_table, groups_by, joint, side
from companion.results.tables import with_interval

MODEL = "model"
"""The source of what was measured on the model itself."""

DRAWN = (schemas.INITIALISED, schemas.SPECTRUM, schemas.UNPAIRED)
"""The nulls that are other networks, of which there are several draws."""

_NULLS = {
    schemas.GAUSSIAN: "Gaussian",
    schemas.INITIALISED: "randomly initialised control",
    schemas.SPECTRUM: "random vectors",
    schemas.UNPAIRED: "unpaired training",
    schemas.SWAPPED: "other speech",
}
_LENGTHS = {
    (schemas.SHUFFLED, MATCHED): "random rows",
    (MODEL, MATCHED): "first rows",
    (MODEL, effects.PAIRS): "equal pairs",
}
_BLOCKS = (
    {(MODEL, RAW): "raw"},
    _LENGTHS,
    {(schemas.FORCED, RAW): "same text"},
    {(null, RAW): name for null, name in _NULLS.items()},
    {(null, MATCHED): f"{name}, first rows" for null, name in _NULLS.items()},
)
_CUT_NULLS = [name for (null, _), name in _BLOCKS[-1].items() if null != schemas.GAUSSIAN]
CONTROLS = {key: label for block in _BLOCKS for key, label in block.items()}
"""By source and length, what a reader compares, in the order to read it. Random rows are the
headline at equal length; the same text, forced on both sounds, has equal length by itself."""

EFFECT = [*GROUP, "observable"]
"""What one effect is: a model, a component, K and an observable."""

SURVIVES, IN_PART = "survives", "survives in part"
EXPLAINED, UNDECIDED = "explained by length", "undecided"

_Sides = tuple[np.ndarray, np.ndarray]
"""One observable in every draw of a random network, clean and stressed: (utterances, draws)."""


def over_draws(values: np.ndarray, speakers: np.ndarray) -> Interval:
    """The mean over draws of values (speakers + 1, draws), by ``joint``; draws without one apart.

    One draw has the interval over speakers alone.
    """
    names, known = np.unique(speakers), values.T[np.isfinite(values).all(0)]
    numbers = [intervals.jackknife(column, names) for column in known]
    return joint(numbers).interval if numbers else NOTHING


def control_effects(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """``effects`` of one random network's rows, over all its draws; with a column ``draws``.

    Utterances count that every draw was fed. There is no p-value: the permutation of ``paired_p``
    knows nothing of draws. Of a model with one draw, all is as ``effects`` says.
    """
    several = rows.groupby("model").draw.transform("nunique") > 1
    single = effects.effects(rows[~several], condition).assign(draws=1)
    table = []
    for key, group in _drawn_means(rows[several], condition):
        row = key | effects.mean_tokens(group)
        crossed, speakers = _crossed(group)
        for name, (clean, stressed) in crossed.items():
            changes = effects.changes_without(name, clean, stressed, speakers)
            n = int(np.isfinite(stressed - clean).any(1).sum())
            row |= effects.change_columns(name, over_draws(changes, speakers), n)
        table.append(row | {"draws": group.draw.nunique()})
    tables = [single, as_table(table)]
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
    trained = {tuple(key): part for key, part in effects.layer_means(rows, condition).groupby(KEY)}
    table = []
    for null in DRAWN:
        for key, group in _drawn_means(null_rows[null_rows.null == null], condition):
            means = trained.get(tuple(key.values()), group.iloc[:0])
            means = means[means.utterance.isin(group.utterance)]
            group = group[group.utterance.isin(means.utterance)]
            if len(group):
                (model, _), (control, speakers) = _crossed(means.assign(draw=0)), _crossed(group)
                for name, sides in control.items():
                    about = key | {"observable": name, "control": null}
                    table.append(about | _remaining(name, model[name], sides, speakers))
    return as_table(table)


_READ = ("trained", "random", "remaining", "fraction")


def readable_remaining(table: pd.DataFrame) -> pd.DataFrame:
    """``remaining`` to read."""
    cells = {name: with_interval(table, name, 2, sign=True) for name in _READ}
    kept = ["model", "component", "modes", "length", "observable", "control", "draws", "n"]
    return table[kept].assign(**cells, draw_sd=table.draw_sd.round(2), as_large=table.as_large)


def _remaining(name: str, model: _Sides, control: _Sides, speakers: np.ndarray) -> Columns:
    trained, random = (effects.changes_without(name, *s, speakers) for s in (model, control))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (trained, random, trained - random, random / trained)
    numbers = {
        part: over_draws(changes, speakers) for part, changes in zip(_READ, values, strict=True)
    }
    if side(numbers["trained"]) == 0:
        numbers["fraction"] = NOTHING
    by_draw, change = random[0][np.isfinite(random[0])], trained[0, 0]
    as_large = int((by_draw * np.sign(change) >= abs(change)).sum())
    spread = by_draw.std(ddof=1) if len(by_draw) > 1 else np.nan
    about: Columns = {"draws": random.shape[1], "n": len(speakers)}
    return about | numbers | {"draw_sd": spread, "as_large": as_large}


def _drawn_means(rows: pd.DataFrame, condition: str) -> Iterator[tuple[Columns, pd.DataFrame]]:
    """``layer_means`` of every draw, of the utterances that all draws of a group were fed."""
    means = effects.layer_means(rows, condition, ["draw"]) if len(rows) else rows
    for key, group in groups_by(means, KEY) if len(rows) else ():
        times = group.groupby("utterance").draw.transform("nunique")
        yield key, group[times == group.draw.nunique()]


def _crossed(group: pd.DataFrame) -> tuple[dict[str, _Sides], np.ndarray]:
    """The observables of ``_drawn_means`` by name, and the utterances' speakers."""
    names = effects.known_observables(group)
    columns = [f"{name}_{side}" for name in names for side in effects.SIDES]
    wide = group.pivot(index=["utterance", "speaker"], columns="draw", values=columns)
    clean, stressed = (
        {name: wide[f"{name}_{side}"].to_numpy(float) for name in names} for side in effects.SIDES
    )
    speakers = wide.index.get_level_values("speaker").to_numpy()
    return {name: (clean[name], stressed[name]) for name in names}, speakers


def evidence(rows: pd.DataFrame, null_rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Every effect under every control: one row per ``EFFECT``, source and length.

    Columns ``change``, ``low``, ``high``, ``p``, ``n``, ``tokens_clean``, ``tokens_stressed``, and
    ``draws``, the networks that the interval is over. ``rows`` are those of `measure`,
    ``null_rows`` those of `nulls`. Observables that the nulls lack, those of the graphs, are left
    out.
    """
    seen, of_model = effects.known_in(null_rows), (effects.effects, effects.pair_effects)
    graphs = [column for name, column in effects.OBSERVABLES.items() if name not in seen]
    rows = rows.drop(columns=graphs, errors="ignore")
    tables = [table(rows, condition).assign(source=MODEL) for table in of_model]
    for name, part in null_rows.groupby("null"):
        stressed = schemas.SWAPPED if name == schemas.SWAPPED else condition
        of = control_effects if name in DRAWN else effects.effects
        tables.append(of(part, stressed).assign(source=name))
    long = pd.concat([effects.by_observable(table, seen) for table in tables])
    long["draws"] = long.draws.fillna(1).astype(int)
    known = pd.MultiIndex.from_frame(long[["source", "length"]]).isin(list(CONTROLS))
    return long[known].sort_values([*EFFECT, "source", "length"], ignore_index=True)


def blocks(table: pd.DataFrame) -> list[list[tuple[str, str]]]:
    """The keys of ``CONTROLS`` that a table has, those that belong together in one list.

    Raw, at equal length, the same text, nulls, nulls at equal length.
    """
    there = set(zip(table.source, table.length, strict=True))
    return [[key for key in block if key in there] for block in _BLOCKS]


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row per ``EFFECT`` of ``evidence``: its change raw and at equal length, and a verdict.

    ``matched`` is with random rows, ``first_rows`` with first ones; ``reason`` says why.
    """
    judged = []
    for key, part in groups_by(table, EFFECT):
        named = {
            CONTROLS[row.source, row.length]: Interval(row.change, row.low, row.high)
            for row in part.itertuples()
        }
        lengths = {label: named[label] for label in _LENGTHS.values()}
        nulls = {label: named[label] for label in _CUT_NULLS if label in named}
        name, reason = verdict(named["raw"], lengths, nulls, named["Gaussian"], like="first rows")
        numbers = {"raw": "raw", "matched": "random rows", "first_rows": "first rows"}
        changes = {column: named[label].estimate for column, label in numbers.items()}
        judged.append(key | changes | {"verdict": name, "reason": reason})
    return pd.DataFrame(judged)


def readable_evidence(table: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """``evidence`` to read, an effect a row: its verdict, and its change under every control."""
    named = table.rename(columns={"low": "change_low", "high": "change_high"})
    named = named.assign(
        control=[CONTROLS[key] for key in zip(table.source, table.length, strict=True)],
        cell=with_interval(named, "change", 2, sign=True),
    )
    wide = named.pivot(index=EFFECT, columns="control", values="cell")
    wide = wide[[name for name in CONTROLS.values() if name in wide]]
    reasons = judged.set_index(EFFECT)[["verdict", "reason"]]
    return reasons.join(wide).reset_index().drop(columns="parameters")


def verdict(
    raw: Interval,
    controls: Mapping[str, Interval],
    nulls: Mapping[str, Interval],
    pure_length: Interval,
    like: str,
) -> tuple[str, str]:
    """The verdict on one effect, and why.

    ``controls`` hold the effect at equal length by the name of the control, the first of them the
    headline, and that named ``like`` cut as the ``nulls`` were, which are compared with it;
    ``pure_length`` is what the lengths alone make of Gaussian rows.
    """
    everything = {"raw": raw, **controls, **nulls, "Gaussian": pure_length}
    missing = [name for name, number in everything.items() if not number.low <= number.high]
    if missing:
        return UNDECIDED, f"no interval: {', '.join(missing)}"
    sides = {name: side(number) for name, number in controls.items()}
    raw_side, matched = side(raw), next(iter(controls.values()))
    if raw_side == 0:
        seen = ", ".join(name for name, number in sides.items() if number)
        return UNDECIDED, f"none raw, but one at equal length: {seen}" if seen else "no change seen"
    agreeing = [name for name, number in sides.items() if number == raw_side]
    if len(agreeing) == len(sides):
        short = [name for name, number in nulls.items() if not _beyond(controls[like], number)]
        if short:
            return UNDECIDED, f"not beyond: {', '.join(short)}"
        if max(abs(matched.low), abs(matched.high)) < abs(raw.estimate) / 2:
            return IN_PART, "every length control agrees, on less than half of it"
        return SURVIVES, "every length control agrees, no null does as much"
    if agreeing:
        return UNDECIDED, f"only some length controls agree: {', '.join(agreeing)}"
    if matched.low <= raw.estimate <= matched.high:
        return UNDECIDED, "equal length leaves it possible"
    if side(pure_length) != raw_side:
        return UNDECIDED, "gone at equal length, yet Gaussian rows do not move so"
    return EXPLAINED, "gone at equal length, and Gaussian rows of these lengths move so"


def _beyond(number: Interval, null: Interval) -> bool:
    """Whether an interval lies wholly farther out, on its raw_side side, than a null's."""
    return number.low > null.high if side(number) > 0 else number.high < null.low
