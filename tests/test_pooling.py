"""The pooled table: planted activations whose pooled spectra are known."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from companion.measurement import pooling
from companion.measurement.kinds import KINDS
from companion.measurement.store import read, write
from companion.models.capture import COMPONENTS
from companion.results.replication import changes, controls, halves, next_draw, spread_of_halves
from spectral.spectra import effective_rank, eigenvalues

Planted = dict[str, dict[str, torch.Tensor]]  # activations by condition and utterance
Plain = tuple[Path, Planted, pd.DataFrame]
WIDTH, SPEAKERS, PER_SPEAKER = 12, 6, 4
MODES = (4, 10)


def _planted(
    path: Path,
    loops: bool = False,
    stressed: float = 1.0,
    networks: tuple[str, ...] = (pooling.TRAINED,),
) -> Planted:
    """One layer, alike for every component; Hell's modes fall by the exponent ``stressed``."""
    generator = torch.Generator().manual_seed(1)
    planted: Planted = {"clean": {}, "hell": {}}
    rows = []
    for network, speaker, i in product(networks, range(SPEAKERS), range(PER_SPEAKER)):
        name = f"{speaker}-1-{i:04d}"
        for condition, power in (("clean", 1.0), ("hell", stressed)):
            looping = loops and i == 0 and condition == "hell"
            tokens = 80 if looping else 20 + i
            law = torch.arange(1, WIDTH + 1) ** (-power / 2)
            values = torch.randn(tokens, WIDTH, generator=generator) * law
            if looping:
                values = values[:1].repeat(tokens, 1)
            if network == pooling.TRAINED:
                planted[condition][name] = values
            empty: dict[str, object] = dict.fromkeys(pooling.ACTIVATIONS.names)
            columns = {pooling.column_of(part, 1): values.numpy().tobytes() for part in COMPONENTS}
            rows.append(
                empty | columns | {
                    "model": "planted", "parameters": 1, "decoding": "openai",
                    "network": network, "utterance": name, "speaker": str(speaker),
                    "subset": "a" if speaker < 3 else "b",
                    "condition": condition, "tokens": tokens, "layers": 1,
                    "compression_ratio": 5.0 if looping else 1.0, "outcome": "correct",
                }
            )  # fmt: skip
    write(rows, path, {}, pooling.ACTIVATIONS)
    return planted


def _table(
    path: Path, seen: tuple[str, ...] = (), halves: int = 0, controls: int = 0
) -> pd.DataFrame:
    listed = path.with_suffix(".txt")
    listed.write_text("\n".join(seen))
    settings = pooling.PoolingSettings(
        model="planted", ladder=path, corpus=path, output=path, conditions=("clean", "hell"),
        decoding="openai", seed=0, batch=1, device="cpu", utterances=None, decodings=("openai",),
        activations=path, seen=listed, modes=MODES, halves=halves, controls=controls,
        control_utterances=None,
    )  # fmt: skip
    return pd.DataFrame(pooling.pooled_rows(path, settings, "openai"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """Activations, in a file and out of it, and what is pooled of them."""
    path = tmp_path_factory.mktemp("planted") / "rows.parquet"
    return path, _planted(path), _table(path)


def only(table: pd.DataFrame, **where: object) -> dict[str, Any]:
    """The one row of the FFN, of all utterances and loops as they are, of which this is true."""
    where |= {"component": "ffn", "sample": "all", "loops": "kept"}
    (row,) = table[(table[list(where)] == list(where.values())).all(axis=1)].to_dict("records")
    return row


def test_activations_come_back_as_they_were(plain: Plain) -> None:
    path, planted, _ = plain
    stored = list(pooling.kept_rows(path, "ffn", 1, "openai", pooling.TRAINED))
    assert len(stored) == 2 * SPEAKERS * PER_SPEAKER
    for condition, utterance, values in stored:
        assert torch.equal(values, planted[condition][utterance])


def test_the_pooled_spectrum_is_that_of_all_rows_concatenated(plain: Plain) -> None:
    _, planted, table = plain
    for condition, rows in planted.items():
        spectrum = eigenvalues(torch.cat(list(rows.values())))
        for k in MODES:
            line = only(table, condition=condition, modes=k, layer=1)
            assert line["n_eff"] == pytest.approx(effective_rank(spectrum, k).item(), rel=1e-6)
            kept = spectrum[:k]
            assert line["kirchhoff_of_fractions"] == pytest.approx((kept.sum() / kept).sum().item())
            assert line["tokens"] == sum(map(len, rows.values()))


def test_leaving_a_speaker_out_leaves_out_that_speakers_rows(plain: Plain) -> None:
    _, planted, table = plain
    line = only(table, condition="hell", modes=10, layer=0, without="2")
    rest = torch.cat([rows for name, rows in planted["hell"].items() if name[:2] != "2-"])
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
    assert tokens[pooling.KEPT, "hell"] == sum(lengths["hell"].values())
    assert tokens[pooling.DROPPED, "hell"] == sum(lengths["hell"][name] for name in plain)
    assert tokens[pooling.DROPPED, "clean"] == sum(lengths["clean"][name] for name in plain)
    capped = sum(min(pooling.CAP, n) for n in lengths["hell"].values())
    assert tokens[pooling.CAPPED, "hell"] == capped
    assert tokens[pooling.MATCHED, "hell"] == tokens[pooling.MATCHED, "clean"]


def test_an_utterance_without_a_transcript_adds_no_rows(plain: Plain, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = pq.read_table(plain[0]).to_pylist()
    for row in rows:
        if row["utterance"] == "0-1-0000" and row["condition"] == "hell":
            row |= {"tokens": 0} | {pooling.column_of(part, 1): b"" for part in COMPONENTS}
    write(rows, path, {}, pooling.ACTIVATIONS)
    table = _table(path).query("sample == 'all' and loops == 'kept' and layer == 1 and modes == 4")
    counts = table.groupby("condition").utterances.unique().map(list).to_dict()
    assert counts == {"clean": [SPEAKERS * PER_SPEAKER], "hell": [SPEAKERS * PER_SPEAKER - 1]}


def test_samples_are_of_the_utterances_that_they_name(plain: Plain) -> None:
    seen = tuple(f"{speaker}-1-0001" for speaker in range(SPEAKERS))
    table = _table(plain[0], seen, halves=3).query("without == '' and layer == 1")
    counts = table.groupby("sample").utterances.agg(["min", "max"])
    assert counts.loc[pooling.ALL].tolist() == [SPEAKERS * PER_SPEAKER] * 2
    assert counts.loc[pooling.UNSEEN].tolist() == [SPEAKERS * (PER_SPEAKER - 1)] * 2
    assert counts.loc["a"].tolist() == counts.loc["b"].tolist() == [SPEAKERS * PER_SPEAKER // 2] * 2


def test_a_planted_fall_is_found_and_no_change_is_not(plain: Plain, tmp_path: Path) -> None:
    _planted(tmp_path / "falls.parquet", stressed=2.0)
    for table, falls in ((_table(tmp_path / "falls.parquet"), True), (plain[2], False)):
        line = only(changes(table, "hell"), modes=10)
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
    table = _table(tmp_path / "rows.parquet", halves=20)
    drawn = halves(table)
    assert len(drawn) == 20 * len(COMPONENTS) * len(MODES)
    spread = spread_of_halves(drawn).query("component == 'ffn' and modes == 10").iloc[0]
    assert spread.n_eff_low < 0 < spread.n_eff_high
    assert spread.draws == 20
    assert set(table.query(f"sample == '{pooling.HALVES}'").layer) == {0}


def test_controls_are_pooled_as_the_trained_network_is(tmp_path: Path) -> None:
    names = tuple(pooling.control_name(draw) for draw in range(4))
    _planted(tmp_path / "rows.parquet", stressed=2.0, networks=(pooling.TRAINED, *names))
    table = _table(tmp_path / "rows.parquet", controls=4)
    where = "component == 'ffn' and loops == 'kept' and modes == 10 and sample == 'sampled'"
    trained = changes(table, "hell").query(where).iloc[0]
    random = controls(table, "hell").query(where).iloc[0]
    assert random.draws == 4
    assert random.n_eff_low < trained.n_eff < random.n_eff_high


def test_the_next_draw_lies_where_it_is_expected() -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        interval = next_draw(rng.normal(3, 2, 5))
        inside.append(interval.low < rng.normal(3, 2) < interval.high)
    assert 0.93 < np.mean(inside) < 0.97


# --- moments, which add and give the spectra of any union of rows --------------------------------


def _drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, 13, dtype=torch.float64) ** -1.5
    rows = torch.randn(90, 12, generator=generator, dtype=torch.float64) * scale + 2.0
    return rows, torch.randint(5, (90,), generator=generator)


def test_a_union_has_the_spectrum_of_its_rows_each_as_often_as_its_weight() -> None:
    rows, group = _drawn()
    weights = torch.tensor([[1.0, 0.0, 2.0, 0.0, 1.0], [0.0, 1.0, 0.0, 3.0, 0.0], [1.0] * 5])
    counts, spectra = pooling.union_spectra(rows, group, weights)
    for union, count, spectrum in zip(weights, counts, spectra, strict=True):
        taken = rows.repeat_interleave(union[group].long(), dim=0)
        assert count == len(taken)
        torch.testing.assert_close(spectrum, eigenvalues(taken), rtol=1e-9, atol=1e-13)


def test_a_large_mean_costs_no_more_digits_than_stated() -> None:
    rows, group = _drawn()
    _, far = pooling.union_spectra(rows + 1e3, group, torch.ones(1, 5))
    torch.testing.assert_close(far[0], eigenvalues(rows), rtol=0, atol=1e-9)


def test_groups_of_one_row_or_none_have_no_spectrum() -> None:
    counts, spectra = pooling.union_spectra(torch.randn(1, 4), torch.tensor([1]), torch.eye(3))
    assert counts.tolist() == [0, 1, 0]
    assert not spectra.any()


def test_modes_below_the_noise_are_zero_and_nan_is_refused() -> None:
    rows, group = torch.zeros(6, 3, dtype=torch.float64), torch.zeros(6, dtype=torch.long)
    rows[:3, 0], rows[:2, 1] = 1.0, 1e-6
    _, modes = pooling.union_spectra(rows, group, torch.ones(1, 1))
    assert (modes[0] > 0).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="finite"):
        pooling.union_spectra(rows * torch.nan, group, torch.ones(1, 1))


def test_models_that_are_measured_at_once_keep_activations_of_their_own(
    settings_of: Callable[..., pooling.PoolingSettings], tmp_path: Path
) -> None:
    """Whatever their files of rows are called: the engine calls every one "0-of-1.parquet"."""
    (tmp_path / "seen.txt").write_text("")
    first = settings_of(
        "pooling", utterances=4, decodings=("unrestricted",), activations=tmp_path / "kept",
        seen=tmp_path / "seen.txt", modes=(2,), halves=0, controls=0, control_utterances=None,
        output=tmp_path / "a" / "0-of-1.parquet",
    )  # fmt: skip
    shutil.copytree(first.ladder / "tiny-0", tmp_path / "ladder" / "tiny-1")
    second = replace(
        first, model="tiny-1", ladder=tmp_path / "ladder", output=tmp_path / "b" / "0-of-1.parquet"
    )
    for settings in (first, second):
        KINDS["pooling"].measure(settings)
        assert set(read([settings.output], pooling.POOLING).model) == {settings.model}
    assert len([*(tmp_path / "kept").glob("*.parquet")]) == 2
    assert KINDS["pooling"].measure(first).measured == 0, "its activations are there still"


def test_a_shard_of_pooled_utterances_is_refused(
    settings_of: Callable[..., pooling.PoolingSettings], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"shard is .*pooled, so give \[0, 1\]"):
        settings_of(
            "pooling", decodings=(), activations=tmp_path, seen=tmp_path, modes=(2,), halves=0,
            controls=0, control_utterances=None, shard=(0, 2),
        )  # fmt: skip
