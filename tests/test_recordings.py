"""Everyday changes of recordings, conditions in turn, heads of attention, and early warnings."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from companion.contest.contest import honest_inventions, texts
from companion.contest.contestants import CHOSEN, Logistic, monitor
from companion.contest.leads import leads, step_values, weighed
from companion.contest.propagators import jacobian_scores
from companion.contest.speech_activity import sound
from companion.measurement.contest import all_conditions, head_columns
from companion.measurement.schemas import CONTEST, JACOBIANS, SPECTRA
from companion.measurement.settings import Settings
from companion.measurement.spectra import decode_heard
from companion.measurement.store import read
from companion.models.capture import HIDDEN_STATE
from companion.models.decoding import hear
from companion.models.loading import load
from companion.models.rules import UNRESTRICTED
from companion.speech.corpus import SAMPLE_RATE, find_utterances, read_wave
from companion.stress.conditions import EVERYDAY, condition, in_turn
from companion.stress.mixture import Mixture, Speakers, rms
from spectral.jacobians.layers import run
from spectral.monitor import THRESHOLDS, Score
from spectral.whisper import as_layer

DATA = Path(__file__).parents[1] / "data"
UTTERANCES = find_utterances(DATA / "corpus").utterances
CLEAN = Mixture.of(UTTERANCES[0], read_wave(UTTERANCES[0]))
SPEAKERS = Speakers(UTTERANCES)


def test_everyday_changes_do_what_they_say() -> None:
    quiet, clipped, telephone = (
        EVERYDAY[name].apply(CLEAN, SPEAKERS, 0) for name in ("quiet", "clipped", "telephone")
    )
    assert 20 * math.log10(rms(quiet.wave) / rms(CLEAN.wave)) == pytest.approx(-50, abs=1e-4)
    assert np.abs(clipped.wave).max() == pytest.approx(0.1 * np.abs(CLEAN.wave).max())
    unclipped = np.abs(CLEAN.wave) < 0.1 * np.abs(CLEAN.wave).max()
    np.testing.assert_array_equal(clipped.wave[unclipped], CLEAN.wave[unclipped])
    assert telephone.wave.size == CLEAN.wave.size
    power = np.abs(np.fft.rfft(telephone.wave)) ** 2
    hertz = np.fft.rfftfreq(telephone.wave.size, 1 / SAMPLE_RATE)
    outside = power[(hertz < 150) | (hertz > 4000)].sum() / power.sum()
    assert outside < 1e-3
    assert {mixture.references for mixture in (quiet, clipped, telephone)} == {CLEAN.references}


def test_conditions_in_turn_are_each_drawn_and_always_the_same() -> None:
    names = "quiet|clipped|telephone"
    drawn = [in_turn(names, f"{i}", 0) for i in range(60)]
    assert set(drawn) == set(names.split("|")) == {condition(name).name for name in EVERYDAY}
    assert drawn == [in_turn(names, f"{i}", 0) for i in range(60)]
    assert in_turn("noise", "1", 0) == "noise"
    with pytest.raises(ValueError, match="no condition 'loud'"):
        Settings("xs-0", DATA, DATA, DATA, ("clean", "quiet|loud"), "openai", 0, 1, "cpu", 1)


def test_room_tone_and_repetitions_come_in_turn() -> None:
    mixtures = [Mixture.of(utterance, read_wave(utterance)) for utterance in UTTERANCES[:12]]
    window = 6 * SAMPLE_RATE
    settings = SimpleNamespace(seed=0, room_tone=(5.0, 7.0), repeats=32, windows=2)
    by_condition = dict(all_conditions(window, {"clean": mixtures}, settings))  # type: ignore[arg-type]
    assert {mixture.wave.size / SAMPLE_RATE for mixture in by_condition["room-tone"]} == {5.0, 7.0}
    sizes = [mixture.wave.size for mixture in by_condition["repeated"]]
    assert window < max(sizes) <= 2 * window
    for mixture in by_condition["repeated"]:
        times = mixture.wave.size / read_wave(mixture.target).size
        assert times == round(times) > 1
        assert len(mixture.target.reference.split()) % times == 0


@torch.inference_mode()
def test_heads_are_those_of_the_layers_own_pass() -> None:
    model = load("xs-0", DATA / "ladder", torch.device("cpu"))
    long = replace(CLEAN, wave=np.tile(CLEAN.wave, 3))
    mixtures = [CLEAN, long]
    heard = hear(model, [mixture.wave for mixture in mixtures])
    decoded = decode_heard(model, mixtures, heard, UNRESTRICTED)
    record, written = decoded.recording, decoded.transcripts
    rows = {kind: record.text_rows(kind, written)[0] for kind in ("ffn", "cross_attention")}
    states = record.text_rows(HIDDEN_STATE, written)[0]
    before = states - rows["ffn"] - rows["cross_attention"]
    samples = [mixture.wave.size for mixture in mixtures]
    entropies, fractions = zip(*head_columns(model, before, written, heard, samples), strict=True)
    for i, text in enumerate(written):
        shape = (len(model.layers), model.heads, len(text.tokens))
        assert entropies[i].shape == fractions[i].shape == shape
    assert heard.windows == (1, 2)
    layers = [as_layer(layer.layer) for layer in model.layers]
    hidden = before[0, 1, : len(written[0].tokens)]
    again = run(replace(layers[1], self_attention=_silent(layers[1])), hidden, heard.context[0])
    assert again.cross_attended is not None
    weights = again.cross_attended.weights
    expected = -(weights * weights.log()).sum(-1)
    torch.testing.assert_close(entropies[0][1], expected, atol=1e-4, rtol=1e-4)
    real = math.ceil(samples[0] / model.window_samples * weights.shape[-1])
    torch.testing.assert_close(fractions[0][1], weights[..., :real].sum(-1), atol=1e-5, rtol=1e-4)


def _silent(layer):  # type: ignore[no-untyped-def]
    part = layer.self_attention
    return replace(part, out_weight=0 * part.out_weight, out_bias=0 * part.out_bias)


def planted(speakers: int, seed: int, prefix: str = "") -> pd.DataFrame:
    """Texts of twelve tokens; invented ones go wrong at the sixth, and lose rank at the fifth."""
    rng = np.random.default_rng(seed)
    like = read([DATA / "smoke" / "recordings" / "xs-0.parquet"], CONTEST)
    like = like[like.prefix == 0].iloc[0].to_dict()
    rows = []
    for i in range(speakers):
        for invented in (False, True):
            ranks = 4 + 0.1 * rng.normal(size=12)
            ranks[4:] -= 3.0 * invented
            rows.append(
                like
                | {"utterance": f"{i}{invented}", "speaker": f"{prefix}{i}", "tokens": 12,
                   "kind": "invention" if invented else "correct",
                   "first_wrong": 5.0 if invented else None, "forbidden_first": 0.01,
                   "entropy": rng.normal(1, 0.1), "step_entropy": rng.normal(1, 0.1, size=12),
                   "step_n_eff": ranks, "cross_attention_window_n_eff": ranks.mean()}
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_a_planted_warning_comes_as_early_as_it_is() -> None:
    table = leads(planted(10, 0), planted(10, 1, "other "), 8).set_index("contestant")
    rank = table.loc["cross-attention: N_eff, sliding"]
    assert (rank.invented, rank.others, rank.begun_wrong) == (10, 10, 0)
    assert (rank.alarmed, rank.in_time, rank.lead) == (100, 100, 1)
    assert table.loc["entropy of tokens"].alarmed < 50
    again = leads(planted(10, 0), planted(10, 0), 8).set_index("contestant")  # by folds
    assert again.loc["spectral.Monitor"].alarmed == 100


def test_steps_are_what_the_monitor_weighs() -> None:
    row = planted(1, 0).iloc[1]
    values = step_values(row, 3)
    assert values.shape == (12, len(CHOSEN))
    np.testing.assert_allclose(values[:, 0], -2)
    np.testing.assert_allclose(values[7, 1], np.mean(row.step_entropy[5:8]))
    np.testing.assert_allclose(values[1, 1], np.mean(row.step_entropy[:2]))
    np.testing.assert_array_equal(values[:, 2], row.step_n_eff)
    np.testing.assert_allclose(step_values(row, None)[-1, 1:], [
        np.mean(row.step_entropy), np.mean(row.step_n_eff)
    ])  # fmt: skip
    score = Score.read(THRESHOLDS, "tiny.en")
    model = weighed(score)
    assert isinstance(model, Logistic)
    odds = score.bias + sum(
        score.weights[name] * (value - score.means[name])
        for name, value in zip(CHOSEN, values[7], strict=True)
    )
    assert model.log_odds(values)[7] == pytest.approx(odds)


def test_honest_inventions_are_counted_with_and_without_any() -> None:
    texts = planted(6, 0)
    rows = pd.concat([texts.assign(condition="quiet"), texts[::2].assign(condition="room-tone")])
    table = honest_inventions(rows.reset_index(drop=True)).set_index("condition")
    assert table.loc["quiet", "invented"] == 50
    assert table.loc["room-tone", "invented"] == 0 < table.loc["room-tone", "invented_high"]
    assert table.loc["everyday changes", "texts"] == 18


def test_a_sound_is_made_again_sample_for_sample() -> None:
    path = DATA / "smoke" / "recordings" / "xs-0.parquet"
    rows = read([path], CONTEST)
    row = rows[rows.condition == "telephone"].iloc[0]
    made = sound(path, DATA / "corpus", row.utterance, "telephone")
    utterance = next(known for known in UTTERANCES if known.id == row.utterance)
    expected = EVERYDAY["telephone"].apply(Mixture.of(utterance, read_wave(utterance)), SPEAKERS, 0)
    np.testing.assert_array_equal(made.wave, expected.wave)
    with pytest.raises(ValueError, match="no 'quieter' of"):
        sound(path, DATA / "corpus", row.utterance, "quieter")


def test_jacobians_of_invented_texts_are_ranked() -> None:
    jacobians, measured = (
        read([DATA / "smoke" / kind / "xs-0.parquet"], schema)
        for kind, schema in (("jacobians", JACOBIANS), ("measure", SPECTRA))
    )
    right = measured.condition == "clean"
    written = measured.reference.where(right, "nobody ever wrote it down")
    scores = jacobian_scores(jacobians, measured.assign(transcript=written)).set_index("score")
    assert scores.auroc.between(0, 1).all()
    assert scores.loc["gain", "invented"] == scores.loc["gain", "others"] == 8


def test_the_monitor_is_fitted_on_other_speakers_than_it_is_scored_on() -> None:
    fit, scored = (
        {name.split("-")[0] for name in (DATA / "published" / f"{at}.txt").read_text().split()[1:]}
        for at in ("librispeech-dev", "librispeech")
    )
    assert not fit & scored
    recordings = (DATA / "published" / "recordings.txt").read_text().split()[1:]
    assert set(recordings) <= set((DATA / "published" / "librispeech.txt").read_text().split())
    whole = texts(read([DATA / "smoke" / "contest" / "xs-0.parquet"], CONTEST))
    assert monitor().values(whole).shape[1] == 3
