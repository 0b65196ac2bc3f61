"""The contest: each score fitted on some speakers and stresses, and scored on others of both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from companion.contest.contestants import Contestant, contestants, monitor, rival, with_rival
from companion.contest.fitting import Logistic, best_threshold, probabilities
from companion.contest.outcomes import INVENTED, WORDLESS
from companion.measurement.contest_schema import REPEATED, ROOM_TONE, WHOLE
from companion.measurement.schemas import NONSPEECH, REFERENCE_CONDITION
from companion.results.intervals import NOTHING, interval, interval_columns, larger_probability
from companion.results.tables import with_interval

FOLDS = 8
CONFIDENT = -1.0
"""Average log-probability above which openai-whisper takes a text to be sure."""

NO_SPEECH = 0.6
"""The no-speech probability above which it takes a window to be silent, unless it is sure."""

VOICE = "speech_fraction"
"""A column of the rows where a detector of voices has heard the sounds, too."""

HONEST = (ROOM_TONE, REPEATED)
LEAST = 5
"""Texts on either side of a comparison."""


def texts(rows: pd.DataFrame, prefix: int = WHOLE) -> pd.DataFrame:
    """The rows of whole texts, or of their first tokens, that have a word; ``invented`` or not."""
    own = rows[(rows.prefix == prefix) & ~rows.kind.isin([*WORDLESS])]
    return own.assign(target=own.kind.isin([*INVENTED])).reset_index(drop=True)


def with_voice(rows: pd.DataFrame, voice: pd.DataFrame) -> pd.DataFrame:
    """The rows with what a detector of voices says of their sounds, or ValueError."""
    found = rows.merge(voice, on=["utterance", "condition"], how="left", validate="many_to_one")
    missing = found[found[VOICE].isna()]
    if len(missing):
        raise ValueError(
            f"the detector of voices has not heard {len(missing)} sounds, the first "
            f"{missing.utterance.iloc[0]}, {missing.condition.iloc[0]}; run python -m "
            "companion.contest.speech_activity"
        )
    return found


def folds_of(speakers: pd.Series) -> np.ndarray:
    """A fold for every text, the same for all of a speaker: speakers in turn."""
    return np.asarray(np.unique(speakers, return_inverse=True)[1] % FOLDS)


def sets(rows: pd.DataFrame, fitted: Sequence[str]) -> dict[str, np.ndarray]:
    """Which texts each comparison is of, by its name: (texts,).

    Every stress that no fit has seen, alone; all of these; clips without speech beside clean
    speech; all of it. The first, of the stresses that are fitted on, is of other speakers alone.
    """
    condition = rows.condition.to_numpy()
    others = [
        name for name in pd.unique(condition) if name not in (*fitted, *HONEST, NONSPEECH)
    ]  # fmt: skip
    clean = condition == REFERENCE_CONDITION
    found = {"seen stresses": np.isin(condition, list(fitted))}
    found |= {name: condition == name for name in others}
    stressed = np.isin(condition, others)
    silent = condition == NONSPEECH
    found["unseen stresses"] = stressed
    found["no speech"] = silent | clean
    found["everything unseen"] = stressed | silent | clean | np.isin(condition, HONEST)
    return found


@dataclass(frozen=True)
class Fitted:
    """What fits on other speakers and stresses say of every text, (texts,) each.

    ranks: what texts are ordered by, the log-odds, or, of a score of one number, that number in the
    direction that is known, else in that of the fit. thresholds: of the ranks. risks: what the
    log-odds say, the mean of the fit where they run against a known direction.
    """

    ranks: np.ndarray
    thresholds: np.ndarray
    risks: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Fitted":
        return Fitted(self.ranks[chosen], self.thresholds[chosen], self.risks[chosen])


def out_of_fold(one: Contestant, rows: pd.DataFrame, fitted: Sequence[str]) -> Fitted:
    """Fits on the ``fitted`` conditions of other speakers, and so is the threshold, best by F1."""
    values, target = one.values(rows), rows.target.to_numpy()
    fold, seen = folds_of(rows.speaker), rows.condition.isin(list(fitted)).to_numpy()
    ranks, thresholds, risks = (np.full(len(rows), np.nan) for _ in range(3))
    for k in range(FOLDS):
        train, own = seen & (fold != k), fold == k
        model = Logistic.fit(values[train], target[train])
        odds = model.log_odds(values)
        order, risk = odds, probabilities(odds)
        if values.shape[1] == 1:
            sign = one.direction or np.sign(model.weights[0])
            order = sign * values[:, 0]
            if sign != np.sign(model.weights[0]):
                risk = np.where(np.isnan(odds), np.nan, target[train].mean())
        ranks[own], risks[own] = order[own], risk[own]
        thresholds[own] = best_threshold(order[train], target[train])
    return Fitted(ranks, thresholds, risks)


def contest(rows: pd.DataFrame, fitted: Sequence[str], prefix: int = WHOLE) -> pd.DataFrame:
    """A row per model, set and contestant: how well it tells invented texts from all others.

    ``auroc``: the probability that an invented text has the higher risk, and ``gain``: how much
    that of log-probability and length rises where the score is added, each with its interval over
    speakers; a clip is a speaker of its own. ``undefined``: texts for which the score is NaN, which
    lose every comparison. ``average_precision``; ``f``, ``recall`` and ``false_alarms`` at the
    threshold chosen elsewhere; ``default_f`` and so on at the score's own. ``calibration``: the
    mean risk less the fraction of invented texts. ``confident``: only texts with an average
    log-probability above -1. NaN, with the numbers of texts, where fewer than five are on a side.
    """
    return pd.DataFrame(
        row
        for _, group in rows.groupby(["parameters", "model"], sort=True)
        for row in _of_model(texts(group, prefix), fitted, prefix)
    )


def _of_model(
    rows: pd.DataFrame, fitted: Sequence[str], prefix: int
) -> Iterator[dict[str, object]]:
    named = {"model": rows.model.iloc[0], "prefix": prefix}
    base = out_of_fold(rival(), rows, fitted)
    sure = (rows.average_log_probability > CONFIDENT).to_numpy()
    known = [
        (one, out_of_fold(one, rows, fitted), out_of_fold(with_rival(one), rows, fitted))
        for one in contestants(VOICE in rows)
    ]
    for name, where in sets(rows, fitted).items():
        for confident in (False, True):
            chosen = where & sure if confident else where
            for one, own, together in known:
                row = {**named, "set": name, "confident": confident}
                row |= {"contestant": one.name, "family": one.family}
                yield row | _scored(rows[chosen], own[chosen], together[chosen], base[chosen], one)


def _scored(
    rows: pd.DataFrame, own: Fitted, together: Fitted, base: Fitted, one: Contestant
) -> dict[str, object]:
    target, undefined = rows.target.to_numpy(), np.isnan(own.ranks)
    counts = {"invented": int(target.sum()), "others": int((~target).sum())}
    row: dict[str, object] = {**counts, "undefined": int(undefined.sum())}
    enough = min(counts.values()) >= LEAST
    auroc = gain = NOTHING
    if enough:
        speakers = rows.speaker.to_numpy()
        lost, rivals, fused = (_losing(e.ranks, target) for e in (own, base, together))
        auroc = interval(
            partial(_auroc, values=lost, target=target), speakers, 1.0, min(counts.values())
        )
        gain = interval(
            lambda w: _auroc(w, fused, target) - _auroc(w, rivals, target), speakers
        )  # fmt: skip
    row |= interval_columns("auroc", auroc) | interval_columns("gain", gain)
    row["average_precision"] = average_precision(_losing(own.ranks, target), target)
    row |= _at(np.where(undefined, ~target, own.ranks >= own.thresholds), target, "")
    if one.rule is not None:
        row |= _at(one.rule(rows), target, "default_")
    risks, fractions = own.risks[~undefined], target[~undefined]
    row["calibration"] = float(risks.mean() - fractions.mean()) if len(risks) else np.nan
    row["brier"] = float(np.mean((risks - fractions) ** 2)) if len(risks) else np.nan
    return row


def _auroc(weights: np.ndarray, values: np.ndarray, target: np.ndarray) -> np.ndarray:
    return larger_probability(weights, values, target)


def _losing(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Where there is no number, one that is wrong: NaN is an error, and never "no alarm"."""
    return np.where(np.isnan(values), np.where(target, -np.inf, np.inf), values)


def average_precision(values: np.ndarray, target: np.ndarray) -> float:
    """The mean precision at every invented text, equal values together; NaN without one."""
    if not target.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    hits, counts = np.cumsum(target[order]), np.arange(1, len(order) + 1)
    ends = np.append(values[order][1:] != values[order][:-1], True)
    hits, counts = hits[ends], counts[ends]
    return float(np.sum(np.diff(hits, prepend=0) * hits / counts) / target.sum())


def _at(alarms: np.ndarray, target: np.ndarray, name: str) -> dict[str, float]:
    hits = float((alarms & target).sum())
    f = 2 * hits / (alarms.sum() + target.sum()) if alarms.sum() + target.sum() else np.nan
    recall = hits / target.sum() if target.any() else np.nan
    false = float((alarms & ~target).sum()) / (~target).sum() if (~target).any() else np.nan
    return {f"{name}f": f, f"{name}recall": recall, f"{name}false_alarms": false}


def readable(table: pd.DataFrame, name: str, digits: int = 2) -> pd.DataFrame:
    """A number with its interval, by contestant, and by model and set in columns; blank for NaN."""
    shown = table[table[name].notna()]
    text = with_interval(shown, name, digits, sign=name == "gain")
    wide = shown.assign(text=text).pivot_table(
        index=["family", "contestant"], columns=["model", "set"], values="text",
        aggfunc="first", sort=False,
    )  # fmt: skip
    wide.columns = [", ".join(each) for each in wide.columns]
    return wide.fillna("").reset_index()


def false_alarms(rows: pd.DataFrame, fitted: Sequence[str]) -> pd.DataFrame:
    """How many honest texts alarm, in %: of clean speech, of room tone after it, of repetitions.

    Texts that are no inventions, by contestant and condition; ``default``: at its own threshold.
    """
    table = []
    for _, group in rows.groupby(["parameters", "model"], sort=True):
        own = texts(group)
        for one in contestants(VOICE in own):
            fits = out_of_fold(one, own, fitted)
            alarms = ~(fits.ranks < fits.thresholds)
            rule = one.rule(own) if one.rule is not None else None
            for condition in (REFERENCE_CONDITION, *HONEST):
                honest = (own.condition == condition).to_numpy() & ~own.target.to_numpy()
                row = {"model": own.model.iloc[0], "contestant": one.name, "family": one.family}
                row |= {"condition": condition, "texts": int(honest.sum())}
                row["alarms"] = 100 * float(alarms[honest].mean()) if honest.any() else np.nan
                defaults = rule[honest] if rule is not None else np.array([])
                row["default"] = 100 * float(defaults.mean()) if len(defaults) else np.nan
                table.append(row)
    return pd.DataFrame(table)


def outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """What became of the transcripts, by model and condition, in %, and words a minute.

    ``invented`` (F) and ``deleted`` (D) words by minute of sound, both from sums over texts.
    """
    whole = rows[rows.prefix == WHOLE]
    keys = ["parameters", "model", "condition"]
    fractions = 100 * pd.crosstab([whole[k] for k in keys], whole.kind, normalize="index")
    sums = whole.groupby(keys)[["seconds", "invented", "deleted"]].sum()
    minutes = sums.seconds / 60
    found = fractions.assign(
        texts=whole.groupby(keys).size(),
        invented_per_minute=sums.invented / minutes,
        deleted_per_minute=sums.deleted / minutes,
    )
    return found.reset_index().drop(columns="parameters")


def guard(rows: pd.DataFrame, fitted: Sequence[str]) -> pd.DataFrame:
    """What dropping every text that alarms would do, by model, rule and condition.

    ``worded``: texts with words that are left, in %. ``invented_per_minute`` (F) and
    ``deleted_per_minute`` (D): words by minute of sound; a dropped text deletes all that was said.
    ``wer``: in %, of all that was said; NaN where nobody speaks. The monitor's fit and its
    threshold are of other speakers and of the ``fitted`` conditions, other rules have their own.
    """
    table = []
    for _, group in rows.groupby(["parameters", "model"], sort=True):
        own = group[group.prefix == WHOLE].assign(target=lambda r: r.kind.isin([*INVENTED]))
        own = own.reset_index(drop=True)
        for name, alarms in _rules(own, fitted).items():
            for condition, where in own.groupby("condition", sort=False).indices.items():
                row = {"model": own.model.iloc[0], "rule": name, "condition": condition}
                table.append(row | _dropped(own.iloc[where], alarms[where]))
    return pd.DataFrame(table)


def _rules(rows: pd.DataFrame, fitted: Sequence[str]) -> dict[str, np.ndarray]:
    silent = rows.no_speech_probability > NO_SPEECH
    fits = out_of_fold(monitor(), rows, fitted)
    found = {
        "none": np.zeros(len(rows), bool),
        "transcribe's silence": (silent & (rows.average_log_probability < CONFIDENT)).to_numpy(),
        "transcribe's fallback": next(
            each.rule(rows)
            for each in contestants()
            if each.name == "transcribe's fallback" and each.rule
        ),
        "no-speech probability": silent.to_numpy(),
    }
    if VOICE in rows:
        found["silero-vad"] = (rows[VOICE] == 0).to_numpy()
    return found | {"spectral.Monitor": ~(fits.ranks < fits.thresholds)}


def _dropped(rows: pd.DataFrame, alarms: np.ndarray) -> dict[str, float]:
    minutes, reference_words = rows.seconds.sum() / 60, rows.reference_words.sum()
    edits = np.where(alarms, rows.reference_words, rows.wer * rows.reference_words).sum()
    return {
        "texts": len(rows),
        "worded": 100 * float(((rows.transcript_words > 0) & ~alarms).mean()),
        "invented_per_minute": float(rows.invented[~alarms].sum() / minutes),
        "deleted_per_minute": float(
            np.where(alarms, rows.reference_words, rows.deleted).sum() / minutes
        ),
        "wer": 100 * float(edits / reference_words) if reference_words else np.nan,
    }
