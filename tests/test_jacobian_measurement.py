"""Measured Jacobians against automatic differentiation of the model itself, and their summaries."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from companion.measurement.hearing import encoder_operator, hear, mel_operator
from companion.measurement.kinds import KINDS
from companion.measurement.schemas import JACOBIANS, RANDOM, TRAINED
from companion.measurement.settings import JacobianSettings
from companion.measurement.store import read
from companion.measurement.tangents import as_norm
from companion.models.capture import HIDDEN_STATE, capture
from companion.models.decoding import Heard, greedy, transcribe_heard
from companion.models.forcing import evenly_spread, residual_streams
from companion.models.rules import UNRESTRICTED, Rule
from companion.models.view import SpeechModel
from companion.results.jacobians import HYPOTHESES, hypotheses, layer_summary
from spectral import linearise
from spectral.jacobians.layers import normalised
from spectral.jacobians.sublayers import without_mean
from spectral.whisper import as_layer

LAYERS, TOKENS = 2, 3


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., JacobianSettings]) -> JacobianSettings:
    return settings_of("jacobians", batch=2, utterances=4, tokens=TOKENS, probes=64)


@pytest.fixture(scope="module")
def rows(settings: JacobianSettings) -> pd.DataFrame:
    return read([KINDS["jacobians"].measure(settings).output], JACOBIANS)


@pytest.fixture(scope="module")
def features(features: Tensor) -> Tensor:
    """Of one utterance."""
    return features[:1]


def test_there_is_a_row_per_network_condition_token_and_layer(rows: pd.DataFrame) -> None:
    keys = ["utterance", "condition", "network", "position", "layer"]
    assert not rows.duplicated(keys).any()
    assert set(rows.network) == {TRAINED, RANDOM}
    per_text = rows.groupby(["utterance", "condition", "network"])
    assert (per_text.layer.nunique() == LAYERS).all()
    assert (per_text.position.nunique() <= TOKENS).all()
    assert rows.position.between(1, rows.tokens).all()
    counted = rows.groupby(["utterance", "condition", "position", "layer"]).network.nunique()
    assert (counted == 2).all()


def test_bounds_hold_and_definitions_agree_in_every_row(rows: pd.DataFrame) -> None:
    assert KINDS["jacobians"].check(rows).startswith("bounds hold; 0 of ")
    inner = rows[rows.layer < LAYERS]
    np.testing.assert_allclose(inner.gain, inner.sigma_1 * inner.alignment.abs(), rtol=1e-9)
    last = rows[rows.layer == LAYERS]
    assert last.gain.isna().all()
    # injections are products in float32, summed along two ways
    np.testing.assert_allclose(last.arriving, last.injection, rtol=1e-5)
    np.testing.assert_allclose(last.product_norm, last.sigma_1, rtol=1e-9)
    np.testing.assert_allclose(last.normed_arriving, last.normed_injection, rtol=1e-5)


def test_numbers_are_those_of_the_kernels_in_float64(
    rows: pd.DataFrame, tiny: SpeechModel, features: Tensor
) -> None:
    part = rows[(rows.condition == "clean") & (rows.network == TRAINED)]
    part = part[part.utterance == sorted(rows.utterance)[0]].sort_values(["position", "layer"])
    tokens = greedy(tiny, features, UNRESTRICTED)[0].tokens
    streams = residual_streams(tiny, features, tokens)
    chosen = evenly_spread(streams.text, TOKENS)
    layers = [as_layer(layer.layer, torch.float64) for layer in tiny.layers]
    hidden = [stream[0].double() for stream in streams.hidden]
    context = streams.context[0].double()
    point = linearise(layers, hidden, context, tokens=chosen)
    matrices, sensitivity = point.propagators(), point.sensitivity()
    after = streams.last[0, chosen].double()
    norm = as_norm(tiny.final_norm, torch.float64)
    read = torch.func.vmap(torch.func.jacrev(lambda row: normalised(norm, row)))(after)
    first = point.injection(0).then(matrices[1])
    centring = without_mean(torch.eye(tiny.width, dtype=torch.float64))
    gram = first.then(centring.expand(len(after), -1, -1)).gram()
    squares = without_mean(without_mean(sensitivity.gram()).mT).diagonal(dim1=-2, dim2=-1).sum(-1)
    expected = {
        "sigma_1": torch.linalg.matrix_norm(without_mean(matrices[0]), 2),
        "product_norm": torch.linalg.matrix_norm(without_mean(matrices[1] @ matrices[0]), 2),
        "normed_product_norm": torch.linalg.matrix_norm(read @ matrices[1] @ matrices[0], 2),
        "state": without_mean(hidden[1][chosen].mT).norm(dim=0),
        "arriving": gram.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt(),
        "normed_arriving": first.then(read).frame_norms().norm(dim=-1),
        "sensitivity": squares.sqrt(),
    }
    got = part[part.layer == 1]
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-4, err_msg=name)


def last_states(model: SpeechModel, run: Callable[[], object]) -> Tensor:
    """What the last decoder layer puts out while something runs: (positions, width)."""
    seen: list[Tensor] = []

    def watch(module: object, inputs: object, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = model.layers[-1].layer.register_forward_hook(watch)
    run()
    handle.remove()
    return seen[0].reshape(-1, model.width)


def jacobian(model: SpeechModel, features: Tensor, tokens: tuple[int, ...], at: int) -> Tensor:
    """dh_L at a position by the encoder's output, by autograd on the library's own decoder."""
    row = torch.tensor([[*model.tokens.prompt, *tokens]])

    def last(context: Tensor) -> Tensor:
        return last_states(model, lambda: model.step(row, context, model.new_cache()))[at]

    result: Tensor = torch.autograd.functional.jacobian(last, model.encode(features).detach())
    return result.flatten(1).double()


def test_the_total_sensitivity_is_that_of_the_library_s_own_decoder(
    rows: pd.DataFrame, tiny: SpeechModel, features: Tensor
) -> None:
    name = sorted(rows.utterance)[0]
    part = rows[(rows.utterance == name) & (rows.condition == "clean") & (rows.network == TRAINED)]
    tokens = greedy(tiny, features, UNRESTRICTED)[0].tokens
    first = part[part.layer == 1].iloc[0]
    at = len(tiny.tokens.prompt) - 1 + int(first.position) - 1
    expected = without_mean(jacobian(tiny, features, tokens, at))
    norm = torch.linalg.matrix_norm(expected).item()
    assert first.total_sensitivity == pytest.approx(norm, rel=0.2), "64 random probes"
    assert first.explained <= 1


def test_streams_are_what_the_model_decoded_with(tiny: SpeechModel, features: Tensor) -> None:
    with capture(tiny) as recording:
        transcripts = greedy(tiny, features, UNRESTRICTED)
    streams = residual_streams(tiny, features, transcripts[0].tokens)
    after_first, _ = recording.text_rows(HIDDEN_STATE, transcripts)
    torch.testing.assert_close(
        streams.hidden[1][:, streams.text], after_first[:, 0], rtol=1e-4, atol=1e-5
    )
    assert len(streams.hidden) == LAYERS


@pytest.mark.parametrize(("length", "count"), [(1, 4), (4, 4), (5, 4), (60, 4), (61, 1), (7, 3)])
def test_tokens_are_spread_over_the_text(length: int, count: int) -> None:
    chosen = list(range(1000))[evenly_spread(slice(3, 3 + length), count)]
    assert 1 <= len(chosen) <= count
    assert all(3 <= position < 3 + length for position in chosen)
    singular_value_ratios = {b - a for a, b in itertools.pairwise(chosen)}
    assert len(singular_value_ratios) <= 1
    assert chosen[0] - 3 <= length / len(chosen)


def test_a_text_without_tokens_has_no_rows(
    settings: JacobianSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def silent(model: SpeechModel, encoded: Heard, rule: Rule) -> list[object]:
        first, *others = transcribe_heard(model, encoded, rule)
        return [replace(first, tokens=(), text=""), *others]

    monkeypatch.setattr("companion.measurement.jacobians.transcribe_heard", silent)
    output = tmp_path / "some.parquet"
    KINDS["jacobians"].measure(replace(settings, output=output))
    utterances = read([output], JACOBIANS).utterance
    assert utterances.nunique() == 2, "one of each batch of two"


def test_summaries_follow_from_the_rows(rows: pd.DataFrame) -> None:
    layers = layer_summary(rows)
    assert len(layers) == 2 * 2 * LAYERS
    chosen = rows[(rows.network == TRAINED) & (rows.condition == "clean") & (rows.layer == 1)]
    means = chosen.groupby("utterance")[["singular_value_ratio"]].mean()
    row = layers[(layers.network == TRAINED) & (layers.condition == "clean")].iloc[0]
    assert row.singular_value_ratio == pytest.approx(means.singular_value_ratio.mean())
    low, high = row.singular_value_ratio_low, row.singular_value_ratio_high
    assert low <= row.singular_value_ratio <= high
    logs = np.log10(chosen.gain).groupby(chosen.utterance).mean().mean()
    assert row.log10_gain == pytest.approx(logs)
    fractions = hypotheses(rows)
    assert fractions[[*HYPOTHESES]].apply(lambda column: column.between(0, 1).all()).all()
    below = rows[rows.layer == 1].assign(below=lambda table: table.gain < 1)
    by_setting = below.groupby(["network", "condition", "utterance"]).below.mean()
    expected = by_setting.groupby(["network", "condition"]).mean()
    got = fractions.set_index(["network", "condition"]).gain_below_one
    np.testing.assert_allclose(got.sort_index(), expected.sort_index())


def test_hearing_sums_up_to_the_whole_sensitivity_and_mel_products_are_derivatives(
    tiny: SpeechModel, features: Tensor
) -> None:
    hearing = hear(tiny, features, UNRESTRICTED)
    tokens = len(hearing.characters)
    assert hearing.sensitivity.shape[0] == hearing.attention.shape[0] == tokens
    torch.testing.assert_close(hearing.attention.sum(-1), torch.ones(tokens))
    operator = mel_operator(tiny, hearing.streams, encoder_operator(tiny, features), token=2)
    assert operator.shape == (tiny.width, features.numel())
    direction = torch.randn(features.numel(), 1, generator=torch.Generator().manual_seed(0))
    moved = operator.matmat(direction)[:, 0]
    step = 1e-3

    text = greedy(tiny, features, UNRESTRICTED)[0].tokens

    def state(scale: float) -> Tensor:
        shifted = features + scale * direction.reshape(features.shape)
        states = last_states(tiny, lambda: residual_streams(tiny, shifted, text))
        return states[hearing.streams.text.start + 2]

    difference = (state(step) - state(-step)) / (2 * step)
    torch.testing.assert_close(moved, difference, rtol=0.05, atol=0.02 * float(moved.abs().max()))
