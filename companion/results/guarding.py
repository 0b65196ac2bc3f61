"""What a guard returns, decided from rows: invented and deleted words, WER, and texts by decision.

Rows have every sound decoded in every way (``companion.measurement.guard``); a policy picks among
them by the risks that ``spectral.Monitor`` would give, so that no sound is decoded again.
"""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from companion.guard import POLICIES, Attempt, Decision, Guarded, guarded
from companion.measurement.schemas import NONSPEECH
from companion.results.intervals import (
    NOTHING,
    Columns,
    Interval,
    as_table,
    mean_over,
    ratio_over,
)
from companion.results.tables import without_speakers
from companion.stress.outcomes import INVENTED, Kind
from spectral.monitor import CONFIDENCE, Score

FALLBACK = "transcribe's fallback"
DETECTOR = "silero-vad"
GUARD = "guard: "
"""Before the name of a policy."""


def risks(rows: pd.DataFrame, score: Score) -> tuple[np.ndarray, np.ndarray]:
    """The monitor's risk of every row, and what raises it most.

    NaN of a text without tokens, and of one of which less was measured than the score weighs.
    """
    risk, names = np.full(len(rows), math.nan), np.full(len(rows), CONFIDENCE, object)
    weighed = rows[[*score.weights]].astype(float)
    known = (rows.tokens > 0) & weighed.notna().all(axis=1)
    for i in np.flatnonzero(known):
        risk[i], parts = score.risk(weighed.iloc[i].to_dict())
        names[i] = max(parts, key=parts.__getitem__)
    return risk, names


def attempts(rows: pd.DataFrame, score: Score) -> dict[tuple[str, str], dict[str, Attempt]]:
    """By utterance and condition, and then by the way to decode."""
    decoded: dict[tuple[str, str], dict[str, Attempt]] = {}
    columns = (rows.utterance, rows.condition, rows.rule, rows.transcript, *risks(rows, score))
    for utterance, condition, way, text, risk, part in zip(*columns, strict=True):
        alarm, doubted = bool(risk >= score.threshold), bool(risk >= score.doubt)
        raised = None if math.isnan(risk) else part
        ways = decoded.setdefault((utterance, condition), {})
        ways[way] = Attempt(way, text, float(risk), alarm, doubted, raised)
    return decoded


def decisions(rows: pd.DataFrame, score: Score, default: str, policy: str) -> dict[
    tuple[str, str], Guarded
]:  # fmt: skip
    """What a guard makes of every sound, by utterance and condition."""
    return {
        sound: guarded(chosen[default], chosen.__getitem__, policy)
        for sound, chosen in attempts(rows, score).items()
    }


def returned(
    rows: pd.DataFrame,
    scores: dict[str, Score],
    default: str,
    policies: Iterable[str] = tuple(POLICIES),
) -> pd.DataFrame:
    """A row per sound and rule: every way that was decoded, and every guard and drop built on it.

    ``decision``: of a guard. Beside the guards, what drops by other means: openai-whisper's own
    thresholds on the default text without a second try, and, where rows say of ``speech_fraction``,
    sounds in which a detector of speech hears none.
    """
    tables = [rows.assign(decision="")]
    for model, chosen in rows.groupby("model", sort=False):
        first = chosen[chosen.rule == default]
        for policy in policies if model in scores else ():
            made = decisions(chosen, scores[str(model)], default, policy)
            tables.append(_guarded(chosen, made, f"{GUARD}{policy}"))
        bad = (first.compression_ratio > 2.4) | (first.average_log_probability < -1)
        tables.append(_dropping(first, bad.to_numpy(), FALLBACK))
        if "speech_fraction" in rows:
            tables.append(_dropping(first, (first.speech_fraction == 0).to_numpy(), DETECTOR))
    return pd.concat(tables, ignore_index=True)


def _guarded(chosen: pd.DataFrame, made: dict[tuple[str, str], Guarded], rule: str) -> pd.DataFrame:
    """The rows of the ways whose texts are returned, of dropped texts as of nothing written."""
    decided = pd.DataFrame(
        [
            {"utterance": utterance, "condition": condition, "decision": str(text.decision),
             "rule": text.attempts[-1 if text.decision is Decision.REPLACED else 0].way}
            for (utterance, condition), text in made.items()
        ]
    )  # fmt: skip
    rows = decided.merge(chosen.drop(columns="decision", errors="ignore"), validate="one_to_one")
    dropped = (rows.decision == Decision.DROPPED).to_numpy()
    return _emptied(rows.assign(rule=rule), dropped)


def _emptied(rows: pd.DataFrame, dropped: np.ndarray) -> pd.DataFrame:
    """Nothing in the place of the texts that are dropped."""
    rows = rows.copy()
    rows.loc[dropped, ["transcript", "kind"]] = ["", str(Kind.EMPTY)]
    rows.loc[dropped, ["tokens", "transcript_words", "invented"]] = 0
    rows.loc[dropped, "deleted"] = rows.reference_words[dropped]
    rows.loc[dropped, "wer"] = (rows.reference_words[dropped] > 0).astype("float32")
    return rows


def _dropping(first: pd.DataFrame, alarms: np.ndarray, rule: str) -> pd.DataFrame:
    decision = np.where(alarms, str(Decision.DROPPED), str(Decision.KEPT))
    return _emptied(first.assign(rule=rule, decision=decision), alarms)


def table(rows: pd.DataFrame, default: str) -> pd.DataFrame:
    """A row per model, rule and condition, with 95 % intervals over speakers; of ``returned`` rows.

    texts: sounds. ``invented``: % of texts that are inventions or loops; ``invented_per_minute``
    (F) and ``deleted_per_minute`` (D) words by minute of sound; ``wer`` in %.
    ``invented_change`` and ``wer_change``: differences from the ``default`` rule on the same
    sounds, in percentage points. ``alarms``: % of texts on which what drops or
    guards acts.
    ``invented_left``: % of the default rule's inventions and loops in whose place is one still.
    """
    keys = ["utterance", "condition"]
    rows = rows.assign(bad=rows.kind.isin([*INVENTED]).astype(float))
    made: list[Columns] = []
    for model, chosen in rows.groupby("model", sort=False):
        plain = chosen[chosen.rule == default].set_index(keys)[["bad", "wer"]].astype(float)
        for (rule, condition), part in chosen.groupby(["rule", "condition"], sort=False):
            before = plain.reindex(pd.MultiIndex.from_frame(part[keys]))
            row = {"model": model, "rule": rule, "condition": condition, "texts": len(part)}
            made.append(row | _numbers(part, before, spoken=condition != NONSPEECH))
    return without_speakers(as_table(made))


def _numbers(part: pd.DataFrame, before: pd.DataFrame, spoken: bool) -> dict[str, Interval]:
    """Of one rule's rows, and what the default rule made of the same sounds."""
    names = ["reference_words", "seconds", "wer", "bad", "invented", "deleted"]
    speakers, numbers = part.speaker, part[names].astype(float)
    words, minutes = numbers.reference_words, numbers.seconds / 60
    more_bad, more_errors = (numbers[name].to_numpy() - before[name] for name in ("bad", "wer"))
    rates = {
        "invented": mean_over(100 * numbers.bad, speakers, 100),
        "invented_change": mean_over(100 * more_bad, speakers),
        "invented_per_minute": ratio_over(numbers.invented, minutes, speakers),
        "deleted_per_minute": ratio_over(numbers.deleted, minutes, speakers),
        **dict.fromkeys(("wer", "wer_change", "alarms", "invented_left"), NOTHING),
    }
    if (part.decision != "").all():
        rates["alarms"] = mean_over(100 * (part.decision != Decision.KEPT), speakers, 100)
    if before.bad.any():
        left = (100 * numbers.bad).where(before.bad.to_numpy() > 0)
        rates["invented_left"] = mean_over(left, speakers, 100)
    if spoken:
        rates["wer"] = ratio_over(100 * numbers.wer * words, words, speakers)
        rates["wer_change"] = ratio_over(100 * more_errors.to_numpy() * words, words, speakers)
    return rates
