"""Small changes: their size, what they are compared with, and that planted effects are found."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from companion.measurement.hearing import _random, _singular, encoder_operator, mel_operator
from companion.measurement.kinds import KINDS
from companion.measurement.schemas import SUBTLE
from companion.measurement.settings import SubtleSettings
from companion.measurement.store import read
from companion.models.decoding import greedy
from companion.models.forcing import residual_streams
from companion.models.rules import UNRESTRICTED
from companion.models.view import SpeechModel
from companion.results.dynamics import growths, perturbed_texts
from companion.speech.corpus import find_utterances, read_wave


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., SubtleSettings]) -> SubtleSettings:
    return settings_of(
        "subtle", conditions=("clean",), batch=2, utterances=3, levels_db=(20.0, 200.0), draws=2,
        tokens=(1, 99),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(settings: SubtleSettings) -> pd.DataFrame:
    return read([KINDS["subtle"].measure(settings).output], SUBTLE)


def test_a_change_below_rounding_changes_nothing(rows: pd.DataFrame) -> None:
    nothing = rows[rows.level_db == 200]
    assert nothing.unchanged.all()
    assert (nothing.character_edits == 0).all()
    assert (nothing.wer == nothing.wer_before).all()
    assert (rows.unchanged == (rows.character_edits == 0)).all()


def test_every_utterance_is_moved_in_every_direction_that_it_has(rows: pd.DataFrame) -> None:
    """Two draws and both signs of token 1; no text has a token 99."""
    assert (rows.groupby(["utterance", "level_db"]).size() == 4).all()
    singular = rows[rows.direction == "singular"]
    assert set(singular["index"]) == {1}
    assert set(singular.sign) == {1, -1}
    assert (rows.growth.map(len) == 2).all()
    assert (rows[rows.level_db == 20].control_growth.map(min) > 0).all()


def test_directions_have_norm_one_and_singular_ones_move_their_token_by_sigma(
    tiny: SpeechModel, speech: Path, settings: SubtleSettings
) -> None:
    wave = read_wave(find_utterances(speech).utterances[0])
    features = tiny.features([wave])
    (text,) = greedy(tiny, features, UNRESTRICTED)
    drawn = list(_random(features, 120, settings, ("clean", "x")))
    for delta, _ in drawn:
        assert delta.norm().item() == pytest.approx(1, rel=1e-5)
        assert delta[:, 120:].abs().max() == 0
    assert not torch.equal(drawn[0][0], drawn[1][0])
    streams = residual_streams(tiny, features, text.tokens)
    operator = mel_operator(tiny, streams, encoder_operator(tiny, features), 0)
    (plus, columns), (minus, _) = _singular(tiny, features, streams, (1,))
    assert torch.equal(plus, -minus)
    moved = operator.matmat(plus.reshape(-1, 1)).norm().item()
    assert moved == pytest.approx(columns["sigma_1"], rel=1e-2)
    others = [operator.matmat(delta.reshape(-1, 1)).norm().item() for delta, _ in drawn]
    assert max(others) < moved


def test_an_encoder_s_operator_is_its_derivative_both_ways(tiny: SpeechModel, speech: Path) -> None:
    features = tiny.features([read_wave(find_utterances(speech).utterances[0])])
    operator = encoder_operator(tiny, features)
    across, down = (
        torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        for shape in (features.shape, tiny.encode(features).shape)
    )
    with sdpa_kernel(SDPBackend.MATH):  # which alone has forward derivatives
        forward = torch.func.jvp(tiny.encode, (features,), (across,))[1]
        back = torch.func.vjp(tiny.encode, features)[1](down)[0]
    for actual, expected in (
        (operator.matmat(across.reshape(-1, 1)), forward),
        (operator.rmatmat(down.reshape(-1, 1)), back),
    ):
        close = {"rtol": 1e-3, "atol": 1e-4 * expected.abs().max().item()}
        torch.testing.assert_close(actual[:, 0], expected.flatten(), **close)


def _planted(changed: dict[str, float]) -> pd.DataFrame:
    """Ten utterances of five speakers, ten versions each; so many of them come out otherwise."""
    rows = []
    for direction, fraction in changed.items():
        for i in range(10):
            for j in range(10):
                other = j < fraction * 10
                rows.append(
                    {
                        "parameters": 1, "model": "m", "condition": "clean", "level_db": 20.0,
                        "utterance": f"u{i}", "speaker": f"v{i % 5}", "direction": direction,
                        "unchanged": not other, "character_edits": 4 * other, "tokens": 20,
                        "reference_words": 5, "wer_before": 0.2,
                        "wer": 0.6 if other else 0.2, "candidate_before": False,
                        "candidate": other, "growth": np.array([1.0, 10.0 + 90 * other]),
                        "control_growth": np.array([1.0, 1.0]),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_planted_changes_are_found() -> None:
    rows = _planted({"random": 0.0, "singular": 0.5})
    table = perturbed_texts(rows).set_index("direction")
    assert (
        table.loc["random", ["changed", "edits", "added_error", "candidates"]].tolist() == [0] * 4
    )
    singular = table.loc["singular"]
    assert singular.changed_low < singular.changed == 50 < singular.changed_high
    assert singular.edits == pytest.approx(0.1)
    assert singular.added_error == pytest.approx(20)
    assert singular.new_candidates == 50
    grown = growths(rows).set_index(["network", "direction", "layer"]).growth
    assert grown["trained", "random", 2] == pytest.approx(1)
    assert grown["trained", "singular", 2] == pytest.approx(1.5)
    assert grown["random", "singular", 2] == 0
