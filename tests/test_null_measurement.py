"""Measured nulls against what they are said to be, computed another way."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from companion.measurement import nulls
from companion.measurement.keys import FORMER, difference, key_of, unpaired_with
from companion.measurement.kinds import KINDS
from companion.measurement.schemas import (
    FORCED,
    GAUSSIAN,
    INITIALISED,
    NULLS,
    SHUFFLED,
    SPECTRUM,
    SWAPPED,
    UNPAIRED,
)
from companion.measurement.settings import NullSettings
from companion.measurement.spectra import Side
from companion.measurement.store import read
from companion.measurement.texts import Row
from companion.models.capture import COMPONENTS, capture
from companion.models.checksums import write_checksums
from companion.models.controls import spectrum_preserving
from companion.models.decoding import Transcript, transcribe
from companion.models.forcing import feed
from companion.models.loading import load, load_random_control
from companion.models.rules import UNRESTRICTED
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances, read_wave
from companion.stress.conditions import condition
from companion.stress.mixture import Mixture, Speakers, generator

KEY = ["utterance", "condition", "matched_with", "component", "layer", "modes"]
NUMBERS = ["n_eff", "kirchhoff", "kirchhoff_resolved"]
SEED = 3
ORDERS, DRAWS = 4, 3
CONTROL = "tiny-shuffled-0"


@pytest.fixture(scope="module")
def two(ladder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny ladder with one more model of the same shape, as if trained on unpaired speech."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("tiny-0", CONTROL, "other-shuffled-0"):
        shutil.copytree(ladder / "tiny-0", folder / name)
    weights = load_file(folder / CONTROL / "model.safetensors")
    changed = {name: weight.flip(0).contiguous() for name, weight in weights.items()}
    save_file(changed, folder / CONTROL / "model.safetensors", {"format": "pt"})
    write_checksums(folder / CONTROL)
    return folder


@pytest.fixture(scope="module")
def settings(two: Path, settings_of: Callable[..., NullSettings]) -> NullSettings:
    return settings_of(
        "nulls", ladder=two, conditions=("clean", "hell", "swapped"), modes=(5, 10), epsilon=1e-6,
        utterances=6, orders=ORDERS, draws=DRAWS, draw_utterances=3,
        unpaired=(CONTROL, "other-shuffled-0"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(settings: NullSettings) -> pd.DataFrame:
    return read([KINDS["nulls"].measure(settings).output], NULLS)


@pytest.fixture(scope="module")
def model_rows(settings: NullSettings, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """What `measure` says of the same utterances."""
    output = tmp_path_factory.mktemp("measured") / "tiny-0.parquet"
    return read([KINDS["measure"].measure(replace(settings, output=output)).output])


def of(rows: pd.DataFrame, null: str, draw: int = 0) -> pd.DataFrame:
    return rows[(rows.null == null) & (rows.draw == draw)].set_index(KEY).sort_index()


def test_every_null_has_both_sides_raw_and_cut(rows: pd.DataFrame) -> None:
    assert set(rows.null) == {
        SHUFFLED, GAUSSIAN, INITIALISED, SPECTRUM, UNPAIRED, FORCED, SWAPPED,
    }  # fmt: skip
    assert not rows.duplicated(["null", "draw", *KEY]).any()
    for null, part in rows.groupby("null"):
        other = "swapped" if null == SWAPPED else "hell"
        pairs = {("clean", ""), ("clean", other), (other, ""), (other, "clean")}
        assert set(zip(part.condition, part.matched_with, strict=True)) == pairs
        assert set(part.component) == set(COMPONENTS)


def test_lengths_are_the_model_s_own(rows: pd.DataFrame, model_rows: pd.DataFrame) -> None:
    measured = model_rows.set_index(KEY).tokens
    for null in (SHUFFLED, GAUSSIAN, INITIALISED, SPECTRUM, UNPAIRED, SWAPPED):
        tokens = of(rows, null, DRAWS - 1 if null == SPECTRUM else 0).tokens
        assert (tokens == measured[tokens.index]).all(), null
    forced = of(rows, FORCED).tokens
    clean = measured.xs("clean", level="condition").xs("", level="matched_with")
    for side in ("clean", "hell"):
        raw = forced.xs(side, level="condition").xs("", level="matched_with")
        assert (raw == clean[raw.index]).all()


def test_order_changes_no_whole_spectrum_but_what_is_cut_from_it(
    rows: pd.DataFrame, model_rows: pd.DataFrame
) -> None:
    measured = model_rows.set_index(KEY)[NUMBERS]
    shuffled = of(rows, SHUFFLED)[NUMBERS]
    same = shuffled.index.get_level_values("matched_with") == ""
    np.testing.assert_allclose(shuffled[same], measured.loc[shuffled[same].index], rtol=1e-6)
    cut = model_rows.set_index(KEY).tokens.sort_index()
    shorter = [
        key for key in shuffled[~same].index if 2 < cut[key] < cut[(*key[:2], "", *key[3:])]
    ]  # fmt: skip
    assert shorter
    assert ((shuffled.n_eff[shorter] - measured.n_eff[shorter]).abs() > 1e-9).all()


def test_swapped_rows_and_forced_clean_rows_are_those_of_the_model(
    rows: pd.DataFrame, model_rows: pd.DataFrame
) -> None:
    measured = model_rows.set_index(KEY)[NUMBERS]
    swapped = of(rows, SWAPPED)[NUMBERS]
    np.testing.assert_allclose(swapped, measured.loc[swapped.index], rtol=1e-6)
    forced = of(rows, FORCED)[NUMBERS].xs("clean", level="condition", drop_level=False)
    raw = forced.xs("", level="matched_with", drop_level=False)
    np.testing.assert_allclose(raw, measured.loc[raw.index], rtol=1e-3)


def test_random_networks_are_drawn_for_a_sample_and_each_draw_differs(rows: pd.DataFrame) -> None:
    initialised = rows[rows.null == INITIALISED].groupby("draw").utterance.unique().map(sorted)
    controls = rows[rows.null == SPECTRUM].groupby("draw").utterance.unique().map(sorted)
    assert list(initialised.index) == list(controls.index) == list(range(DRAWS))
    assert len(initialised[0]) == 6
    chosen = initialised[0][::2]  # every second of six makes three
    assert all(kept == chosen for kept in (*initialised[1:], *controls))
    assert sorted(rows.utterance[rows.null == UNPAIRED].unique()) == chosen
    others = ~rows.null.isin([INITIALISED, SPECTRUM])
    assert set(rows.draw[others]) == {0}, "one model is of this size"
    for null in (INITIALISED, SPECTRUM):
        first, second = (of(rows, null, draw).n_eff for draw in (1, 2))
        assert ((first - second).abs() > 1e-6).all(), null


@pytest.mark.parametrize(("null", "draw"), [(SPECTRUM, 1), (UNPAIRED, 0), (INITIALISED, 0)])
def test_a_draw_hears_its_own_encoder_and_is_fed_the_model_s_tokens(
    null: str, draw: int, rows: pd.DataFrame, tiny: SpeechModel, settings: NullSettings
) -> None:
    corpus = find_utterances(settings.corpus).utterances
    known = next(u for u in corpus if u.id == of(rows, SPECTRUM).index[0][0])
    clean = Mixture.of(known, read_wave(known))
    wave = condition("hell").apply(clean, Speakers(corpus), SEED).wave
    texts = transcribe(tiny, [wave], UNRESTRICTED)
    if null == SPECTRUM:
        control = spectrum_preserving(tiny, draw, SEED)
    elif null == UNPAIRED:
        control = load(CONTROL, settings.ladder, tiny.device)
    else:
        control = load_random_control("tiny-0", settings.ladder, tiny.device, SEED)
    with capture(control) as recording:
        feed(control, [wave], texts)
    text = recording.text_rows("ffn", texts)[0][0, 1].double().numpy()
    row = of(rows, null, draw).loc[(known.id, "hell", "", "ffn", 2, 10)]
    values = np.linalg.eigvalsh(np.cov(text.T))[::-1][:10].clip(min=0)
    p = values[values > 0] / values.sum()
    assert row.n_eff == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-3)
    assert row.tokens == len(texts[0].tokens) == len(text)


def test_draws_depend_on_the_seed_and_not_on_the_batch(
    rows: pd.DataFrame, settings: NullSettings, tmp_path: Path
) -> None:
    alone = replace(settings, output=tmp_path / "alone.parquet", batch=1)
    other = replace(settings, output=tmp_path / "other.parquet", seed=SEED + 1, draws=0)
    single, reseeded = (
        read([KINDS["nulls"].measure(asked).output], NULLS) for asked in (alone, other)
    )
    drawn = product((INITIALISED, SPECTRUM), range(1, DRAWS))
    for null, draw in ((SHUFFLED, 0), (GAUSSIAN, 0), *drawn):
        first, again = (of(table, null, draw) for table in (rows, single))
        assert (first.index == again.index).all()
        np.testing.assert_allclose(first.n_eff, again.n_eff, rtol=1e-3)
    for null in (SHUFFLED, GAUSSIAN):
        first, moved = (of(table, null) for table in (rows, reseeded))
        cut = first.index.get_level_values("matched_with") != ""
        assert (first.n_eff[cut] - moved.n_eff[cut]).abs().max() > 1e-3


def test_cut_rows_are_the_mean_of_random_subsets(settings: NullSettings) -> None:
    """Over all orders of few rows the mean tends to that of all subsets, taken one by one."""
    drawn = torch.randn(1, 1, 6, 8, generator=torch.Generator().manual_seed(0)).double()
    texts = [{"model": "m", "parameters": 1, "utterance": "u", "speaker": "s"}]
    sides = {
        "clean": Side(texts, drawn, torch.tensor([6])),
        "hell": Side(texts, drawn, torch.tensor([4])),
    }
    shuffled = pd.DataFrame(
        nulls.shuffled_rows("ffn", sides, replace(settings, orders=400, modes=(3,)))
    )
    cut = shuffled.set_index(["condition", "matched_with"]).loc[("clean", "hell")]
    every = []
    for kept in combinations(range(6), 4):
        values = np.linalg.eigvalsh(np.cov(drawn[0, 0, list(kept)].numpy().T))[::-1][:3]
        p = values / values.sum()
        every.append((np.exp(-(p * np.log(p)).sum()), np.log(3 * (1 / (values + 1e-6)).sum())))
    ranks, indices = np.array(every).T
    assert cut.n_eff == pytest.approx(ranks.mean(), abs=4 * ranks.std() / 20)
    assert np.log(cut.kirchhoff) == pytest.approx(indices.mean(), abs=4 * indices.std() / 20)
    orders = {name: nulls.shuffled(side, name, SEED) for name, side in sides.items()}
    first = pd.DataFrame(nulls.side_rows(SHUFFLED, "ffn", orders, settings))
    single = pd.DataFrame(nulls.shuffled_rows("ffn", sides, replace(settings, orders=1)))
    pd.testing.assert_frame_equal(first, single)


def test_what_is_missing_of_one_order_is_missing_of_the_mean() -> None:
    row: Row = {"n_eff": 2.0, "alpha": 1.0, "kirchhoff": 4.0, "kirchhoff_resolved": 0.0}
    row |= {"resolved": 3}
    mean = nulls.averaged([row, {**row, "alpha": float("nan"), "kirchhoff": 9.0, "resolved": 2}])
    assert np.isnan(float(str(mean["alpha"])))
    assert mean | {"alpha": None} == row | {"alpha": None, "kirchhoff": 6.0, "resolved": 2}


def test_a_key_has_controls_of_its_size_and_old_rows_former_values(settings: NullSettings) -> None:
    assert unpaired_with("xs-3", ["xs-shuffled-0", "s-shuffled-0", "xs-0"]) == ("xs-shuffled-0",)
    assert settings.unpaired == (CONTROL,)

    def key(values: dict[str, object]) -> dict[str, object]:
        return key_of("nulls", values, "weights", "speech")

    former = replace(settings, orders=1, draws=0, draw_utterances=None, unpaired=()).plain()
    old = {name: value for name, value in former.items() if name not in FORMER["nulls"]}
    assert difference(key(old), key(former)) is None
    assert difference(key(old), key(settings.plain())) is not None


def test_older_rows_without_draws_are_read_as_of_the_first(
    rows: pd.DataFrame, settings: NullSettings, tmp_path: Path
) -> None:
    table = pq.read_table(settings.output, filters=[("draw", "=", 0)])
    old = table.drop_columns("draw").replace_schema_metadata(table.schema.metadata)
    pq.write_table(old, tmp_path / "old.parquet")
    expected = rows[rows.draw == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(read([tmp_path / "old.parquet"], NULLS), expected)


def test_a_text_of_other_windows_than_its_wave_is_refused(tiny: SpeechModel, speech: Path) -> None:
    wave = read_wave(find_utterances(speech).utterances[0])
    text = Transcript("", (5, 6), breaks=(1,))
    with pytest.raises(ValueError, match="a text of 2 windows for a wave of 1; cut the wave"):
        feed(tiny, [wave], [text])


def test_a_power_law_is_continued_as_itself() -> None:
    law = 3 * torch.arange(1, 101, dtype=torch.float64) ** -1.4
    bent = law[:40].clone()
    bent[25:] *= torch.linspace(1, 0.01, 15, dtype=torch.float64)  # as for want of rows
    torch.testing.assert_close(nulls.continued(bent, 100), law)


def test_gaussian_rows_have_the_law_s_covariance() -> None:
    law = torch.tensor([[4.0, 1.0, 0.25]], dtype=torch.float64)
    drawn = nulls.gaussian(law, 40_000, generator(0, "x"))[0]
    torch.testing.assert_close(drawn.T.cov(), torch.diag(law[0]), rtol=0.05, atol=0.05)


def test_texts_too_short_for_a_law_are_left_out_of_the_gaussian_null() -> None:
    with pytest.raises(ValueError, match="3 resolved modes, a law takes 4"):
        nulls.continued(torch.tensor([3.0, 2.0, 1.0]).double(), 8)
    drawn = torch.randn(2, 1, 12, 8, generator=torch.Generator().manual_seed(0))
    texts = [{"utterance": "short"}, {"utterance": "long"}]
    sides = {
        "clean": Side(texts, drawn, torch.tensor([4, 12])),
        "hell": Side(texts, drawn, torch.tensor([12, 3])),
    }
    kept = nulls.gaussian_sides(sides, "ffn", seed=0)
    assert [side.texts for side in kept.values()] == [[{"utterance": "long"}]] * 2
    assert [int(side.lengths[0]) for side in kept.values()] == [12, 3]


def test_shuffling_moves_rows_among_the_real_ones_alike_in_all_layers() -> None:
    rows = torch.arange(10.0)[:, None].expand(2, 3, 10, 1).clone()
    texts = [{"utterance": "a"}, {"utterance": "b"}]
    side = Side(texts, rows, torch.tensor([6, 10]))
    shuffled = nulls.shuffled(side, "clean", 0).activations
    assert (shuffled == shuffled[:, :1]).all()
    assert sorted(shuffled[0, 0, :6, 0].tolist()) == list(range(6))
    assert shuffled[0, 0, 6:, 0].tolist() == [6, 7, 8, 9]
    assert shuffled[1, 0, :, 0].tolist() != list(range(10))
