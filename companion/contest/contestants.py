"""Who contends: every score's features, and the rules that come with their own threshold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from companion.measurement.schemas import HEADS, WHOLE
from spectral.monitor import FEATURES, FIRST, MEANS
from spectral.whisper import COMPONENTS


@dataclass(frozen=True)
class Logistic:
    """Log-odds ``bias + (x - means) @ weights`` of features x (texts, features).

    weights: by unit of the feature. A text with a NaN has NaN log-odds.
    """

    means: np.ndarray
    weights: np.ndarray
    bias: float

    @classmethod
    def fit(cls, values: np.ndarray, target: np.ndarray) -> "Logistic":
        """Of values (texts, features) and a target (texts,); texts with a NaN are left out.

        Of standardised features with C = 1. Raises ValueError where either side of the target has
        no text left.
        """
        there = np.isfinite(values).all(1)
        values, wanted = values[there], target[there]
        if not 0 < wanted.sum() < len(wanted):
            raise ValueError(
                f"{int(wanted.sum())} of {len(wanted)} texts are invented; fit on texts of both "
                "kinds, more stress or less of it"
            )
        scaler = StandardScaler().fit(values)
        model = LogisticRegression(tol=1e-8, max_iter=10_000)
        model.fit(scaler.transform(values), wanted)
        return cls(scaler.mean_, model.coef_[0] / scaler.scale_, float(model.intercept_[0]))

    def log_odds(self, values: np.ndarray) -> np.ndarray:
        """Of values (texts, features): (texts,)."""
        return np.asarray((values - self.means) @ self.weights + self.bias)


def best_threshold(values: np.ndarray, target: np.ndarray) -> float:
    """The value from which on F1 is the largest; texts without one are wrong anyway."""
    there = np.isfinite(values)
    order = np.argsort(-values[there], kind="stable")
    hits = np.cumsum(target[there][order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + target.sum())
    ends = np.append(np.diff(values[there][order]) < 0, True)  # equal values go together
    best = int(np.argmax(np.where(ends, f1, -1)))
    return float(values[there][order][best])


_TITLES = ("heads: lookback", "heads: entropy of cross-attention", "heads: heard")
_LEAST_PROBABILITY = 1e-8
_ENTROPY_TOKENS = 32  # before so many whisper.cpp does not look

CONFIDENCES = (*FIRST, *MEANS)
SPECTRA = FEATURES[len(CONFIDENCES) :]
"""Both halves of what can be had while a model decodes."""

CHOSEN = ("forbidden_first", "entropy", "cross_attention_window_n_eff")
"""What ``spectral.Monitor`` weighs: chosen on the scores of tiny.en, before base was measured."""


def log_probability(rows: pd.DataFrame) -> pd.Series:
    """openai-whisper's average over tokens and the end, of a beginning that over its tokens."""
    return rows.average_log_probability.where(rows.prefix == WHOLE, rows.log_probability)


def is_silent(rows: pd.DataFrame) -> pd.Series:
    """transcribe() writes nothing for a window that is likely silent and improbable as a text."""
    return (rows.no_speech_probability > 0.6) & (log_probability(rows) < -1)


def falls_back(rows: pd.DataFrame) -> pd.Series:
    """transcribe() decodes again, or drops as silent, a text that is improbable or repetitive.

    Of its three thresholds that of no speech decides which of both, and nothing else: it counts
    only below the threshold of the log-probability.
    """
    return (rows.compression_ratio > 2.4) | (log_probability(rows) < -1)


def in_decades(probabilities: np.ndarray) -> np.ndarray:
    """log10 of probabilities, as the monitor takes it."""
    return np.asarray(np.log10(np.maximum(probabilities, _LEAST_PROBABILITY)))


def _count(rows: pd.DataFrame) -> pd.Series:
    """The number of tokens, of a text or of its beginning."""
    return rows.tokens.where(rows.prefix == WHOLE, rows.prefix)


_DERIVED: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "log-probability": log_probability,
    "log of tokens": lambda rows: np.log(_count(rows).clip(lower=1)),
    "characters per second": lambda rows: rows.characters / rows.seconds,
    "minus entropy": lambda rows: -rows.token_entropy,
    "falls back": falls_back,
    "is silent": is_silent,
}
"""Features that are no column of the rows."""

_RIVAL = ("log-probability", "log of tokens")


@dataclass(frozen=True)
class Contestant:
    """A score: the features that a logistic regression is given, by family.

    features: columns of the rows, of numbers or of lists of one length, or such as are derived from
    them. ``rule``: whether it alarms by its own defaults, (texts,), for those that have some.
    direction: 1 where large values are known to be bad, -1 where small ones are, 0 where the fit
    has to find it out.
    """

    name: str
    family: str
    features: tuple[str, ...]
    rule: Callable[[pd.DataFrame], pd.Series] | None = None
    direction: int = 0

    def values(self, rows: pd.DataFrame) -> np.ndarray:
        """Of rows, (texts, features)."""
        return np.column_stack([_values(rows, feature) for feature in self.features])

    def measured(self, rows: pd.DataFrame) -> np.ndarray:
        """Which texts have the score at all, were it NaN: (texts,). Older rows lack the heads."""
        of_heads = [feature for feature in self.features if feature in HEADS]
        return np.asarray(rows[of_heads].notna().all(axis=1))


def _values(rows: pd.DataFrame, feature: str) -> np.ndarray:
    """A feature of every text; NaN for a missing list of numbers."""
    column = _DERIVED[feature](rows) if feature in _DERIVED else rows[feature]
    there = column.notna()
    if column.dtype == object and there.any() and np.ndim(column[there].iloc[0]):
        missing = np.full(len(column[there].iloc[0]), np.nan)
        lists = column.where(there, pd.Series([missing] * len(column), column.index))
        return np.stack(lists.to_list())
    values = column.to_numpy(float)
    is_probability = feature.startswith("forbidden") or feature == "no_speech_probability"
    return in_decades(values) if is_probability else values


def contestants(rows: pd.DataFrame) -> list[Contestant]:
    """All that can be fitted on these rows; the readings of a beginning are of its tokens alone.

    A detector of speech is one where the rows have its columns (``contest.speech_activity``), and
    so are the heads of attention.
    """
    scores = [
        Contestant(
            "log-probability", "built in", ("log-probability",),
            lambda rows: log_probability(rows) < -1, -1,
        ),
        Contestant(
            "compression ratio", "built in", ("compression_ratio",),
            lambda rows: rows.compression_ratio > 2.4, 1,
        ),
        Contestant(
            "no-speech probability", "built in", ("no_speech_probability",),
            lambda rows: rows.no_speech_probability > 0.6, 1,
        ),
        Contestant("transcribe's fallback", "built in", ("falls back",), falls_back, 1),
        Contestant("transcribe's silence", "built in", ("is silent",), is_silent, 1),
        Contestant(
            "whisper.cpp's entropy", "built in", ("minus entropy",),
            lambda rows: (_count(rows) > _ENTROPY_TOKENS) & (rows.token_entropy < 2.4), 1,
        ),
        _single("forbidden mass, first step", "confidence", "forbidden_first", 1),
        _single("forbidden mass, mean", "confidence", "forbidden_mean", 1),
        _single("entropy of tokens", "confidence", "entropy", 1),
        _single("least log-probability", "confidence", "least_log_probability", -1),
        _single("characters per second", "text", "characters per second"),
        _single("tokens", "text", "log of tokens"),
        _single("level", "sound", "level_db"),
        _single("range of levels", "sound", "level_range_db", -1),
    ]  # fmt: skip
    if "speech_fraction" in rows:
        scores.append(_single("silero-vad, fraction of speech", "sound", "speech_fraction", -1))
        scores.append(_single("silero-vad, mean", "sound", "speech_mean", -1))
    for part in COMPONENTS:
        title = part.replace("_", "-")
        for name, column in (
            ("N_eff", "n_eff"), ("alpha", "alpha"), ("Kf", "log10_kf_resolved"),
            ("size", "log10_variance"), ("N_eff, sliding", "window_n_eff"),
            ("size, sliding", "window_log10_size"),
        ):  # fmt: skip
            claimed = 1 if column == "alpha" else 0  # a high slope goes with failures
            scores.append(_single(f"{title}: {name}", "spectral", f"{part}_{column}", claimed))
    if rows[HEADS[0]].notna().any():
        scores += [_single(of, "attention", head) for of, head in zip(_TITLES, HEADS, strict=True)]
        scores.append(Contestant("heads: all", "attention", HEADS))
    return [
        *scores,
        _single("LapEigvals", "attention", "laplacian"),
        _single("linear probe", "probe", "state"),
        Contestant("all spectra, sliding", "fusion", SPECTRA),
        Contestant("all confidences", "fusion", CONFIDENCES),
        Contestant("confidences and spectra", "fusion", FEATURES),
        monitor(),
    ]


def _single(name: str, family: str, feature: str, direction: int = 0) -> Contestant:
    return Contestant(name, family, (feature,), direction=direction)


def monitor() -> Contestant:
    """The score of ``spectral.Monitor``."""
    return Contestant("spectral.Monitor", "fusion", CHOSEN)


def rival() -> Contestant:
    """Log-probability and length: what everybody has."""
    return Contestant("log-probability and length", "fusion", _RIVAL)


def with_rival(score: Contestant) -> Contestant:
    """A score together with log-probability and length."""
    return replace(score, features=(*_RIVAL, *score.features), direction=0)
