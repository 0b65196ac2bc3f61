"""Distances and linear probes with planted transcripts; measured dynamics against loops by
hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.measurement import dynamics
from companion.measurement.dynamics import (
    centre,
    linear_probe,
    majority,
    partners,
    ranks_without,
    relative_distances,
)
from companion.measurement.kinds import KINDS
from companion.measurement.run import batches, stressed
from companion.measurement.schemas import DYNAMICS
from companion.measurement.settings import DynamicsSettings
from companion.measurement.store import read
from companion.models.capture import HIDDEN_STATE, capture
from companion.models.decoding import transcribe
from companion.models.forcing import STRIDE, states
from companion.models.rules import UNRESTRICTED
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances
from companion.stress.mixture import Speakers
from spectral.spectra import effective_rank, eigenvalues

SEED = 3


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def _rms(first: torch.Tensor, second: torch.Tensor) -> float:
    return relative_distances(first, second).square().mean().sqrt().item()


def test_states_that_approach_a_common_path_grow_alike_by_the_planted_factor() -> None:
    """h_l = path + factor^l x: with a path far larger than x, each layer's distance is a factor."""
    path, factor = 1e4 * _random(9, 6), 0.7
    first, second = _random(2, 9, 6, seed=1)
    layers = [factor**i for i in range(4)]
    pair = [torch.stack([path + scale * x for scale in layers]) for x in (first, second)]
    per_layer = relative_distances(*pair).square().mean(-1).sqrt()
    np.testing.assert_allclose(per_layer[1:] / per_layer[:-1], factor, rtol=1e-3)


def test_a_common_offset_fakes_convergence_only_before_centring() -> None:
    paths = list(_random(6, 1, 500, 8))
    moved = [path + 10 for path in paths]
    raw, faked = (_rms(*pair[:2]) for pair in (paths, moved))
    assert raw == pytest.approx(2**0.5, rel=0.05)
    assert faked < 0.2
    centred = _rms(*centre(moved)[:2])
    assert centred == pytest.approx(raw, rel=0.02)


@given(st.floats(1e-6, 1e6), st.integers(0, 99))
def test_neither_scale_nor_rotation_changes_a_distance(scale: float, seed: int) -> None:
    first, second = _random(2, 5, 4, seed=seed)
    rotation = torch.linalg.qr(_random(4, 4, seed=seed + 1)).Q
    moved = relative_distances(scale * first @ rotation, scale * second @ rotation)
    np.testing.assert_allclose(moved, relative_distances(first, second), rtol=1e-9)


def test_distances_of_equal_opposite_and_zero_states() -> None:
    states = _random(5, 4)
    assert relative_distances(states, states).max() == 0
    assert _rms(states, -states) == pytest.approx(2)
    assert relative_distances(0 * states, 0 * states).max() == 0


def test_distances_of_other_lengths_or_nan_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(2, 2\): cut both"):
        relative_distances(torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="second must be finite"):
        relative_distances(torch.zeros(2, 2), torch.full((2, 2), torch.nan))


def test_a_planted_linear_readout_is_found_and_noise_stays_at_chance() -> None:
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 5, 2000))
    folds = torch.arange(2000) % 4
    noise = _random(2000, 12)
    planted = noise + 4 * _random(5, 12, seed=7)[labels]
    assert (linear_probe(planted, labels, folds) == labels).double().mean() > 0.95
    # 4 standard errors of a fraction of one in five
    accuracy = (linear_probe(noise, labels, folds) == labels).double().mean()
    assert abs(accuracy - 0.2) < 4 * (0.2 * 0.8 / 2000) ** 0.5


def test_a_readout_sees_nothing_of_the_fold_that_it_is_tested_on() -> None:
    """Each fold's labels follow a rule of their own, so another fold's linear probe fails on it."""
    features = _random(400, 3)
    folds = torch.arange(400) % 2
    sign = (features[:, 0] > 0).long()
    labels = torch.where(folds == 0, sign, 1 - sign)
    assert (linear_probe(features, labels, folds) == labels).double().mean() < 0.1


def test_scales_and_constant_features_do_not_matter_to_a_readout() -> None:
    labels, folds = torch.arange(60) % 3, torch.arange(60) // 20
    features = _random(60, 4) + 2 * torch.nn.functional.one_hot(labels, 4)
    other = torch.cat([1e3 * features, torch.ones(60, 1)], 1)
    assert torch.equal(linear_probe(features, labels, folds), linear_probe(other, labels, folds))


def test_the_majority_is_that_of_the_other_folds_and_one_fold_is_refused() -> None:
    labels, folds = torch.tensor([4, 4, 4, 2, 2, 4]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert majority(labels, folds).tolist() == [2, 2, 2, 4, 4, 4]
    with pytest.raises(ValueError, match="fewer than 2 unique groups"):
        majority(labels, torch.zeros(6, dtype=torch.long))


LACKS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError("numpy"),
]


@pytest.mark.parametrize("error", LACKS)
def test_half_of_the_utterances_are_never_measured_for_want_of_memory(
    error: Exception, settings: DynamicsSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def states(*_: object) -> None:
        raise error

    monkeypatch.setattr(dynamics, "states", states)
    with pytest.raises(ValueError, match="not enough memory for the states of 14 utterances"):
        KINDS["dynamics"].measure(replace(settings, output=tmp_path / "rows.parquet"))


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=12), st.integers(0, 5))
def test_partners_are_of_other_speakers_and_each_is_taken_once(
    speakers: list[str], seed: int
) -> None:
    partner = partners(speakers, seed)
    if 2 * max(speakers.count(speaker) for speaker in speakers) > len(speakers):
        assert partner == ()
    else:
        assert sorted(partner) == list(range(len(speakers)))
        assert all(speakers[i] != speakers[partner[i]] for i in range(len(speakers)))


def test_ranks_without_a_speaker_are_those_of_the_other_rows() -> None:
    rows, speakers = _random(2, 6, 5), ["a", "a", "b", "b", "c", "c"]
    for i, full, without in ranks_without(rows, speakers):
        kept = [j for j, speaker in enumerate(speakers) if speaker != speakers[i]]
        for layer in range(2):
            assert full[layer] == pytest.approx(effective_rank(eigenvalues(rows[layer])).item())
            expected = effective_rank(eigenvalues(rows[layer, kept])).item()
            assert without[layer] == pytest.approx(expected)


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., DynamicsSettings]) -> DynamicsSettings:
    return settings_of("dynamics", batch=14, utterances=14, steps=(1, 3), folds=3)


@pytest.fixture(scope="module")
def rows(settings: DynamicsSettings) -> pd.DataFrame:
    return read([KINDS["dynamics"].measure(settings).output], DYNAMICS)


def test_states_are_what_capture_sees_of_each_utterance_alone(
    tiny: SpeechModel, waves: list[np.ndarray]
) -> None:
    waves = waves[:3]
    texts = transcribe(tiny, waves, UNRESTRICTED)
    of_batch = states(tiny, waves, texts)
    for wave, state in zip(waves, of_batch, strict=True):
        with capture(tiny) as recording:
            (text,) = transcribe(tiny, [wave], UNRESTRICTED)
        hidden, _ = recording.text_rows(HIDDEN_STATE, [text])
        torch.testing.assert_close(state.decoder, hidden[0], rtol=1e-4, atol=1e-5)
        features = tiny.features([wave])
        frames = -(-len(wave) * 100 // tiny.window_samples)  # 100 positions in the window of 2 s
        assert state.encoder.shape[1] == state.features.shape[1] == -(-frames // STRIDE)
        torch.testing.assert_close(state.features[0, 1], features[0, :, 2 * STRIDE])


def test_measured_distances_are_those_of_states_by_hand(
    tiny: SpeechModel, speech: Path, settings: DynamicsSettings, rows: pd.DataFrame
) -> None:
    corpus = find_utterances(speech).utterances
    (chosen,) = batches(corpus, settings)
    mixtures = stressed(chosen, Speakers(corpus), settings)[0]["clean"]
    waves = [mixture.wave for mixture in mixtures]
    ids = [utterance.id for utterance in chosen]
    kept = pd.Series(waves, ids)[rows.utterance.unique()]
    texts = transcribe(tiny, [*kept], UNRESTRICTED)
    seen = dict(zip(kept.index, states(tiny, [*kept], texts), strict=True))
    lengths = sorted(state.decoder.shape[1] for state in seen.values())
    usual = lengths[len(lengths) // 2]
    of_last = "quantity == 'distance' and stage == 'decoder' and layer == 2"
    distances = rows.query(f"{of_last} and network == 'trained' and condition == 'clean'")
    assert len(distances[distances.step == 0]) == len(kept)
    for row in distances.itertuples():
        first, second = seen[row.utterance].decoder[1], seen[row.partner].decoder[1]
        count = min(len(first), len(second), usual)
        apart = relative_distances(first[:count], second[:count])
        expected = apart[row.step - 1] if row.step else apart.square().mean().sqrt()
        assert row.value == pytest.approx(expected.item(), rel=1e-4)


def test_every_quantity_is_there_for_both_networks_and_conditions(rows: pd.DataFrame) -> None:
    counts = rows.groupby(["quantity", "condition", "network"]).size().unstack()
    quantities = {"distance", "centred_distance", "effective_rank", "linear_probe"}
    assert set(counts.index) == {(name, side) for name in quantities for side in ("clean", "hell")}
    assert counts.random.equals(counts.trained), (
        "the randomly initialised control is fed the model's own tokens"
    )
    for name in ("effective_rank", "linear_probe"):
        assert counts.trained[name].nunique() == 1, "as many rows on both sides"
    speakers = rows.drop_duplicates("utterance").set_index("utterance").speaker
    paired = rows[rows.partner != ""].drop_duplicates("utterance")
    assert (paired.partner.map(speakers) != paired.speaker).all()


def test_readouts_with_another_s_audio_differ_from_the_own(rows: pd.DataFrame) -> None:
    read_off = rows[(rows.quantity == "linear_probe") & (rows.stage != "chance")]
    keys = ["network", "condition", "stage", "layer", "utterance"]
    wide = read_off.pivot(index=keys, columns="audio", values="value")
    assert (wide["own"] != wide["swapped"]).any()
    assert wide.notna().all(axis=None)
