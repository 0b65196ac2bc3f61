"""The pooled table: planted activations whose pooled spectra are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from spectral.measurement.activations import ACTIVATIONS, kept_rows
from spectral.measurement.pooling import (
    ALL,
    CAP,
    CAPPED,
    DROPPED,
    HALVES,
    KEPT,
    MATCHED,
    UNSEEN,
    pooled_rows,
)
from spectral.measurement.store import write
from spectral.results.replication import changes, halves, jackknife
from spectral.spectra import effective_rank, eigenvalues

WIDTH, SPEAKERS, EACH = 12, 6, 4
MODES = (4, 10)


def _planted(
    path: Path, loops: bool = False, stressed: float = 1.0
) -> dict[str, dict[str, torch.Tensor]]:
    """Cross-attention of one layer; Hell's modes fall faster by the exponent ``stressed``."""
    generator = torch.Generator().manual_seed(1)
    rows, planted = [], {"clean": {}, "hell": {}}
    for speaker in range(SPEAKERS):
        for i in range(EACH):
            name = f"{speaker}-1-{i:04d}"
            looping = loops and i == 0
            for condition, power in (("clean", 1.0), ("hell", stressed)):
                tokens = 80 if looping and condition == "hell" else 20 + i
                law = torch.arange(1, WIDTH + 1) ** (-power / 2)
                values = torch.randn(tokens, WIDTH, generator=generator) * law
                if looping and condition == "hell":
                    values = values[:1].repeat(tokens, 1)
                planted[condition][name] = values
                for component in ("self_attention", "cross_attention", "ffn"):
                    rows.append(
                        {
                            "model": "planted",
                            "parameters": 1,
                            "utterance": name,
                            "speaker": str(speaker),
                            "condition": condition,
                            "subset": "a" if speaker < 3 else "b",
                            "component": component,
                            "layer": 1,
                            "tokens": tokens,
                            "outcome": "correct",
                            "compression_ratio": 5.0 if tokens == 80 else 1.0,
                            "activations": values.numpy().tobytes(),
                        }
                    )
    write(rows, path, {}, ACTIVATIONS)
    return planted


def _table(path: Path, seen: list[str] | None = None, draws: int = 0) -> pd.DataFrame:
    table = pd.DataFrame(pooled_rows(path, seen or [], MODES, draws, seed=0))
    return table.assign(decoding="openai")


def test_activations_come_back_as_they_were(tmp_path: Path) -> None:
    planted = _planted(tmp_path / "rows.parquet")
    found = list(kept_rows(tmp_path / "rows.parquet", "ffn", 1))
    assert len(found) == 2 * SPEAKERS * EACH
    for text, values in found:
        assert torch.equal(values, planted[str(text["condition"])][str(text["utterance"])])


def test_the_pooled_spectrum_is_that_of_all_rows_concatenated(tmp_path: Path) -> None:
    planted = _planted(tmp_path / "rows.parquet")
    table = _table(tmp_path / "rows.parquet")
    for condition in planted:
        rows = planted[condition]
        spectrum = eigenvalues(torch.cat(list(rows.values())))
        for k in MODES:
            (line,) = table.query(
                "condition == @condition and modes == @k and component == 'ffn' and layer == 1 "
                "and sample == 'all' and loops == 'kept'"
            ).to_dict("records")
            assert line["n_eff"] == pytest.approx(effective_rank(spectrum, k).item(), rel=1e-6)
            kept = spectrum[:k]
            assert line["kirchhoff_shares"] == pytest.approx((kept.sum() / kept).sum().item())
            assert line["tokens"] == sum(map(len, rows.values()))


def test_leaving_a_speaker_out_leaves_out_that_speakers_rows(tmp_path: Path) -> None:
    planted = _planted(tmp_path / "rows.parquet")["hell"]
    table = _table(tmp_path / "rows.parquet")
    (line,) = table.query(
        "condition == 'hell' and modes == 10 and component == 'ffn' and layer == 0 and "
        "sample == 'all' and loops == 'kept' and without == '2'"
    ).to_dict("records")
    rest = torch.cat([rows for name, rows in planted.items() if not name.startswith("2-")])
    assert line["n_eff"] == pytest.approx(effective_rank(eigenvalues(rest), 10).item(), rel=1e-6)
    assert line["speakers"] == SPEAKERS - 1


def test_what_is_done_about_loops(tmp_path: Path) -> None:
    planted = _planted(tmp_path / "rows.parquet", loops=True)
    table = _table(tmp_path / "rows.parquet").query(
        "component == 'ffn' and layer == 0 and sample == 'all' and modes == 4 and without == ''"
    )
    tokens = table.set_index(["loops", "condition"]).tokens
    plain = [name for name in planted["hell"] if not name.endswith("0000")]
    lengths = {side: {n: len(r) for n, r in rows.items()} for side, rows in planted.items()}
    assert tokens[KEPT, "hell"] == sum(lengths["hell"].values())
    assert tokens[DROPPED, "hell"] == sum(lengths["hell"][name] for name in plain)
    assert tokens[DROPPED, "clean"] == sum(lengths["clean"][name] for name in plain)
    assert tokens[CAPPED, "hell"] == sum(min(CAP, n) for n in lengths["hell"].values())
    assert tokens[MATCHED, "hell"] == tokens[MATCHED, "clean"]


def test_samples_are_of_the_utterances_that_they_name(tmp_path: Path) -> None:
    _planted(tmp_path / "rows.parquet")
    seen = [f"{speaker}-1-0001" for speaker in range(SPEAKERS)]
    table = _table(tmp_path / "rows.parquet", seen, draws=3).query("without == '' and layer == 1")
    counts = table.groupby("sample").utterances.agg(["min", "max"])
    assert counts.loc[ALL].tolist() == [SPEAKERS * EACH] * 2
    assert counts.loc[UNSEEN].tolist() == [SPEAKERS * (EACH - 1)] * 2
    assert counts.loc["a"].tolist() == counts.loc["b"].tolist() == [SPEAKERS * EACH // 2] * 2


def test_a_planted_fall_is_found_and_no_change_is_not(tmp_path: Path) -> None:
    _planted(tmp_path / "falls.parquet", stressed=2.0)
    _planted(tmp_path / "same.parquet")
    for name, falls in (("falls", True), ("same", False)):
        table = changes(_table(tmp_path / f"{name}.parquet"), "hell")
        (line,) = table.query(
            "component == 'ffn' and sample == 'all' and loops == 'kept' and modes == 10"
        ).to_dict("records")
        assert (line["n_eff_high"] < 0) == falls
        assert (line["alpha_low"] > 0) == falls
        assert (line["log10_difference_low"] > -np.inf) == falls
        law = torch.arange(1, WIDTH + 1).double()
        if falls:
            expected = effective_rank(law**-2, 10) / effective_rank(law**-1, 10) - 1
            assert line["n_eff_low"] < 100 * expected.item() < line["n_eff_high"]
            assert line["alpha_low"] < 1 < line["alpha_high"]


def test_halves_of_clean_speech_differ_by_chance_alone(tmp_path: Path) -> None:
    _planted(tmp_path / "rows.parquet", stressed=2.0)
    table = _table(tmp_path / "rows.parquet", draws=20)
    found = halves(table).query("component == 'ffn' and modes == 10").iloc[0]
    assert found.n_eff_low < 0 < found.n_eff_high
    assert found.draws == 20
    assert set(table.query(f"sample == '{HALVES}'").layer) == {0}


def test_the_jackknife_covers_a_mean_of_few_unequal_clusters() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(800):
        sizes = rng.integers(2, 12, 12)
        clusters = [rng.normal(rng.normal(0, 1), 1, size) for size in sizes]
        whole = np.concatenate(clusters).mean()
        rest = [np.concatenate(clusters[:i] + clusters[i + 1 :]).mean() for i in range(12)]
        found = jackknife(float(whole), np.array(rest))
        covered.append(found.low < 0 < found.high)
    assert 0.92 < np.mean(covered) < 0.98


def test_a_jackknife_of_nan_or_of_one_cluster_is_no_interval() -> None:
    for without in (np.array([1.0]), np.array([1.0, np.nan, 2.0])):
        found = jackknife(1.0, without)
        assert np.isnan(found.low)
        assert np.isnan(found.high)
