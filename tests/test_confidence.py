"""Confidence per word piece and per character, and whether it separates inventions."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from companion.results.transcripts import (
    CONFIDENCES,
    PER_CHARACTER,
    PER_WORD_PIECE,
    outcome_confidence,
    separation,
    transcript_values,
    wers,
    with_confidence,
    writes_characters,
)
from companion.stress.scoring import Outcome

TEXT = "the river bends below"
PIECES = 5
TOTAL = -11.0
"""Log-probability of every transcript, that of the end too."""


def _transcripts(model: str, tokens: int, count: int = 8) -> pd.DataFrame:
    """Equal transcripts of ``TEXT``."""
    average = TOTAL / (tokens + 1)
    return with_confidence(
        pd.DataFrame(
            {
                "model": model, "parameters": 1, "condition": "hell", "transcript": TEXT,
                "utterance": [f"u{i}" for i in range(count)], "reference": "a b", "tokens": tokens,
                "speaker": [f"s{i % 4}" for i in range(count)], "outcome": str(Outcome.INVENTION),
                "wer": 1.0, "candidate": True, "average_log_probability": average,
                "text_log_probability": average, "windows": 1,
            }
        )
    )  # fmt: skip


OF_CHARACTERS = _transcripts("xs-0", len(TEXT))
OF_PIECES = _transcripts("tiny.en", PIECES)
BOTH = pd.concat([OF_CHARACTERS, OF_PIECES], ignore_index=True)


def test_the_same_text_is_as_probable_in_characters_as_in_word_pieces() -> None:
    """Only the average per character can be compared between models of both kinds."""
    written = writes_characters(BOTH).groupby(BOTH.model).first()
    assert written.to_dict() == {"tiny.en": False, "xs-0": True}
    np.testing.assert_allclose(BOTH[PER_CHARACTER], TOTAL / (len(TEXT) + 1))
    assert OF_CHARACTERS[PER_WORD_PIECE].isna().all()
    np.testing.assert_allclose(OF_PIECES[PER_WORD_PIECE], TOTAL / (PIECES + 1))


def test_every_window_has_an_end_of_its_own() -> None:
    double = with_confidence(OF_PIECES.assign(windows=2))
    total = OF_PIECES[PER_WORD_PIECE] * (PIECES + 2)
    np.testing.assert_allclose(double[PER_CHARACTER], total / (len(TEXT) + 2))


def test_a_threshold_of_word_pieces_is_not_put_to_characters() -> None:
    """-0.5 a character is -1.8 a word piece: as sure of the text, and kept by no threshold."""
    kept = outcome_confidence(BOTH)
    inventions = kept[kept.outcome == Outcome.INVENTION].set_index("model").passing
    assert inventions["tiny.en"] == 0
    assert np.isnan(inventions["xs-0"])
    means = wers(OF_PIECES).iloc[0]
    assert means[PER_CHARACTER] == pytest.approx(-0.5)
    assert means[PER_WORD_PIECE] == pytest.approx(-11 / 6)


def test_a_transcript_has_the_log_probability_of_its_own_tokens() -> None:
    rows = BOTH.assign(matched_with="", compression_ratio=1.0, no_speech_probability=0.0)
    values = transcript_values(rows.assign(finished=True))
    counts = values.groupby("model")[list(CONFIDENCES)].count()
    assert counts.loc["xs-0"].to_dict() == {PER_WORD_PIECE: 0, PER_CHARACTER: 8}
    assert counts.loc["tiny.en"].to_dict() == {PER_WORD_PIECE: 8, PER_CHARACTER: 0}


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("tokens", [len(TEXT), PIECES])
def test_a_planted_separation_is_found_in_either_unit(shift: float, tokens: int) -> None:
    rng = np.random.default_rng(0)
    table = _transcripts("m-0", tokens, count=400)
    right = np.arange(400) % 3 == 0
    log_probability = -3 + rng.normal(size=400) + shift * right
    kinds = np.where(right, str(Outcome.CORRECT), str(Outcome.INVENTION))
    table = with_confidence(table.assign(average_log_probability=log_probability, outcome=kinds))
    loops = table.assign(outcome=str(Outcome.LOOP), average_log_probability=5.0)
    row = separation(pd.concat([table, with_confidence(loops)], ignore_index=True)).iloc[0]
    assert (row.inventions, row.right) == ((~right).sum(), right.sum())
    expected = stats.norm.cdf(shift / np.sqrt(2))
    name = f"auc_{PER_WORD_PIECE if tokens == PIECES else PER_CHARACTER}"
    assert row[name] == pytest.approx(expected, abs=0.04)
    assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert np.isnan(row[f"auc_{PER_WORD_PIECE}"]) == (tokens != PIECES)


def test_without_an_invention_nothing_is_separated() -> None:
    table = OF_PIECES.assign(outcome=str(Outcome.CORRECT))
    assert np.isnan(separation(table)[f"auc_{PER_WORD_PIECE}"].iloc[0])
