"""Stress by dose and by kind, and hallucinated transcripts against others under one stress."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd

from companion.measurement.schemas import REFERENCE_CONDITION
from companion.results import effects, intervals, transcripts
from companion.results.effects import KEY, RAW, SIDES
from companion.results.intervals import NOTHING, Columns, as_table, groups_by, rows_by
from companion.results.shapes import shape
from companion.results.transcripts import MODEL, TRANSCRIPT, TRANSCRIPT_VALUES
from companion.stress.conditions import condition, split_severity
from companion.stress.perturbations import GaussianNoise

NOISE = "noise"
SEVERITY, DEPTH = "severity", "depth"
STRESSES = ("stretch", "mix", "noise")
_SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(STRESSES, size)]
CELLS = tuple("hell" if subset == STRESSES else "+".join(subset) for subset in _SUBSETS)
"""The stressed conditions of the factorial design: each alone, each pair, all three."""

EFFECTS = tuple(" x ".join(subset) for subset in _SUBSETS)
"""Main effects, and interactions by the stresses that take part."""

DIFFERS, BY_LENGTH = "differs", "explained by length"
ALIKE, TOO_FEW = "no difference seen", "too few"
_PASSAGE = (10.0, 90.0)
_CURVE = [*KEY, "observable"]
_UNITS = ["speaker", "utterance"]


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """The rows to draw: alpha over the fewest modes measured, all else over the most.

    Short texts do not resolve as many modes as the slope over the most of them needs.
    """
    spectra = table.component != TRANSCRIPT
    modes = table.modes[spectra]
    wanted = table.observable.eq("alpha").map({True: modes.min(), False: modes.max()})
    return table[~spectra | (table.modes == wanted)]


def severities(rows: pd.DataFrame, family: str) -> dict[str, float]:
    """The conditions of a family in the rows, by severity: clean is 0, the family's own name 1.

    Raises ValueError where the rows hold no milder form.
    """
    known = {name: split_severity(name) for name in rows.condition.unique()}
    doses = {name: severity for name, (base, severity) in known.items() if base == family}
    doses[REFERENCE_CONDITION] = 0.0
    if len(doses) < 3:
        raise ValueError(f"rows have no milder {family}; measure conditions such as {family}-0.5")
    return dict(sorted(doses.items(), key=lambda pair: pair[1]))


def dose_response(rows: pd.DataFrame, families: Iterable[str]) -> pd.DataFrame:
    """Changes from clean by severity: those of ``effects``, an observable a row.

    Columns ``family``, ``severity``, ``observable``, ``change`` and its interval. At severity 0
    nothing has changed, by definition.
    """
    tables = [
        effects.effects(rows, name).assign(family=family, severity=severity)
        for family in families
        for name, severity in severities(rows, family).items() if severity > 0
    ]  # fmt: skip
    changes = effects.by_observable(pd.concat(tables), effects.known_in(rows))
    first = changes[changes.severity == 1]
    nothing = dict.fromkeys(["severity", "change", "low", "high"], 0.0)
    first = first.assign(**nothing, p=1.0, tokens_stressed=first.tokens_clean)
    keys = ["family", *_CURVE, "severity"]
    return pd.concat([first, changes]).sort_values(keys, ignore_index=True)


def transcript_response(rows: pd.DataFrame, families: Iterable[str]) -> pd.DataFrame:
    """``wers`` by severity: the numbers themselves, not their changes."""
    errors, tables = transcripts.wers(transcripts.transcripts(rows)), []
    for family in families:
        doses = severities(rows, family)
        kept = errors[errors.condition.isin(doses)]
        tables.append(kept.assign(family=family, severity=kept.condition.map(doses)))
    return pd.concat(tables).sort_values(["family", *MODEL, "severity"], ignore_index=True)


def noise_width(rows: pd.DataFrame) -> pd.DataFrame:
    """Over how many dB of noise hallucination candidates go from 10 to 90 % of transcripts.

    Linear between the levels measured. Candidates of a level are taken to be no fewer than of a
    fainter one. Where 10 % are reached below the faintest level, or 90 % above the loudest,
    ``width_db`` is the least that it can be, ``whole`` is false, and the interval has no upper end;
    where 10 % are never reached, even without one speaker, there is none. The width is smooth in
    the weights but where a level or a fraction is just reached.
    """
    levels = {name: _level_db(name) for name, dose in severities(rows, NOISE).items() if dose > 0}

    def describe(group: pd.DataFrame) -> Columns:
        wide = group.pivot(index=_UNITS, columns="condition", values="candidate_fraction").dropna()
        names = sorted(wide.columns, key=levels.__getitem__)
        speakers = wide.index.get_level_values("speaker").to_numpy()
        fractions = intervals.weighted_mean(intervals.deletions(speakers), wide[names].to_numpy())
        fractions = np.maximum.accumulate(fractions, axis=1)
        places = np.array([levels[name] for name in names])
        low, high = (_reached(places, fractions, fraction) for fraction in _PASSAGE)
        width = intervals.jackknife(high - low, np.unique(speakers))
        whole = (fractions[:, 0] <= _PASSAGE[0]) & (fractions[:, -1] >= _PASSAGE[1])
        if not whole.all() and np.isfinite(width.low):
            width = replace(width, high=float("inf"), deviations={})
        return {"width_db": width, "whole": bool(whole[0])}

    values = transcripts.transcript_values(rows)
    return rows_by(values[values.condition.isin(levels)], MODEL, describe)


def _level_db(name: str) -> float:
    """How loud the noise of a condition is, in dB of the speech."""
    (noise,) = condition(name).perturbations
    if not isinstance(noise, GaussianNoise):
        raise ValueError(f"{name} is no noise alone; its severity is no level in dB")
    return -noise.snr_db


def _reached(levels: np.ndarray, fractions: np.ndarray, fraction: float) -> np.ndarray:
    """Where rising fractions (rows, levels) reach ``fraction``, an end where it lies beyond.

    NaN where even the least of the passage is never reached.
    """
    reached = np.empty(len(fractions))
    for i, row in enumerate(fractions):
        after = int((row < fraction).sum())
        near = slice(max(after - 1, 0), after + 1)
        reached[i] = np.interp(fraction, row[near], levels[near])
    return np.where(fractions[:, -1] < _PASSAGE[0], np.nan, reached)


def transitions(rows: pd.DataFrame, families: Iterable[str]) -> pd.DataFrame:
    """``shape`` of the speakers' means along every axis: a row per GROUP, length, observable, axis.

    An utterance counts where it has a value at every point.

    ``along`` is "severity" (``of`` a family, clean as 0) or "depth" (``of`` a condition, its
    layers, all T tokens). Over severity the raw curve is of values, the length-matched one of
    changes from clean, each at the length of its own pair. The transcripts' own have component
    "transcript" and K 0.
    """
    table = []
    names = {column: pd.factorize(rows[column], sort=True)[0] for column in _UNITS}
    rows = rows.assign(**names)  # numbers are grouped several times faster
    for family in families:
        axes = [(SEVERITY, family, _by_severity(rows, severities(rows, family)))]
        axes += [(DEPTH, name, _by_depth(rows[rows.condition == name]))
                 for name in (REFERENCE_CONDITION, family)]  # fmt: skip
        for along, of, curves in axes:
            for key, means in speakers_means(curves):
                about = dict(zip(_CURVE, key, strict=True)) | {"along": along}
                about |= {"points": means.shape[1], "speakers": len(means)}
                x = means.columns.to_numpy(float)
                table.append(about | shape(means.to_numpy(float), x) | {"of": of})
    kept = as_table(table).drop(columns="margin_speakers")
    return kept.drop_duplicates([*_CURVE, "along", "of"], ignore_index=True)


def speakers_means(curves: pd.DataFrame) -> Iterator[tuple[tuple[object, ...], pd.DataFrame]]:
    """The speakers' means of every ``_CURVE``, a column per point of the axis ``x``."""
    for _, group in curves.groupby(MODEL):  # models differ in depth
        wide = group.pivot(index=[*_CURVE, *_UNITS], columns="x", values="value")
        means = wide.dropna().groupby([*_CURVE, "speaker"]).mean()
        known = dict(iter(means.groupby(_CURVE)))
        for key in wide.groupby(_CURVE).groups:  # also those without a value at every point
            yield key, known.get(key, means.iloc[:0])


def _by_severity(rows: pd.DataFrame, doses: dict[str, float]) -> pd.DataFrame:
    """Every utterance: columns of ``_CURVE``, speaker, utterance, value, and severity as x."""
    tables = []
    for name, severity in doses.items():
        means = effects.layer_means(rows, name) if severity > 0 else pd.DataFrame()
        raw = means.get("length") == RAW
        for observable in effects.known_observables(means):
            clean, value = (means[f"{observable}_{side}"] for side in SIDES)
            part = means[[*KEY, *_UNITS]].assign(observable=observable)
            tables.append(part.assign(x=severity, value=value.where(raw, value - clean)))
            if severity == 1:
                tables.append(part.assign(x=0.0, value=clean.where(raw, 0.0)))
    texts = transcripts.transcript_values(rows[rows.condition.isin(doses)])
    texts = texts.assign(component=TRANSCRIPT, modes=0, length=RAW, x=texts.condition.map(doses))
    long = texts.melt([*KEY, *_UNITS, "x"], list(TRANSCRIPT_VALUES), "observable", "value")
    return pd.concat([*tables, long.dropna(subset="value")])


def _by_depth(rows: pd.DataFrame) -> pd.DataFrame:
    """Every utterance by layer: columns of ``_CURVE``, speaker, utterance, value, and layer x."""
    raw = rows[rows.matched_with == ""].assign(length=RAW, x=rows.layer)
    return pd.concat(
        raw[[*KEY, *_UNITS, "x"]].assign(observable=name, value=effects.observed(raw, name))
        for name in effects.known_in(raw)
    )


def _contrasts() -> np.ndarray:
    """The coefficients of each effect on clean and ``CELLS``: (7 effects, 8 cells).

    Yates's contrasts of a 2^3 design: the mean where an even number of the named stresses is
    absent minus the mean where an odd number is (Box, Hunter & Hunter 2005, ch. 5). A main effect
    is the mean difference that a stress makes over all settings of the others; the interaction of
    two is half the difference that one makes to the other's effect.
    """
    cells = [(), *_SUBSETS]
    return np.array(
        [[np.prod([1 if s in cell else -1 for s in named]) / 4 for cell in cells]
         for named in _SUBSETS]
    )  # fmt: skip


def factorial(rows: pd.DataFrame) -> pd.DataFrame:
    """Every effect on every observable: one row per GROUP, length, observable and effect.

    A cell is the change from clean, at the length of that pair where rows are cut; N_eff in %, all
    others by difference. ``component`` is "transcript" and K 0 for word error (the mean over
    utterances) and candidates in points of %, log-probability and tokens. Utterances count whose
    value exists in every cell. Raises ValueError where a condition is missing.
    """
    missing = [name for name in CELLS if name not in set(rows.condition.unique())]
    if missing:
        raise ValueError(f"rows lack {', '.join(missing)}; measure these conditions too")
    means = pd.concat([effects.layer_means(rows, name).assign(condition=name) for name in CELLS])
    texts = transcripts.transcript_values(rows).assign(component=TRANSCRIPT, modes=0, length=RAW)
    clean = texts[texts.condition == REFERENCE_CONDITION]
    unit = [*MODEL, *_UNITS]
    texts = texts[texts.condition.isin(CELLS)].merge(
        clean[[*unit, *TRANSCRIPT_VALUES]], on=unit, suffixes=("_stressed", "_clean")
    )
    table = []
    for names, sides in ((effects.known_observables(means), means), (TRANSCRIPT_VALUES, texts)):
        for key, group in groups_by(sides, KEY):
            wide = group.set_index([*_UNITS, "condition"])
            for name in names:
                before, after = (wide[f"{name}_{side}"].unstack()[list(CELLS)] for side in SIDES)
                if before.notna().any(axis=None):
                    about = key | {"observable": name}
                    table += [about | effect for effect in _effects(name, before, after)]
    return pd.DataFrame(table)


def _effects(name: str, clean: pd.DataFrame, stressed: pd.DataFrame) -> Iterator[Columns]:
    """The seven effects of one observable: (utterances, 7) of both sides of each pair."""
    speakers = clean.index.get_level_values("speaker").to_numpy()
    before, after = clean.to_numpy(float), stressed.to_numpy(float)
    usable = np.isfinite(before).all(1) & np.isfinite(after).all(1)
    before = np.where(usable[:, None], before, np.nan)
    changes = effects.changes_without(name, before, after, speakers)
    cells = np.column_stack([np.zeros(len(changes)), changes])
    for effect, coefficients in zip(EFFECTS, _contrasts(), strict=True):
        number = intervals.jackknife(cells @ coefficients, np.unique(speakers))
        ends = {"change": number.estimate, "low": number.low, "high": number.high}
        yield {"effect": effect, **ends, "n": int(usable.sum())}


def within_conditions(rows: pd.DataFrame, least: int) -> pd.DataFrame:
    """Candidates minus others by model, condition, component, K and observable, all T tokens.

    Clean against stressed compares sounds as much as transcripts. Here the sound is of one kind,
    and only the transcript differs: what separates the two marks hallucination, and not noise.
    Which utterances are hallucinated is not drawn by chance, so a difference is an association, not
    a cause.

    ``difference`` is that of the means; ``adjusted`` the candidates' coefficient in a least-squares
    fit on candidate and T, so at equal T; ``auc`` the probability that a candidate's value is the
    larger of the two (0.5 for no difference), each with its interval over speakers. ``verdict``:
    "differs" where both differences exclude zero on one side, "explained by length" where only the
    first does, "too few" where either group has fewer than ``least`` utterances. Log-probabilities
    and T have "transcript" as component and 0 as K.
    """
    table: list[Columns] = []
    everything = transcripts.transcript_values(rows).assign(component=TRANSCRIPT, modes=0)
    for name in rows.condition[rows.condition != REFERENCE_CONDITION].unique():
        stressed = everything[everything.condition == name]
        means = effects.layer_means(rows, name)
        means = means[means.length == RAW].merge(stressed[["model", "utterance", "candidate"]])
        spectra = {f"{of}_stressed": of for of in effects.known_observables(means)}
        texts = {of: of for of in (*transcripts.CONFIDENCES, "tokens")}
        for values, length, columns in (
            (stressed, "tokens", texts), (means, "tokens_stressed", spectra)
        ):  # fmt: skip
            for key, group in groups_by(values, effects.GROUP):
                for column, observable in columns.items():
                    if observable in transcripts.CONFIDENCES and group[column].isna().all():
                        continue
                    about = {"condition": name, "observable": observable}
                    table.append(key | about | contrast(group, column, length, least))
    return as_table(table)


def contrast(group: pd.DataFrame, column: str, length: str, least: int) -> Columns:
    """Candidates minus others in a column, a row per utterance; the columns are described above.

    The adjusted difference is at equal ``length``, another column.
    """
    group = group[np.isfinite(group[column])]
    values, tokens = group[column].to_numpy(float), group[length].to_numpy(float)
    candidate, speakers = group.candidate.to_numpy(bool), group.speaker.to_numpy()
    counts: Columns = {"candidates": int(candidate.sum()), "others": int((~candidate).sum())}
    if min(counts.values()) < least:
        numbers = dict.fromkeys(("difference", "adjusted", "auc"), NOTHING)
        return counts | numbers | {"verdict": TOO_FEW}
    inside, outside = (np.where(mask, values, np.nan) for mask in (candidate, ~candidate))
    mean = intervals.weighted_mean
    difference = intervals.interval(lambda w: mean(w, inside) - mean(w, outside), speakers)
    adjusted = NOTHING  # of the length itself
    if column != length:
        adjusted = intervals.interval(
            lambda w: intervals.adjusted_difference(w, values, candidate, tokens), speakers
        )
    auc = intervals.auc_over(values, candidate, speakers)
    verdict = ALIKE
    if raw := intervals.side(difference):
        unadjusted = np.isnan(adjusted.estimate)
        verdict = DIFFERS if unadjusted or raw == intervals.side(adjusted) else BY_LENGTH
    return counts | {
        "difference": difference, "adjusted": adjusted, "auc": auc, "verdict": verdict
    }  # fmt: skip


TRAINED, RANDOM, BEYOND = "trained", "random", "trained minus random"
"""A network; its randomly initialised control, which hears and writes the same; the difference of
the two."""

ALL_LAYERS = "mean"
_TEXT = ["parameters", "model", "width", "condition", "speaker", "utterance", "candidate"]


def unstable_contrasts(rows: pd.DataFrame, least: int) -> pd.DataFrame:
    """Candidates minus others in the number of eigenvalues of W_l of modulus above one, of D.

    A row per model, stressed condition, network and layer, "mean" being that of all layers. A
    transcript counts with the mean over its tokens, and ``adjusted`` is the difference at equal
    mean position of these tokens: as they are spread evenly over the text, at equal T. The other
    columns are those of ``contrast``.
    """
    stressed = rows[rows.condition != REFERENCE_CONDITION]
    stressed = stressed.assign(unstable=stressed.unstable * stressed.width)
    means = stressed.groupby([*_TEXT, "layer", "network"])[["unstable", "position"]].mean()
    trained, random = (means.xs(name, level="network") for name in (TRAINED, RANDOM))
    beyond = trained.assign(unstable=trained.unstable - random.unstable, network=BEYOND)
    layers = pd.concat([means.reset_index(), beyond.reset_index()], ignore_index=True)
    every = layers.groupby([*_TEXT, "network"])[["unstable", "position"]].mean().reset_index()
    layers = pd.concat([every.assign(layer=ALL_LAYERS), layers.astype({"layer": str})])
    keys = ["parameters", "model", "width", "condition", "network", "layer"]
    return rows_by(layers, keys, lambda group: contrast(group, "unstable", "position", least))
