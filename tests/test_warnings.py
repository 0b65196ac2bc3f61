"""Warnings: planted ones are found, and what is measured of a prefix is of that prefix alone."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from companion.measurement.kinds import KINDS
from companion.measurement.schemas import WARNINGS
from companion.measurement.settings import WarningSettings
from companion.measurement.store import read
from companion.measurement.warnings import first_wrong_token, prefix_observables
from companion.models.capture import COMPONENTS, capture
from companion.models.decoding import Transcript, greedy, transcribe
from companion.models.forcing import token_log_probabilities
from companion.models.loading import load
from companion.models.rules import UNRESTRICTED
from companion.models.view import SpeechModel
from companion.results.intervals import larger_probability
from companion.results.transcripts import PER_CHARACTER
from companion.results.warnings import ANY, BEFORE, CHANCE, MEAN, SPECTRAL, early_warnings, summary
from companion.speech.corpus import find_utterances, read_wave
from companion.stress.conditions import condition
from companion.stress.mixture import Mixture, Speakers
from companion.stress.scoring import first_wrong_word
from spectral import (
    effective_rank,
    eigenvalues,
    resolved_kirchhoff_index,
    resolved_modes,
    spectral_slope,
)

DATA = Path(__file__).parents[1] / "data"
SEED, EPSILON = 3, 1e-6
SPEAKERS = 16
COUNT = 8 * SPEAKERS  # utterances
PREFIXES = (4, 8)
LONG = (4, 8, 40)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> WarningSettings:
    return WarningSettings(
        model="xs-0", ladder=DATA / "ladder", corpus=DATA / "corpus",
        output=tmp_path_factory.mktemp("warnings") / "xs-0.parquet",
        conditions=("clean", "noise-0.9"), decoding="unrestricted",
        seed=SEED, batch=2, device="cpu", utterances=4,
        prefixes=LONG, epsilon=EPSILON,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(settings: WarningSettings) -> pd.DataFrame:
    return read([KINDS["warnings"].measure(settings).output], WARNINGS)


@pytest.fixture(scope="module")
def model(settings: WarningSettings) -> SpeechModel:
    return load(settings.model, settings.ladder, torch.device("cpu"))


def _mixtures(settings: WarningSettings, rows: pd.DataFrame) -> list[Mixture]:
    utterances = find_utterances(settings.corpus).utterances
    stress, speakers = condition(settings.conditions[1]), Speakers(utterances)
    clean = [Mixture.of(u, read_wave(u)) for u in utterances if u.id in set(rows.utterance)]
    return [stress.apply(mixture, speakers, SEED) for mixture in clean]


def test_prefix_spectra_are_those_of_the_truncated_activations(
    settings: WarningSettings, rows: pd.DataFrame, model: SpeechModel
) -> None:
    """Each utterance decoded by itself, each layer a plain spectrum of the first rows."""
    compared = 0
    for mixture in _mixtures(settings, rows):
        with capture(model) as recording:
            (text,) = transcribe(model, [mixture.wave], UNRESTRICTED)
        measured = rows[rows.utterance == mixture.target.id]
        assert set(measured.prefix) == {n for n in LONG if n < len(text.tokens)}
        first = len(model.tokens.prompt) - 1
        for (prefix, component), row in measured.set_index(["prefix", "component"]).iterrows():
            layers = recording.rows(component)[0, :, first : first + prefix]
            spectra = [eigenvalues(layer) for layer in layers]
            n_eff = np.mean([effective_rank(spectrum).item() for spectrum in spectra])
            index = [
                resolved_kirchhoff_index(spectrum, prefix - 1, EPSILON) for spectrum in spectra
            ]
            variance = [layer.double().var(0).sum().item() for layer in layers]
            slopes = [spectral_slope(spectrum, 1, prefix - 1).item() for spectrum in spectra]
            assert row.n_eff == pytest.approx(n_eff, rel=1e-4)
            assert row.log10_kf_resolved == pytest.approx(
                np.mean([np.log10(value.item()) for value in index]), abs=1e-3
            )
            assert row.log10_variance == pytest.approx(np.log10(variance).mean(), abs=1e-4)
            assert row.alpha == pytest.approx(np.mean(slopes), abs=1e-3, nan_ok=True)
            assert (row.alpha_reason == "") == np.isfinite(row.alpha)
            compared += 1
    assert compared >= 4 * 3 * 2


def test_every_long_enough_text_has_every_component_and_clean_speech_has_no_rows(
    settings: WarningSettings, rows: pd.DataFrame
) -> None:
    assert set(rows.condition) == set(settings.conditions) - {"clean"}
    assert set(rows.component) == set(COMPONENTS)
    assert not rows.duplicated(["utterance", "condition", "prefix", "component"]).any()
    assert KINDS["warnings"].check(rows) == "3 lengths, 1 conditions: rows are complete"


def test_a_prefix_does_not_depend_on_later_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(3, 2, 12, 6, generator=generator)
    observables, reasons = prefix_observables(activations, 5, EPSILON)
    later = activations.clone()
    later[:, :, 5:] = torch.nan
    again, _ = prefix_observables(later, 5, EPSILON)
    for name, values in observables.items():
        assert torch.equal(values, again[name])
    assert reasons == [""] * 3


def test_modes_that_are_not_resolved_leave_no_slope_and_say_why() -> None:
    three = torch.randn(1, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    repeated = three.repeat(1, 1, 3, 1)
    observables, reasons = prefix_observables(repeated, 8, EPSILON)
    assert observables["alpha"].isnan().all()
    assert reasons == ["2 resolved modes, the fit needs 7"]
    assert observables["n_eff"].isfinite().all()
    constant, _ = prefix_observables(torch.ones(1, 1, 5, 4), 4, EPSILON)
    assert constant["log10_kf_resolved"].isnan().all()
    assert constant["log10_variance"].isnan().all()
    assert (resolved_modes(eigenvalues(repeated)) == 2).all()


def test_log_probabilities_are_those_of_decoding(
    settings: WarningSettings, rows: pd.DataFrame, model: SpeechModel
) -> None:
    """Decoding sums the text's and the end's: what is left is a log-probability, of one token."""
    waves = [mixture.wave for mixture in _mixtures(settings, rows)]
    texts = transcribe(model, waves, UNRESTRICTED)
    log_probabilities = token_log_probabilities(model, waves, texts)
    assert [len(row) for row in log_probabilities] == [len(text.tokens) for text in texts]
    for text, row in zip(texts, log_probabilities, strict=True):
        end = text.text_log_probability * (len(text.tokens) + 1) - row.sum().item()
        assert text.finished
        assert -5 < end < 1e-4
    limit = len(texts[0].tokens)  # without an end
    (cut,) = greedy(model, model.features(waves[:1]), UNRESTRICTED, limit=limit)
    total = cut.text_log_probability * (len(cut.tokens) + 1)
    assert log_probabilities[0].sum().item() == pytest.approx(total, abs=1e-4)
    alone = token_log_probabilities(model, waves[:1], texts[:1])
    torch.testing.assert_close(alone[0], log_probabilities[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("reference", "transcript", "word"),
    [
        ("THE OLD CAT SLEPT", "the old cat slept", None),
        ("THE OLD CAT SLEPT", "the old dog slept", 2),
        ("THE OLD CAT SLEPT", "a old cat slept", 0),
        ("THE OLD CAT SLEPT", "the old cat slept well", 4),
        ("THE OLD CAT SLEPT", "the cat slept", None),  # what is left out is not written
        ("THE OLD CAT SLEPT", "the cat swam", 2),
        ("THE OLD CAT SLEPT", "", None),
        ("", "anything at all", 0),
        ("HE HAD TWENTY ONE CATS", "he had twenty one cats", None),
        ("HE HAD TWENTY ONE CATS", "he had twenty two cats", 2),
        ("IT IS NOT HERE NOW", "it isn't there now", 2),
        ("THE COLOUR FADED", "the color, faded! away", 3),
    ],
)
def test_the_first_wrong_word_is_found(reference: str, transcript: str, word: int | None) -> None:
    assert first_wrong_word(reference, transcript) == word


class _Letters:
    """A model's text, one token per character, or per word with the space before it."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(self.pieces[token] for token in tokens).strip()


def _text(pieces: Sequence[str], breaks: tuple[int, ...] = ()) -> tuple[_Letters, Transcript]:
    edges = [0, *breaks, len(pieces)]
    windows = ["".join(pieces[a:b]).strip() for a, b in pairwise(edges)]
    tokens = tuple(range(len(pieces)))
    return _Letters(pieces), Transcript(" ".join(windows), tokens, breaks=breaks)


@pytest.mark.parametrize(
    ("pieces", "breaks", "token"),
    [
        (list("the dog slept"), (), 4),
        ([" the", " d", "og", " slept"], (), 1),
        ([" the", " cat", "s", " slept"], (), 1),  # the whole word counts as wrong
        (list("the cat slept"), (), None),
        ([" the", " cat", " swam"], (2,), 2),
        (list("thedog slept"), (3,), 3),  # windows are apart without a space
    ],
)
def test_the_first_wrong_token_begins_the_first_wrong_word(
    pieces: Sequence[str], breaks: tuple[int, ...], token: int | None
) -> None:
    letters, text = _text(pieces, breaks)
    actual = first_wrong_token(letters, "the cat slept", text)  # type: ignore[arg-type]
    assert actual == token


def _planted(shift: float, wrong: np.ndarray | None = None, seed: int = 0) -> pd.DataFrame:
    """Rows of one component whose alpha is ``shift`` deviations higher before candidates."""
    rng = np.random.default_rng(seed)
    table = []
    for i in range(COUNT):
        candidate = bool(rng.random() < 0.4)
        for prefix in PREFIXES:
            table.append({
                "parameters": 1, "model": "planted-0", "condition": "noise", "utterance": f"{i:03}",
                "speaker": f"{i % SPEAKERS}", "prefix": prefix, "component": "ffn",
                "candidate": candidate, "first_wrong": np.nan if wrong is None else wrong[i],
                "alpha": rng.normal(2 + shift * candidate), "n_eff": rng.normal(),
                "log10_kf_resolved": rng.normal(), "log10_variance": rng.normal(),
                "transcript": "abcdefgh", "tokens": 8,
                "log_probability": rng.normal(-candidate), "least_log_probability": rng.normal(),
            })  # fmt: skip
    return pd.DataFrame(table)


@pytest.mark.parametrize("shift", [1.5, -0.8])
def test_a_planted_warning_is_found_as_large_as_it_is(shift: float) -> None:
    table = early_warnings(_planted(shift), 5)
    expected = stats.norm.cdf(shift / np.sqrt(2))
    alpha = table[(table.observable == "alpha") & (table.when == BEFORE)].set_index("prefix")
    assert set(alpha.index) == {MEAN, *PREFIXES}
    for row in alpha.itertuples():
        assert row.auc == pytest.approx(expected, abs=0.1)
        assert row.auc_low <= expected <= row.auc_high
        assert (row.auc_low > CHANCE) == (shift > 0)
        assert (row.auc_high < CHANCE) == (shift < 0)
    confidence = table[(table.observable == PER_CHARACTER) & (table.prefix == MEAN)]
    assert (confidence.auc_high < CHANCE).all()
    assert (confidence.gain == 0).all()
    gain = abs(alpha.auc - CHANCE) - abs(confidence.auc.iloc[0] - CHANCE)
    assert alpha.gain[MEAN] == pytest.approx(gain[MEAN], abs=1e-12)


def test_where_none_is_planted_hardly_any_is_found() -> None:
    missed = 0
    for seed in range(10):
        table = early_warnings(_planted(0.0, seed=seed), 5)
        row = table[(table.observable == "alpha") & (table.when == ANY) & (table.prefix == MEAN)]
        missed += not row.auc_low.item() <= CHANCE <= row.auc_high.item()
    assert missed <= 3  # four or more of ten have a probability of 0.1 %


def test_only_beginnings_without_a_wrong_word_come_before() -> None:
    wrong = np.where(np.arange(COUNT) % 2, 4.0, 100.0)
    rows = _planted(1.0, wrong)
    table = early_warnings(rows, 5)
    by_prefix = table[table.observable == "alpha"].set_index(["when", "prefix"])
    sizes = by_prefix[["candidates", "others"]].sum(axis=1)
    assert sizes[ANY, 4] == sizes[ANY, 8] == sizes[BEFORE, 4] == COUNT
    assert sizes[BEFORE, 8] == COUNT / 2
    kept = rows[(rows.prefix == 8) & (rows.first_wrong >= 8)]
    inside, outside = (kept.alpha[kept.candidate == side] for side in (True, False))
    pairs = len(inside) * len(outside)
    expected = stats.mannwhitneyu(inside, outside).statistic / pairs
    assert by_prefix.auc[BEFORE, 8] == pytest.approx(expected)


def test_transcripts_that_begin_wrong_leave_nothing_to_compare_before() -> None:
    table = early_warnings(_planted(1.0, np.zeros(COUNT)), 5)
    early = table[table.when == BEFORE]
    assert early.auc.isna().all()
    assert (early[["candidates", "others"]] == 0).all(axis=None)
    assert set(early.reason[early.prefix == MEAN]) == {
        "at no n are there 5 transcripts on both sides"
    }
    assert len(early) == len(table) / 2


def test_few_transcripts_on_a_side_have_no_number_but_a_reason() -> None:
    rows = _planted(1.0)
    rows.loc[rows.prefix == 8, "candidate"] = False
    rows["candidate"] &= rows.utterance < "010"
    rows["alpha"] = rows.alpha.where(rows.prefix == 4)  # NaN is left out
    table = early_warnings(rows, 40)
    assert table.auc.isna().all()
    assert table.gain.isna().all()
    assert (table.reason != "").all()
    part = table[(table.observable == "alpha") & (table.prefix == 8)]
    assert set(part.reason) == {"0 candidates and 0 others, 40 of each are needed"}
    assert summary(table).empty


def test_weighted_auc_is_mann_whitney_s_of_values_as_often_as_their_weight() -> None:
    rng = np.random.default_rng(1)
    values, group = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    weights = np.stack([np.ones(40, int), rng.integers(0, 4, 40), 1 - group])
    *actual, empty = larger_probability(weights.astype(float), values, group)
    for times, auc in zip(weights, actual, strict=False):
        inside, outside = (np.repeat(values, times * side) for side in (group, ~group))
        pairs = len(inside) * len(outside)
        assert auc == pytest.approx(stats.mannwhitneyu(inside, outside).statistic / pairs)
    assert np.isnan(empty)


def test_a_summary_counts_sides_of_chance() -> None:
    counts = summary(early_warnings(_planted(1.5), 5)).set_index(["when", "observable"])
    for when in (ANY, BEFORE):
        assert tuple(counts.loc[(when, "alpha"), ["of", "above", "below"]]) == (1, 1, 0)
        assert tuple(counts.loc[(when, PER_CHARACTER), ["of", "above", "below"]]) == (1, 0, 1)
    assert set(counts.index.get_level_values("observable")) >= set(SPECTRAL)
