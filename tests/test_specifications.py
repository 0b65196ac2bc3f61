"""The specification curve against numpy, and the fractions that it is summed up by."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from companion.measurement import readings
from companion.measurement.schemas import CHOICES as COLUMNS
from companion.measurement.store import read
from companion.results.effects import effects, published
from companion.results.specifications import CHOICES, agreement, specification_curve
from spectral.spectra import effective_rank

KNOWN = published(Path("data/published/k50.csv"))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return read([Path("data/smoke/measure/xs-0.parquet")])


@pytest.fixture(scope="module")
def choice_rows() -> pd.DataFrame:
    return read([Path("data/smoke/choices/xs-0.parquet")], COLUMNS)


@pytest.fixture(scope="module")
def table(rows: pd.DataFrame, choice_rows: pd.DataFrame) -> pd.DataFrame:
    return specification_curve(rows, choice_rows, "hell")


def test_each_computed_specification_is_there_once(rows: pd.DataFrame, table: pd.DataFrame) -> None:
    per_layer = (
        2 * len(readings.MODES)
        + len(readings.RANGES)
        + 4 * len(readings.MODES) * len(readings.EPSILONS)
    )
    assert per_layer == len(readings.READINGS)
    layers, filters, lengths = rows.layer.nunique() + 1, 3, 2
    stored = lengths * layers * filters
    crossed = (lengths + 1) * 2 * 2  # forced texts have one length; centring and positions
    alone, pooled = filters * (crossed - lengths), crossed
    others = 6 * lengths * filters  # five other orders; slower, where no utterance fits
    assert len(table) == 3 * per_layer * (stored + alone + pooled + others)
    assert not table.duplicated(["component", "observable", *CHOICES]).any()


def test_a_measured_choice_is_its_rows(table: pd.DataFrame, choice_rows: pd.DataFrame) -> None:
    column = "n_eff, 20, singular values"
    part = choice_rows[(choice_rows.component == "ffn") & (choice_rows.matched_with == "")]
    part = part[(part.forcing == "forced") & (part.pooling == "per utterance") & ~part.centred]
    means = part[part.positions == "text"].groupby("condition")[column].mean()
    chosen = {"component": "ffn", "K": "20", "p": "singular values", "forcing": "forced",
              "pooling": "per utterance", "centring": "off", "positions": "text",
              "utterances": "all"}  # fmt: skip
    row = table[(table[list(chosen)] == list(chosen.values())).all(axis=1)]
    assert len(row) == 1
    assert row.change.item() == pytest.approx(100 * (means["hell"] / means["clean"] - 1), rel=1e-4)
    assert row.low.item() < row.change.item() < row.high.item()


def test_modes_in_proportion_are_a_named_specification_of_what_is_stored(
    rows: pd.DataFrame, choice_rows: pd.DataFrame, table: pd.DataFrame
) -> None:
    wide = specification_curve(rows, choice_rows, "hell", {"xs-0": 56})
    proportional = wide[
        (wide.K == readings.IN_PROPORTION)
        | (wide["modes fitted"] == f"1 to {readings.IN_PROPORTION}")
    ]
    per_layer = 2 + 1 + 4 * len(readings.EPSILONS)
    assert len(proportional) == 3 * per_layer * 2 * (rows.layer.nunique() + 1) * 3
    assert len(wide) == len(table) + len(proportional)
    assert not wide.duplicated(["component", "observable", *CHOICES]).any()
    chosen = {"component": "ffn", "observable": "n_eff", "p": "eigenvalues", "layers": "mean",
              "utterances": "all", "length": "raw"}  # fmt: skip
    row = proportional[(proportional[list(chosen)] == list(chosen.values())).all(axis=1)]
    kept = rows[(rows.component == "ffn") & (rows.modes == 50) & (rows.matched_with == "")]
    spectra = torch.from_numpy(np.stack(kept.eigenvalues.to_list()).astype(float))
    ranks = effective_rank(spectra, 7).numpy()  # 50 / 384 of 56
    clean, hell = (ranks[kept.condition == side].mean() for side in ("clean", "hell"))
    assert row.change.item() == pytest.approx(100 * (hell / clean - 1), rel=1e-6)
    assert len(specification_curve(rows, choice_rows, "hell", {"xs-0": 512})) == len(table)


def test_every_specification_is_counted_once_and_for_its_claim(table: pd.DataFrame) -> None:
    agreed, keys = agreement(table, KNOWN), ["component", "observable"]
    counts = table[table.change.notna()].groupby(keys).size()
    assert (agreed.groupby(keys).specifications.sum() == counts).all()
    assert set(agreed[agreed.observable == "log10_kf"].claim) == {"4"}


@pytest.mark.parametrize("length", ["raw", "length-matched"])
def test_the_specifications_of_the_main_table_give_its_numbers(
    length: str, rows: pd.DataFrame, table: pd.DataFrame
) -> None:
    main = effects(rows, "hell")
    usual = {"length": length, "layers": "mean", "utterances": "all", "forcing": "free",
             "positions": "text", "pooling": "per utterance", "centring": "on",
             "order": "stretch, mix, noise", "stretch": "faster"}  # fmt: skip
    mean = table[(table[list(usual)] == list(usual.values())).all(axis=1)]
    kf = (mean["missing modes"], mean.eigenvalues, mean.epsilon)
    for k in (10, 50):
        chosen = {
            "n_eff": (str(k) == mean.K) & (mean.p == "eigenvalues"),
            "alpha": mean["modes fitted"] == f"1-{k}",
            "log10_kf": (str(k) == mean.K) & (kf[0] == "padded") & (kf[1] == "as they are")
            & (kf[2] == "1e-06"),
            "log10_kf_resolved": (str(k) == mean.K) & (kf[0] == "resolved")
            & (kf[1] == "as they are") & (kf[2] == "1e-06"),
        }  # fmt: skip
        expected = main[(main.modes == k) & (main.length == length)].set_index("component")
        for name, mask in chosen.items():
            observable = name.removesuffix("_resolved")
            specified = mean[mask & (mean.observable == observable)].set_index("component")
            assert len(specified) == 3
            for column, part in (("change", ""), ("low", "_low"), ("high", "_high"), ("n", "_n")):
                wanted = expected[f"delta_{name}{part}"][specified.index]
                np.testing.assert_allclose(specified[column], wanted, rtol=1e-3, atol=1e-4)


def test_readings_are_their_formulas() -> None:
    spectrum = np.sort(np.random.default_rng(0).uniform(0.1, 9, 60))[::-1][:50]
    made = {
        (name, *sorted(choices.items())): float(values[0, 0])
        for name, choices, values in readings.readings(
            torch.from_numpy(spectrum.copy())[None, None]
        )
    }
    p = np.sqrt(spectrum[:20]) / np.sqrt(spectrum[:20]).sum()
    key = ("n_eff", ("K", "20"), ("p", "singular values"))
    assert made[key] == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    slope = -np.polyfit(np.log(np.arange(10, 51)), np.log(spectrum[9:50]), 1)[0]
    assert made[("alpha", ("modes fitted", "10-50"))] == pytest.approx(slope)
    fraction = spectrum[:10] / spectrum[:10].sum()
    key = ("log10_kf", ("K", "10"), ("eigenvalues", "fractions"), ("epsilon", "1e-03"),
           ("missing modes", "padded"))  # fmt: skip
    assert made[key] == pytest.approx(np.log10(10 * (1 / (fraction + 1e-3)).sum()))


def test_fractions_count_the_paper_s_side(table: pd.DataFrame) -> None:
    four = pd.DataFrame(
        {
            "parameters": 1, "model": "m", "component": "ffn", "observable": "n_eff",
            "change": [-3.0, -1.0, 2.0, np.nan, 1.0],
            "low": [-4.0, -2.0, 1.0, np.nan, -1.0], "high": [-2.0, 1.0, 3.0, np.nan, 2.0],
        }
    )  # fmt: skip
    summary = agreement(four, KNOWN).iloc[0]
    assert (summary.paper, summary.specifications) == ("falls", 4)
    assert (summary.agree, summary.certain, summary.opposite) == (50, 25, 25)
    rising = agreement(four.assign(observable="log10_kf"), KNOWN).iloc[0]
    assert (rising.paper, rising.agree, rising.certain) == ("rises", 50, 25)
    assert len(agreement(table, KNOWN)) == 9
