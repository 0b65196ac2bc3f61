"""Who contends: every score's features, and the rules that come with their own threshold."""

from collections.abc import Callable
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


@dataclass(frozen=True)
class Contestant:
    """A score: the columns that a logistic regression is given, by family.

    values: of rows, (texts, features). ``rule``: whether it alarms by its own defaults, (texts,),
    for those that have some. direction: 1 where large values are known to be bad, -1 where small
    ones are, 0 where the fit has to find it out. later: a column that older rows lack.
    """

    name: str
    family: str
    values: Callable[[pd.DataFrame], np.ndarray]
    rule: Callable[[pd.DataFrame], np.ndarray] | None = None
    direction: int = 0
    later: str | None = None

    def measured(self, rows: pd.DataFrame) -> np.ndarray:
        """Which texts have the score at all, were it NaN: (texts,)."""
        if self.later is None:
            return np.ones(len(rows), bool)
        return rows[self.later].notna().to_numpy()


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


def contestants(rows: pd.DataFrame) -> list[Contestant]:
    """All that can be fitted on these rows; the readings of a beginning are of its tokens alone.

    A detector of speech is one where the rows have its columns (``contest.speech_activity``), and
    so are the heads of attention.
    """
    scores = [
        Contestant(
            "log-probability", "built in", lambda r: _matrix(log_probability(r)),
            lambda r: (log_probability(r) < -1).to_numpy(), -1,
        ),
        _column("compression ratio", "built in", "compression_ratio", 1, lambda x: x > 2.4),
        _column("no-speech probability", "built in", "no_speech_probability", 1, lambda x: x > 0.6),
        _rule("transcribe's fallback", falls_back),
        _rule("transcribe's silence", is_silent),
        Contestant(
            "whisper.cpp's entropy", "built in", lambda r: _matrix(-r.token_entropy),
            lambda r: ((_count(r) > _ENTROPY_TOKENS) & (r.token_entropy < 2.4)).to_numpy(), 1,
        ),
        _column("forbidden mass, first step", "confidence", "forbidden_first", 1),
        _column("forbidden mass, mean", "confidence", "forbidden_mean", 1),
        _column("entropy of tokens", "confidence", "entropy", 1),
        _column("least log-probability", "confidence", "least_log_probability", -1),
        Contestant(
            "characters per second", "text", lambda r: _matrix(r.characters / r.seconds)
        ),
        Contestant("tokens", "text", lambda r: _matrix(_log_length(r))),
        _column("level", "sound", "level_db"),
        _column("range of levels", "sound", "level_range_db", -1),
    ]  # fmt: skip
    if "speech_fraction" in rows:
        scores.append(_column("silero-vad, fraction of speech", "sound", "speech_fraction", -1))
        scores.append(_column("silero-vad, mean", "sound", "speech_mean", -1))
    for part in COMPONENTS:
        title = part.replace("_", "-")
        for name, column in (
            ("N_eff", "n_eff"), ("alpha", "alpha"), ("Kf", "log10_kf_resolved"),
            ("size", "log10_variance"), ("N_eff, sliding", "window_n_eff"),
            ("size, sliding", "window_log10_size"),
        ):  # fmt: skip
            claimed = 1 if column == "alpha" else 0  # a high slope goes with failures
            scores.append(_column(f"{title}: {name}", "spectral", f"{part}_{column}", claimed))
    if rows[HEADS[0]].notna().any():
        scores += [_heads(title, (column,)) for title, column in zip(_TITLES, HEADS, strict=True)]
        scores.append(_heads("heads: all", HEADS))
    return [
        *scores,
        Contestant("LapEigvals", "attention", lambda r: np.stack(r.laplacian.to_list())),
        Contestant("linear probe", "probe", lambda r: np.stack(r.state.to_list())),
        _columns("all spectra, sliding", "fusion", SPECTRA),
        _columns("all confidences", "fusion", CONFIDENCES),
        _columns("confidences and spectra", "fusion", FEATURES),
        monitor(),
    ]


def monitor() -> Contestant:
    """The score of ``spectral.Monitor``."""
    return _columns("spectral.Monitor", "fusion", CHOSEN)


def with_rival(score: Contestant) -> Contestant:
    """A score together with log-probability and length."""
    return replace(
        score,
        values=lambda rows: np.column_stack([rival().values(rows), score.values(rows)]),
        direction=0,
    )


def rival() -> Contestant:
    """Log-probability and length: what everybody has."""
    return Contestant(
        "log-probability and length", "fusion",
        lambda rows: np.column_stack([log_probability(rows), _log_length(rows)]),
    )  # fmt: skip


def _rule(name: str, alarms: Callable[[pd.DataFrame], pd.Series]) -> Contestant:
    """A rule by itself, which has no score but whether it alarms."""
    return Contestant(
        name,
        "built in",
        lambda rows: _matrix(alarms(rows)),
        lambda rows: alarms(rows).to_numpy(),
        1,
    )


def _column(
    name: str,
    family: str,
    column: str,
    direction: int = 0,
    default: Callable[[pd.Series], pd.Series] | None = None,
) -> Contestant:
    rule = None if default is None else lambda rows: default(rows[column]).to_numpy()
    return Contestant(name, family, lambda rows: _values(rows, column)[:, None], rule, direction)


def _columns(name: str, family: str, columns: tuple[str, ...]) -> Contestant:
    return Contestant(
        name, family, lambda rows: np.column_stack([_values(rows, column) for column in columns])
    )


def _values(rows: pd.DataFrame, column: str) -> np.ndarray:
    values = rows[column].to_numpy(float)
    if column.startswith("forbidden") or column == "no_speech_probability":
        return in_decades(values)
    return values


def in_decades(probabilities: np.ndarray) -> np.ndarray:
    """log10 of probabilities, as the monitor takes it."""
    return np.asarray(np.log10(np.maximum(probabilities, _LEAST_PROBABILITY)))


def _matrix(column: pd.Series) -> np.ndarray:
    return np.asarray(column.to_numpy(float)[:, None])


def _count(rows: pd.DataFrame) -> pd.Series:
    """The number of tokens, of a text or of its beginning."""
    return rows.tokens.where(rows.prefix == WHOLE, rows.prefix)


def _log_length(rows: pd.DataFrame) -> pd.Series:
    """Of the number of tokens, at least one."""
    return np.log(_count(rows).clip(lower=1))


def _heads(name: str, columns: tuple[str, ...]) -> Contestant:
    """Of every head; NaN in rows from before heads were measured."""
    return Contestant(
        name, "attention",
        lambda rows: np.column_stack([_stacked(rows[column]) for column in columns]),
        later=columns[0],
    )  # fmt: skip


def _stacked(lists: pd.Series) -> np.ndarray:
    """Lists of one length as rows, NaN for a missing one."""
    there = lists.notna()
    width = len(lists[there].iloc[0]) if there.any() else 1
    missing = np.full(width, np.nan)
    return np.stack([row if known else missing for row, known in zip(lists, there, strict=True)])
