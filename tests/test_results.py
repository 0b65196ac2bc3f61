"""Statistics, tables and figures, from rows whose effects are planted."""

import json
from pathlib import Path

import jiwer
import numpy as np
import pandas as pd
import pytest
import torch
from planted import spectra_row

from companion.results.effects import MATCHED, RAW, effects, layer_means, sides
from companion.results.tables import save_table, speakers_path, with_interval, with_speakers
from companion.results.tails import spectrum_summary
from companion.results.transcripts import (
    PER_WORD_PIECE,
    by_novelty,
    outcome_confidence,
    outcome_fractions,
    training_records,
    wers,
    with_confidence,
)
from companion.speech.text import normalise
from spectral import effective_rank, eigenvalues, kirchhoff_index, spectral_slope


def gaussian_rows(tokens: dict[str, int], gain: float = 1.0, utterances: int = 12) -> pd.DataFrame:
    """Rows of a model whose activations are Gaussian, T tokens long, lambda_i ~ 1 / i.

    In Hell they are multiplied by ``gain``; nothing but that and the length differs.
    """
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, 97, dtype=torch.float64) ** -0.5
    rows = []
    for i in range(utterances):
        drawn = {
            side: torch.randn(length, 96, generator=generator, dtype=torch.float64) * scale
            for side, length in tokens.items()
        }
        for side, length in tokens.items():
            other = next(name for name in tokens if name != side)
            for partner, kept in (("", length), (other, min(tokens.values()))):
                factor = gain if side == "hell" else 1.0
                spectrum = eigenvalues(factor * drawn[side][:kept])
                rows.append(
                    spectra_row(
                        utterance=f"{i}", speaker=f"{i % 4}", condition=side, matched_with=partner,
                        tokens=kept, n_eff=effective_rank(spectrum, 50).item(),
                        alpha=spectral_slope(spectrum, 1, 10).item(), attention_kirchhoff=1.0,
                        kirchhoff=kirchhoff_index(spectrum, 50, 1e-6).item(),
                        kirchhoff_resolved=kirchhoff_index(spectrum, kept - 1, 1e-6).item(),
                        eigenvalues=spectrum[:50].tolist(),
                    )
                )  # fmt: skip
    return pd.DataFrame(rows)


def effect(rows: pd.DataFrame, length: str) -> pd.Series:
    table = effects(rows, "hell")
    return table[table.length == length].iloc[0]


def test_a_pure_length_drop_is_seen_raw_and_gone_when_matched() -> None:
    rows = gaussian_rows({"clean": 60, "hell": 44})
    raw, matched = effect(rows, RAW), effect(rows, MATCHED)
    assert raw.delta_n_eff_high < 0
    assert raw.delta_log10_kf_low > 3
    assert matched.delta_n_eff_low < 0 < matched.delta_n_eff_high
    assert abs(matched.delta_log10_kf) < 0.2
    assert (raw.tokens_clean, raw.tokens_stressed) == (60, 44)
    assert (matched.tokens_clean, matched.tokens_stressed) == (44, 44)


def test_a_change_of_scale_moves_the_kirchhoff_index_alone() -> None:
    quiet, loud = (
        effect(gaussian_rows({"clean": 60, "hell": 60}, gain), RAW) for gain in (1.0, 10.0)
    )
    assert loud.delta_n_eff == pytest.approx(quiet.delta_n_eff)
    assert loud.delta_alpha == pytest.approx(quiet.delta_alpha)
    assert loud.delta_log10_kf == pytest.approx(quiet.delta_log10_kf - 2, abs=0.01)


def test_a_slope_missing_in_one_layer_is_missing_for_the_pair() -> None:
    rows = gaussian_rows({"clean": 60, "hell": 60}, utterances=4)
    second = rows.assign(layer=2)
    second.loc[(second.utterance == "1") & (second.condition == "clean"), "alpha"] = np.nan
    both = pd.concat([rows, second])
    averages = layer_means(both, "hell").set_index(["utterance", "length"])
    assert np.isnan(averages.alpha_clean["1", RAW])
    assert np.isfinite(averages.n_eff_clean["1", RAW])
    row = effect(both, RAW)
    assert (row.delta_alpha_n, row.delta_n_eff_n) == (3, 4)
    assert (sides(both, "hell").n == 3).all()


def test_an_infinite_graph_index_is_left_out_and_counted() -> None:
    rows = gaussian_rows({"clean": 60, "hell": 60}, utterances=4)
    rows.loc[rows.utterance == "2", "attention_kirchhoff"] = np.inf
    assert effect(rows, RAW).delta_log10_attention_kf_n == 3


def scored(references: list[str], transcripts: list[str], condition: str = "clean") -> pd.DataFrame:
    errors = [
        jiwer.wer(normalise(r), normalise(t)) for r, t in zip(references, transcripts, strict=True)
    ]
    table = pd.DataFrame(
        {
            "model": "m", "parameters": 1, "condition": condition, "utterance": ["1", "2", "3"],
            "speaker": ["a", "a", "b"], "reference": references, "transcript": transcripts,
            "wer": errors, "candidate": [error > 0.5 for error in errors],
            "outcome": ["correct", "invention", "invention"], "tokens": 4, "windows": 1,
            "average_log_probability": -1.0, "text_log_probability": -1.0,
        }
    )  # fmt: skip
    return with_confidence(table)


def test_word_error_is_that_of_the_whole_corpus_and_not_a_mean_of_utterances() -> None:
    references = ["the fox sat", "a", "one two three four five six"]
    transcripts = ["the fox", "no such thing", "one two three four five six"]
    table = wers(scored(references, transcripts))
    whole = jiwer.wer([normalise(r) for r in references], [normalise(t) for t in transcripts])
    assert table.wer.iloc[0] == pytest.approx(100 * whole)
    assert table.candidates.iloc[0] == pytest.approx(100 / 3)


def test_fractions_of_outcomes_add_up() -> None:
    fractions = outcome_fractions(scored(["a", "b", "c"], ["a", "x", "y"]))
    assert fractions[["correct", "invention"]].to_numpy().ravel() == pytest.approx(
        [100 / 3, 200 / 3]
    )


def test_each_kind_of_transcript_has_its_fraction_and_how_often_whisper_keeps_it() -> None:
    rows = scored(["a", "b", "c"], ["a", "x", "y"]).assign(**{PER_WORD_PIECE: [-1.0, -1.01, -0.2]})
    table = outcome_confidence(rows).set_index("outcome")
    assert table.fraction.sum() == pytest.approx(100)
    assert table.loc["invention", ["n", "fraction", "passing"]].to_list() == pytest.approx(
        [2, 200 / 3, 50]
    )
    assert table.loc["correct", "passing"] == 100
    assert table.loc["loop", ["n", "fraction"]].to_list() == [0, 0]
    assert np.isnan(table.loc["loop", "passing"])
    characters = rows.assign(**{PER_WORD_PIECE: np.nan})
    assert outcome_confidence(characters).passing.isna().all()


def test_an_utterance_that_the_corpus_table_lacks_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"utterances\.csv: no row for 1, 2, 3"):
        by_novelty(scored(["a", "b", "c"], ["a", "b", "c"]), Path("data/corpus/utterances.csv"))


def test_training_records_run_on_from_stage_to_stage(tmp_path: Path) -> None:
    rows = [("words", 200), ("words", 400), ("sentences", 200)]
    record = [
        {"stage": stage, "step": step, "loss": 1.0, "word_error": 1.0} for stage, step in rows
    ]
    (tmp_path / "training.json").write_text(json.dumps({"parameters": 5, "record": record}))
    assert list(training_records([tmp_path]).total_step) == [200, 400, 600]


def test_median_spectra_fall_and_stop_where_a_quarter_is_not_resolved() -> None:
    rows = gaussian_rows({"clean": 30, "hell": 60})
    summary = spectrum_summary(rows, "hell")
    for _, side in summary.groupby("condition"):
        assert (np.diff(side["median"]) <= 0).all()
        assert side["mode"].max() == 29  # 30 matched tokens, less one for the mean


def test_a_table_shows_missing_intervals_as_such(tmp_path: Path) -> None:
    bounds = {"x_low": [1.0, np.nan, np.nan], "x_high": [2.0, np.nan, np.nan]}
    table = pd.DataFrame({"x": [1.234, np.nan, 3.0], **bounds})
    assert with_interval(table, "x", 2, sign=True) == ["+1.23 [+1.00, +2.00]", "n/a", "+3.00"]
    save_table(table, table.round(1), tmp_path, "t")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.md"]
    assert np.allclose(pd.read_csv(tmp_path / "t.csv"), table, equal_nan=True)


def test_a_table_none_of_whose_numbers_has_speakers_is_read_again(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [1.0], "x_speakers": [None]})
    save_table(table, table, tmp_path, "t")
    plain = pd.read_csv(tmp_path / "t.csv")
    assert list(with_speakers(plain, speakers_path(tmp_path / "t.csv"))) == ["x"]
