"""Measured rows against numpy and a fresh capture; and runs that are killed, full or fed badly."""

import errno
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from torch import Tensor

from companion.measurement import run as run_module
from companion.measurement import store
from companion.measurement.keys import (
    FORMER,
    VERSIONS,
    Key,
    difference,
    parameters,
    speech_digest,
)
from companion.measurement.kinds import KINDS
from companion.measurement.merging import merge_shards
from companion.measurement.run import Halving, RowsOf, Summary, key_of_parts, key_of_run, measure
from companion.measurement.schemas import CONFIDENCES, SPECTRA
from companion.measurement.settings import SpectralSettings, section_of
from companion.measurement.spectra import spectral_rows
from companion.measurement.store import read, read_meta, write
from companion.measurement.texts import Batch, Row
from companion.models.capture import COMPONENTS, HIDDEN_STATE, Recording, capture
from companion.models.checksums import write_checksums
from companion.models.decoding import Transcript, greedy
from companion.models.rules import UNRESTRICTED
from companion.models.view import SpeechModel
from companion.speech.corpus import Utterance, find_utterances, read_wave
from companion.stress.conditions import condition
from companion.stress.mixture import Mixture, Speakers
from companion.stress.scoring import score, wer

ROOT = Path(__file__).parents[1]
KEY = ["utterance", "condition", "matched_with", "component", "layer", "modes"]
MODES = (5, 10)
EPSILON = 1e-6
LAYERS = 2


def measured(settings: SpectralSettings, rows_of: RowsOf[Any] = spectral_rows) -> Summary:
    return measure("measure", settings, rows_of, SPECTRA)


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., SpectralSettings]) -> SpectralSettings:
    return settings_of("measure", modes=MODES, epsilon=EPSILON, seed=7)


@pytest.fixture(scope="module")
def summary(settings: SpectralSettings) -> Summary:
    return measured(settings)


@pytest.fixture(scope="module")
def table(summary: Summary) -> pd.DataFrame:
    return read([summary.output])


@pytest.fixture
def few(settings: SpectralSettings, tmp_path: Path) -> SpectralSettings:
    """Four utterances in two batches: enough to be killed between."""
    return replace(settings, output=tmp_path / "few.parquet", batch=2, utterances=4)


@pytest.fixture
def damaged(settings: SpectralSettings, tmp_path: Path) -> SpectralSettings:
    """All utterances of a copy of the corpus, to be damaged."""
    shutil.copytree(settings.corpus, tmp_path / "corpus")
    return replace(settings, corpus=tmp_path / "corpus", output=tmp_path / "damaged.parquet")


@pytest.fixture(scope="module")
def decoded(
    settings: SpectralSettings, tiny: SpeechModel, summary: Summary
) -> dict[str, tuple[list[Mixture], list[Transcript], Recording]]:
    """Every utterance under every condition, decoded and captured once more in one batch."""
    corpus = find_utterances(settings.corpus).utterances
    speakers = Speakers(corpus)
    by_condition = {}
    for name in settings.conditions:
        mixtures = [
            condition(name).apply(Mixture.of(u, read_wave(u)), speakers, settings.seed)
            for u in corpus
        ]
        with capture(tiny) as recording:
            transcripts = greedy(
                tiny, tiny.features([mixture.wave for mixture in mixtures]), UNRESTRICTED
            )
        by_condition[name] = (mixtures, transcripts, recording)
    return by_condition


# --- the table ----------------------------------------------------------------------------------


def test_there_is_one_row_per_utterance_condition_match_component_layer_and_modes(
    table: pd.DataFrame, summary: Summary
) -> None:
    assert not table.duplicated(KEY).any()
    sides = {("clean", ""), ("clean", "hell"), ("hell", ""), ("hell", "clean")}
    assert set(zip(table.condition, table.matched_with, strict=True)) == sides
    assert len(table) == 14 * len(sides) * len(COMPONENTS) * LAYERS * len(MODES)
    for name, values in {"component": COMPONENTS, "layer": (1, 2), "modes": MODES}.items():
        assert set(table[name]) == set(values)
    assert table.utterance.nunique() == summary.measured == 14
    assert (summary.resumed, summary.skipped) == (0, {})
    stored = pq.read_table(summary.output)
    assert stored.schema.remove_metadata().equals(SPECTRA)
    assert not any(stored[name].null_count for name in SPECTRA.names)


def test_texts_and_confidences_are_those_of_a_fresh_decoding(
    table: pd.DataFrame, decoded: dict[str, Any]
) -> None:
    for name, (mixtures, transcripts, _) in decoded.items():
        for mixture, transcript in zip(mixtures, transcripts, strict=True):
            rows = table[(table.utterance == mixture.target.id) & (table.condition == name)]
            assert set(rows[rows.matched_with == ""].tokens) == {len(transcript.tokens)}
            for column in (*CONFIDENCES, "no_speech_probability"):
                np.testing.assert_allclose(
                    rows[column], getattr(transcript, column), rtol=0, atol=1e-6
                )
            errors = score(mixture.references, transcript.text)
            expected = {
                "transcript": transcript.text, "finished": transcript.finished,
                "compression_ratio": transcript.compression_ratio,
                "speaker": mixture.target.speaker, "reference": mixture.target.reference,
                "wer": wer(mixture.target.reference, transcript.text),
                "candidate": errors.is_candidate,
            }  # fmt: skip
            assert rows[[*expected]].drop_duplicates().to_dict("records") == [expected]
            row = rows.iloc[0]
            assert list(row.interferers) == [part.utterance.id for part in mixture.parts[1:]]
            assert len(row.interferers) == (5 if name == "hell" else 0)
            assert tuple(row.interferer_wers) == errors.interferers
            assert (row.outcome == "empty") == (transcript.text == "")


def test_matched_rows_have_on_both_sides_as_many_tokens_as_the_shorter(table: pd.DataFrame) -> None:
    sides = table.groupby(["utterance", "matched_with", "condition"]).tokens.first().unstack()
    raw, matched = sides.xs("", level="matched_with"), sides.drop("", level="matched_with")
    shorter = raw.min(axis=1)[matched.index.get_level_values("utterance")]
    assert (matched.max(axis=1).to_numpy() == shorter.to_numpy()).all()
    assert raw.stack().nunique() > 2  # else this file would test little


def spectrum(rows: Tensor) -> np.ndarray:
    """Covariance eigenvalues by numpy's SVD in float64, noise below 1e-9 set to zero."""
    values = np.zeros(max(MODES))
    if len(rows) < 2:
        return values
    centred = rows.double().numpy() - rows.double().numpy().mean(0)
    eigenvalues = np.linalg.svd(centred, compute_uv=False) ** 2 / (len(rows) - 1)
    eigenvalues = np.where(eigenvalues < 1e-9 * eigenvalues[0], 0, eigenvalues)[: max(MODES)]
    values[: len(eigenvalues)] = eigenvalues
    return values


def test_eigenvalues_are_those_of_numpys_svd_on_a_fresh_capture(
    table: pd.DataFrame, decoded: dict[str, Any]
) -> None:
    for name, (mixtures, transcripts, recording) in decoded.items():
        for component in COMPONENTS:
            activations, _ = recording.text_rows(component, transcripts)
            rows = table[(table.condition == name) & (table.component == component)]
            for i, mixture in enumerate(mixtures):
                for row in rows[rows.utterance == mixture.target.id].itertuples():
                    expected = spectrum(activations[i, row.layer - 1, : row.tokens])
                    assert len(row.eigenvalues) == max(MODES)
                    np.testing.assert_allclose(
                        row.eigenvalues, expected, rtol=1e-4, atol=2e-6 * expected.max()
                    )


def test_n_eff_alpha_and_kf_follow_from_the_eigenvalues(table: pd.DataFrame) -> None:
    for row in table.itertuples():
        values = np.asarray(row.eigenvalues, dtype=np.float64)[: row.modes]
        kept = values[values > 0]
        assert min(row.resolved, row.modes) == len(kept)
        close = {"rel": 1e-4, "abs": 1e-12}  # the eigenvalues are stored in float32
        for name, spread in (("n_eff", kept), ("n_eff_singular", np.sqrt(kept))):
            fraction = spread / spread.sum() if len(kept) else spread
            entropy = -(fraction * np.log(fraction)).sum()
            expected = math.exp(entropy) if len(kept) else 0.0
            assert getattr(row, name) == pytest.approx(expected, **close)
        padded = row.modes * (1 / (values + EPSILON)).sum()
        resolved = len(kept) * (1 / (kept + EPSILON)).sum()
        assert row.kirchhoff == pytest.approx(padded, **close)
        assert row.kirchhoff_resolved == pytest.approx(resolved, **close)
        if len(kept) == row.modes:
            x = np.log(np.arange(1, row.modes + 1))
            assert row.alpha == pytest.approx(-np.polyfit(x, np.log(values), 1)[0], rel=1e-4)


def test_a_missing_alpha_has_a_reason_and_missing_modes_part_the_two_kirchhoff_indices(
    table: pd.DataFrame,
) -> None:
    missing = table.alpha.isna()
    assert 0 < missing.sum() < len(table)
    assert (missing == (table.alpha_reason != "")).all()
    assert (missing == (table.resolved < table.modes)).all()
    short, whole = table[missing], table[~missing]
    reasons = [f"{r.resolved} resolved modes, the fit needs {r.modes}" for r in short.itertuples()]
    assert list(short.alpha_reason) == reasons
    padding = short.modes * (short.modes - short.resolved) / EPSILON
    assert (short.kirchhoff >= padding * (1 - 1e-12)).all()
    assert (short.kirchhoff_resolved < short.kirchhoff).all()
    np.testing.assert_allclose(whole.kirchhoff, whole.kirchhoff_resolved, rtol=1e-12)


def graph_index(weights: np.ndarray) -> float:
    """n sum 1 / mu over the non-zero eigenvalues of the Laplacian of a connected graph."""
    if len(weights) < 2:
        return 0.0
    weights = (weights + weights.T) / 2
    np.fill_diagonal(weights, 0)
    mu = np.linalg.eigvalsh(np.diag(weights.sum(0)) - weights)
    return math.inf if mu[1] < 1e-9 * mu[-1] else float(len(weights) * (1 / mu[1:]).sum())


def test_graph_indices_are_those_of_the_attention_and_the_cosines_among_the_tokens(
    table: pd.DataFrame, decoded: dict[str, Any]
) -> None:
    mixtures, transcripts, recording = decoded["hell"]
    states, _ = recording.text_rows(HIDDEN_STATE, transcripts)
    rows = table[(table.condition == "hell") & (table.component == "ffn") & (table.modes == 5)]
    for i, mixture in enumerate(mixtures):
        for row in rows[rows.utterance == mixture.target.id].itertuples():
            attention = recording.attention(transcripts, row.layer - 1)[i].numpy()
            part = attention[:, : row.tokens, : row.tokens]
            directions = torch.nn.functional.normalize(
                states[i, row.layer - 1, : row.tokens].double(), dim=-1
            )
            cosines = (directions @ directions.mT).clamp(min=0).numpy()
            by_head = float(np.mean([graph_index(head.copy()) for head in part]))
            close = {"rel": 1e-3}
            assert row.attention_kirchhoff == pytest.approx(graph_index(part.mean(0)), **close)
            assert row.attention_kirchhoff_heads == pytest.approx(by_head, **close)
            assert row.similarity_kirchhoff == pytest.approx(graph_index(cosines), **close)


def test_rows_do_not_depend_on_the_size_of_the_batch_or_on_the_number_of_utterances(
    table: pd.DataFrame, few: SpectralSettings
) -> None:
    part = read([measured(few).output]).set_index(KEY).sort_index()
    whole = table.set_index(KEY).loc[part.index]
    assert len(set(part.reset_index().utterance)) == part.speaker.nunique() == 4
    for name in part.columns:
        if name == "eigenvalues":
            actual, expected = (np.stack(frame[name].to_list()) for frame in (part, whole))
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-6 * expected.max())
        elif part[name].dtype == float:
            np.testing.assert_allclose(part[name], whole[name], rtol=1e-4, atol=1e-6)
        else:
            assert part[name].map(str).equals(whole[name].map(str)), name


# --- provenance ---------------------------------------------------------------------------------


def test_a_file_says_where_it_comes_from(settings: SpectralSettings, summary: Summary) -> None:
    meta = read_meta(summary.output)
    key = key_of_run("measure", settings, find_utterances(settings.corpus).utterances)
    assert meta["key"] == key
    assert (key["kind"], key["version"]) == ("measure", VERSIONS["measure"])
    assert key["parameters"]["modes"] == list(MODES)
    assert (key["parameters"]["seed"], key["parameters"]["model"]) == (7, "tiny-0")
    assert torch.__version__.startswith(meta["packages"]["torch"])
    assert set(meta["packages"]) >= {"torch", "transformers", "numpy", "librosa", "pyarrow"}
    assert (meta["device"], meta["threads"]) == ("cpu", 1)
    assert meta["dtype"] == "float32"
    assert meta["python"].split(".")[0] == "3"
    assert meta["commit"]
    assert meta["skipped"] == {}


def test_the_key_changes_with_settings_weights_and_speech_but_not_with_paths(
    damaged: SpectralSettings, settings: SpectralSettings, tmp_path: Path
) -> None:
    def of(values: SpectralSettings) -> Key:
        return key_of_run("measure", values, find_utterances(values.corpus).utterances)

    first = of(settings)
    assert of(damaged) == first
    assert of(replace(damaged, device="cuda", output=tmp_path / "else.parquet")) == first
    changes = {"seed": 8, "modes": (5,), "epsilon": 1e-5, "conditions": ("clean",), "batch": 3}
    changes["decoding"] = "openai"
    for name, value in changes.items():
        changed = of(replace(damaged, **{name: value}))
        assert str(difference(first, changed)).startswith(f"{name} was ")
    path = damaged.corpus / "1" / "1" / "1-1-0000.flac"
    shutil.copy(damaged.corpus / "2" / "1" / "2-1-0000.flac", path)
    copied = of(damaged)
    assert difference(first, copied) == "other speech"
    path.unlink()
    assert difference(copied, of(damaged)) == difference(first, of(damaged)) == "other speech"
    shutil.copytree(damaged.ladder, tmp_path / "ladder")
    (tmp_path / "ladder" / "tiny-0" / "training.json").write_text("{}")
    write_checksums(tmp_path / "ladder" / "tiny-0")
    assert difference(first, of(replace(settings, ladder=tmp_path / "ladder"))) == "other weights"
    assert difference(first, {**first, "version": 2}) == "version 1 of measure, which is at 2"
    assert difference(first, {**first, "kind": "nulls"}) == "rows of measure"


def test_the_speech_is_ids_references_and_audio_whatever_the_folders(tmp_path: Path) -> None:
    def digest(*utterances: tuple[str, str, str]) -> str:
        corpus = []
        for i, (name, reference, audio) in enumerate(utterances):
            path = tmp_path / f"{i}-{len(list(tmp_path.iterdir()))}.flac"
            if audio:
                path.write_text(audio)
            corpus.append(Utterance(name, "1", reference, path))
        return speech_digest(corpus)

    first = digest(("1", "ONE", "a"), ("2", "TWO", "b"))
    assert first == digest(("1", "ONE", "a"), ("2", "TWO", "b"))
    others = [
        digest(("1", "ONE", "a")),
        digest(("1", "ONE", "b"), ("2", "TWO", "a")),
        digest(("1", "ONE", "a"), ("3", "TWO", "b")),
        digest(("1", "ONE", "a"), ("2", "THREE", "b")),
        digest(("1", "ONE", "a"), ("2", "TWO", "")),
    ]
    assert len({first, *others}) == len(others) + 1


@pytest.mark.parametrize("profile", ["ladder", "whisper"])
def test_a_notebook_is_keyed_by_just_what_its_settings_hold(profile: str) -> None:
    sections = yaml.safe_load((ROOT / "params" / f"{profile}.yml").read_text())
    assert set(KINDS) == set(VERSIONS)
    for kind in VERSIONS:
        needed, known = map(set, section_of(kind))
        assert needed <= {*sections[kind]} <= known
        values = {"model": "xs-0", "output": "rows.parquet", **sections[kind]}
        asked = {**FORMER.get(kind, {}), **parameters(values)}
        assert KINDS[kind].settings(**values).plain() == asked


@pytest.mark.parametrize("count", [3, 9])
def test_rows_are_the_same_whatever_the_number_of_shards(
    count: int, settings: SpectralSettings, summary: Summary, tmp_path: Path
) -> None:
    shards = []
    for which in range(count):
        shard = replace(settings, shard=(which, count), output=tmp_path / f"{which}.parquet")
        shards.append(measured(shard).output)
    merge_shards("measure", shards, tmp_path / "all.parquet")
    pd.testing.assert_frame_equal(read([tmp_path / "all.parquet"]), read([summary.output]))
    assert read_meta(tmp_path / "all.parquet") == read_meta(summary.output)


def test_parts_that_are_kept_let_any_number_of_shards_go_on_and_a_run_says_on_what_it_runs(
    few: SpectralSettings, tiny: SpeechModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = replace(few, parts=tmp_path / "parts")
    assert measured(replace(kept, shard=(0, 2))).resumed == 0
    where = f"tiny-0: {tiny.parameters / 1e6:.2f} million weights in float32 on cpu (threads: 1)"
    assert capsys.readouterr().out.splitlines()[0] == where
    summary = measured(replace(kept, output=tmp_path / "whole.parquet"))
    assert (summary.measured, summary.resumed) == (4, 2)
    assert measured(kept).resumed == 4


def test_parts_of_another_device_or_number_of_threads_are_not_mixed() -> None:
    cpu, key = torch.device("cpu"), {"kind": "measure"}
    first = key_of_parts(key, cpu)
    assert first == key_of_parts(key, cpu) != key_of_parts({"kind": "nulls"}, cpu)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert key_of_parts(key, cpu) != first
    finally:
        torch.set_num_threads(threads)


# --- killed runs --------------------------------------------------------------------------------


def failing_from(
    call: int, error: BaseException, real: Callable[..., Any]
) -> tuple[Callable[..., Any], list[Any]]:
    """``real``, but raising at its ``call``-th call and later; and the calls it got."""
    calls: list[Any] = []

    def function(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) >= call:
            raise error
        return real(*arguments, **options)

    return function, calls


def test_a_run_killed_in_the_middle_of_writing_a_part_goes_on_to_the_same_bytes(
    few: SpectralSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork of this process is killed as any process would be: it has no time to tidy up."""
    write_table, paths = pq.write_table, []

    def killed(table: object, path: Path, **options: object) -> None:
        paths.append(path)
        if len(paths) == 2:
            path.write_bytes(b"PAR1 and no more")
            os.kill(os.getpid(), signal.SIGKILL)
        write_table(table, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", killed)
        run = multiprocessing.get_context("fork").Process(target=measured, args=(few,))
        run.start()
        run.join()
    assert run.exitcode == -signal.SIGKILL
    parts = sorted(path.name for path in (tmp_path / "few.parts").iterdir())
    assert parts == ["00000.parquet", "00001.parquet.part"]
    counted, calls = failing_from(99, KeyboardInterrupt(), spectral_rows)
    summary = measured(few, counted)
    assert (len(calls), summary.measured, summary.resumed) == (1, 4, 2)
    assert "4 utterances measured (2 of them earlier), at most 2 at once, 0 skipped" in str(summary)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.parquet"]
    whole = measured(replace(few, output=tmp_path / "whole.parquet"))
    assert whole.output.read_bytes() == few.output.read_bytes()


def interrupted(values: SpectralSettings) -> Path:
    """The folder of parts of a run that was stopped before its second batch."""
    stopped, _ = failing_from(2, KeyboardInterrupt(), spectral_rows)
    with pytest.raises(KeyboardInterrupt):
        measured(values, stopped)
    return values.output.with_suffix(".parts")


def test_parts_of_other_settings_are_discarded(few: SpectralSettings) -> None:
    parts = interrupted(few)
    assert list(parts.iterdir())
    other = measured(replace(few, seed=8))
    assert other.resumed == 0
    assert read_meta(other.output)["key"]["parameters"]["seed"] == 8


@pytest.mark.parametrize("data", [b"", b"PAR1", None])
def test_a_part_cut_short_is_measured_again(few: SpectralSettings, data: bytes | None) -> None:
    (part,) = interrupted(few).iterdir()
    part.write_bytes(part.read_bytes()[:-100] if data is None else data)
    summary = measured(few)
    assert (summary.measured, summary.resumed) == (4, 0)
    assert read([summary.output]).utterance.nunique() == 4


# --- a full disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("write_number", [2, 3])
def test_a_full_disk_is_told_in_one_line_and_loses_nothing(
    few: SpectralSettings, monkeypatch: pytest.MonkeyPatch, write_number: int
) -> None:
    """At the second part, and at the merged file, which is the third to be written."""
    few.output.write_bytes(b"an older measurement")
    real, written = pq.write_table, []

    def filling(table: object, path: Path, **options: Any) -> None:
        written.append(path)
        real(table, path, **options)
        if len(written) >= write_number:
            path.write_bytes(b"PAR1")
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.pq, "write_table", filling)
        with pytest.raises(OSError, match=r"No space left.*free some space and run") as caught:
            measured(few)
    parts = few.output.with_suffix(".parts")
    target = few.output if write_number == 3 else parts / "00001.parquet"
    assert str(caught.value).startswith(f"{target}: cannot be written")
    assert "\n" not in str(caught.value)
    assert few.output.read_bytes() == b"an older measurement"
    assert sorted(path.suffix for path in parts.iterdir()) == [".parquet"] * (write_number - 1)
    summary = measured(few)
    assert (summary.measured, summary.resumed) == (4, 2 * (write_number - 1))


def test_an_output_folder_that_cannot_be_made_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"a\.parquet: cannot be written"):
        write([], tmp_path / "file" / "a.parquet", {})


# --- bad speech ---------------------------------------------------------------------------------


def flac(settings: SpectralSettings, name: str) -> Path:
    return settings.corpus / name.split("-")[0] / "1" / f"{name}.flac"


def spoil(settings: SpectralSettings, names: Iterable[str]) -> None:
    for name in names:
        path = flac(settings, name)
        path.write_bytes(path.read_bytes()[:-100])


def test_bad_utterances_are_skipped_with_their_reasons_and_the_others_measured_as_before(
    damaged: SpectralSettings, table: pd.DataFrame
) -> None:
    """Their speakers still interfere with others, through their other utterance."""
    spoil(damaged, ["3-1-0000"])
    flac(damaged, "5-1-0001").unlink()
    soundfile.write(flac(damaged, "6-1-0000"), np.zeros(4000), 16_000)
    soundfile.write(flac(damaged, "4-1-0001"), np.ones(1000) / 2, 16_000)
    transcript = damaged.corpus / "7" / "1" / "7-1.trans.txt"
    first, *others = transcript.read_text().splitlines(keepends=True)
    transcript.write_text(first.split()[0] + "\n" + "".join(others))

    summary = measured(damaged)
    reasons = {
        "3-1-0000": "fetch it again",
        "5-1-0001": "no audio file of that name",
        "6-1-0000": "samples are zero",
        "4-1-0001": "too few to stretch",
        "7-1-0000": "empty reference",
    }
    assert summary.skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in summary.skipped[name]
        assert f"  skipped {name}: " in str(summary)
        assert name in summary.skipped[name]
    assert (summary.measured, summary.resumed) == (9, 0)
    assert "9 utterances measured (0 of them earlier), at most 4 at once, 5 skipped" in str(summary)
    assert read_meta(summary.output)["skipped"] == summary.skipped

    rows = read([summary.output]).set_index(KEY).sort_index()
    assert set(rows.reset_index().utterance) == set(table.utterance) - set(reasons)
    unreadable = set(reasons) - {"4-1-0001"}  # short, but it can be heard in a mix
    assert not set(rows.interferers.explode().dropna()) & unreadable
    clean = rows[rows.index.get_level_values("matched_with") == ""].query("condition == 'clean'")
    before = table.set_index(KEY).loc[clean.index]
    np.testing.assert_allclose(clean.n_eff, before.n_eff, rtol=1e-4)
    assert (clean.transcript == before.transcript).all()


def test_a_batch_without_one_usable_utterance_adds_no_rows(damaged: SpectralSettings) -> None:
    spoil(damaged, ["1-1-0000", "1-1-0001"])
    summary = measured(replace(damaged, batch=2))
    assert summary.skipped.keys() == {"1-1-0000", "1-1-0001"}
    assert read([summary.output]).utterance.nunique() == summary.measured == 12


def test_skipped_utterances_are_reported_after_a_resumed_run(damaged: SpectralSettings) -> None:
    spoil(damaged, ["1-1-0000"])
    values = replace(damaged, batch=3)
    interrupted(values)
    summary = measured(values)
    assert summary.skipped.keys() == {"1-1-0000"}
    assert (summary.measured, summary.resumed) == (13, 2)


def test_nothing_usable_is_the_first_reason_and_no_file(damaged: SpectralSettings) -> None:
    spoil(damaged, [u.id for u in find_utterances(damaged.corpus).utterances])
    with pytest.raises(RuntimeError, match=r"no usable utterance; the first: .*1-1-0000\.flac: "):
        measured(damaged)
    assert not damaged.output.exists()


def test_a_corpus_of_too_few_speakers_for_the_mix_is_an_error_that_names_the_number(
    damaged: SpectralSettings,
) -> None:
    for speaker in (6, 7):
        shutil.rmtree(damaged.corpus / str(speaker))
    with pytest.raises(ValueError, match=r"5 interferers .* the corpus has 4") as caught:
        measured(damaged)
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_an_error_before_anything_is_written(few: SpectralSettings) -> None:
    with pytest.raises(FileNotFoundError, match="no model 'huge'; there are: tiny-0"):
        measured(replace(few, model="huge"))
    assert not few.output.with_suffix(".parts").exists()


# --- extreme transcripts
# ----------------------------------------------------------------------------


@pytest.fixture
def mixtures(settings: SpectralSettings) -> list[Mixture]:
    return [Mixture.of(u, read_wave(u)) for u in find_utterances(settings.corpus).utterances[:4]]


def writing(model: SpeechModel, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model's transcripts have these lengths: it really runs, but the end is put in."""
    step = model.step
    left: list[int] = []

    def limited(tokens: Tensor, context: Tensor, cache: object) -> Tensor:
        logits = step(tokens, context, cache)  # type: ignore[arg-type]
        left[:] = lengths if tokens.shape[1] > 1 else [length - 1 for length in left]
        for i, length in enumerate(left):
            logits[i, -1, model.tokens.end] = 99.0 if length <= 0 else -99.0
        return logits

    def kept(rows: Tensor) -> None:
        left[:] = [left[i] for i in rows.tolist()]

    monkeypatch.setattr(model, "step", limited)
    monkeypatch.setattr(model, "watchers", [*model.watchers, kept])


@pytest.mark.parametrize("lengths", [[0, 1, 2, 9], [0, 0, 0, 0]])
def test_transcripts_of_no_one_and_two_tokens_have_the_spectra_that_the_definitions_give(
    tiny: SpeechModel,
    settings: SpectralSettings,
    mixtures: list[Mixture],
    monkeypatch: pytest.MonkeyPatch,
    lengths: list[int],
    tmp_path: Path,
) -> None:
    writing(tiny, lengths, monkeypatch)
    rows = pd.DataFrame(
        spectral_rows(tiny, {"clean": mixtures}, replace(settings, conditions=("clean",)))
    )
    for mixture, length in zip(mixtures, lengths, strict=True):
        part = rows[rows.utterance == mixture.target.id]
        assert len(part) == len(COMPONENTS) * LAYERS * len(MODES)
        assert set(part.tokens) == {length}
        assert set(part.resolved) == {max(0, length - 1)}
        assert all(len(values) == max(MODES) for values in part.eigenvalues)
        if length <= 1:
            assert set(part.n_eff) == {0.0}
            assert set(part.kirchhoff_resolved) == {0.0}
            np.testing.assert_allclose(part.kirchhoff, part.modes**2 / EPSILON, rtol=1e-12)
            assert (part.attention_kirchhoff == 0).all()
            assert (part.similarity_kirchhoff == 0).all()
        if length == 2:
            np.testing.assert_allclose(part.n_eff, 1, rtol=1e-9)
        if length < min(MODES):
            assert part.alpha.isna().all()
        assert set(part.outcome == "empty") == {length == 0} or length == 1
    write(rows.to_dict("records"), tmp_path / "a.parquet", {})
    assert set(read([tmp_path / "a.parquet"]).tokens) == set(lengths)


def test_nan_activations_are_an_error_and_no_row(
    tiny: SpeechModel,
    settings: SpectralSettings,
    mixtures: list[Mixture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = Recording.rows

    def poisoned(self: Recording, kind: str) -> Tensor:
        activations = rows(self, kind).clone()
        if kind == "cross_attention":
            activations[0, 1, 5, 3] = torch.nan
        return activations

    monkeypatch.setattr(Recording, "rows", poisoned)
    with pytest.raises(ValueError, match="activations must be finite, got nan"):
        spectral_rows(tiny, {"clean": mixtures}, settings)


def test_nan_weights_are_an_error_that_names_the_model(
    ladder: Path, few: SpectralSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = run_module.load

    def broken(*arguments: Any) -> SpeechModel:
        model = load(*arguments)
        with torch.no_grad():
            model.layers[1].ffn.weight.fill_(torch.nan)  # type: ignore[operator]
        return model

    monkeypatch.setattr(run_module, "load", broken)
    with pytest.raises(ValueError, match="tiny-0: its logits are NaN"):
        measured(few)
    assert not few.output.exists()


# --- settings -----------------------------------------------------------------------------------


def test_settings_take_lists_and_texts_as_yaml_has_them(settings: SpectralSettings) -> None:
    plain = replace(
        settings,
        conditions=["clean", "hell"],  # type: ignore[arg-type]
        modes=[5, 10],  # type: ignore[arg-type]
        corpus=str(settings.corpus),  # type: ignore[arg-type]
        ladder=str(settings.ladder),  # type: ignore[arg-type]
        output=str(settings.output),  # type: ignore[arg-type]
    )
    assert plain == settings
    assert plain.plain() == settings.plain()


EXTRAS: dict[str, dict[str, object]] = {
    "measure": {"modes": MODES, "epsilon": EPSILON},
    "jacobians": {"tokens": 2, "probes": 1},
    "dynamics": {"steps": (1,), "folds": 2, "batch": 14, "utterances": 14},
    "subtle": {"levels_db": (20.0,), "draws": 1, "tokens": (1,)},
    "warnings": {"prefixes": (4,), "epsilon": EPSILON},
}
TOGETHER = "give a number of utterances and a batch that holds"


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("measure", "conditions", ("clean", "purgatory"), "no condition 'purgatory'; choose from"),
        ("measure", "conditions", ("hell",), "put 'clean' first"),
        ("measure", "conditions", (), "put 'clean' first"),
        ("measure", "decoding", "beam", "decoding is 'beam'; choose from openai, unrestricted"),
        ("measure", "modes", (), "modes is empty"),
        ("measure", "modes", (1, 10), "modes must be at least 2, got 1"),
        ("measure", "modes", (10.0,), "modes must be a whole number, got 10.0"),
        ("measure", "epsilon", 0.0, "epsilon is 0.0; give a number above 0"),
        ("measure", "epsilon", math.nan, "epsilon is nan"),
        ("measure", "epsilon", math.inf, "epsilon is inf"),
        ("measure", "epsilon", "1e-9", "epsilon is '1e-9'.*write 1.0e-9"),
        ("measure", "batch", 0, "batch must be at least 1, got 0"),
        ("measure", "batch", 2.5, "batch must be a whole number, got 2.5"),
        ("measure", "seed", -1, "seed must be at least 0"),
        ("measure", "seed", "0", "seed must be a whole number, got '0'"),
        ("measure", "utterances", 0, "utterances must be at least 1, got 0"),
        *(
            ("measure", "shard", wrong, "give which of how many")
            for wrong in ((1, 1), (-1, 2), (0,))
        ),
        ("jacobians", "tokens", 0, "tokens must be at least 1, got 0"),
        ("jacobians", "probes", 0, "probes must be at least 1, got 0"),
        ("dynamics", "utterances", None, TOGETHER),
        ("dynamics", "utterances", 15, TOGETHER),
        ("subtle", "levels_db", (0.0,), "levels_db has 0.0; give dB below the signal"),
        ("subtle", "draws", 0, "draws must be at least 1, got 0"),
        ("subtle", "tokens", (0,), "tokens must be at least 1, got 0"),
        ("warnings", "prefixes", (2, 8), "prefixes must be at least 3, got 2"),
    ],
)
def test_a_setting_that_makes_no_sense_is_an_error_with_its_name_and_value(
    settings_of: Callable[..., Any], kind: str, name: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(kind, **EXTRAS[kind] | {name: value})


# --- the store ----------------------------------------------------------------------------------


def test_a_row_of_other_columns_is_not_written(table: pd.DataFrame, tmp_path: Path) -> None:
    row = table.iloc[0].to_dict()
    for wrong in ({**row, "extra": 1}, {key: row[key] for key in row if key != "alpha"}):
        with pytest.raises(ValueError, match=r"columns .* are missing or not in the schema"):
            write([wrong], tmp_path / "a.parquet", {})
    assert list(tmp_path.iterdir()) == []


def test_reading_a_file_that_is_missing_cut_short_or_of_another_kind_names_it_and_the_remedy(
    summary: Summary, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(ValueError, match=r"a\.parquet: not measured yet; run `make figures`"):
        read([summary.output, path])
    path.write_bytes(summary.output.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"a\.parquet: no measurement .*; remove it"):
        read([path])
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"a\.parquet: no measurement .*; remove it"):
        read([path])
    stored = pq.read_table(summary.output)
    pq.write_table(stored.drop_columns(["alpha"]), path)
    with pytest.raises(ValueError, match=r"a\.parquet: columns of another version"):
        read([path])


def test_a_batch_has_the_rows_of_its_conditions_and_no_others(
    tiny: SpeechModel, settings: SpectralSettings, mixtures: list[Mixture]
) -> None:
    """Every condition is matched with clean, and clean with each; others not with each other."""
    names = ("clean", "noise", "stretch")
    batch = {name: mixtures[:1] for name in names}
    rows = spectral_rows(tiny, batch, replace(settings, conditions=names))
    pairs = {(row["condition"], row["matched_with"]) for row in rows}
    partners = {("noise", "clean"), ("stretch", "clean"), ("clean", "noise"), ("clean", "stretch")}
    assert pairs == partners | {(name, "") for name in names}


# --- little memory ------------------------------------------------------------------------------


def crowded(most: int, error: Exception) -> tuple[Callable[[Batch], list[Row]], list[int]]:
    """Rows of a batch that fits with so many utterances and no more, and the sizes tried."""
    tried: list[int] = []

    def rows_of(batch: Batch) -> list[Row]:
        sizes = {len(mixtures) for mixtures in batch.values()}
        tried.append(*sizes)
        if tried[-1] > most:
            raise error
        return [{"utterance": m.target.id, "condition": c} for c in batch for m in batch[c]]

    return rows_of, tried


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError("numpy"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_batch_too_large_for_the_memory_is_measured_in_pieces_and_so_are_all_later_ones(
    mixtures: list[Mixture], error: Exception
) -> None:
    batch: Batch = {"clean": mixtures, "hell": mixtures[::-1]}
    rows_of, tried = crowded(1, error)
    pieces = Halving(rows_of, largest=16)
    rows = pieces.rows(batch)
    wanted = [(c, m.target.id) for c in batch for m in batch[c]]
    assert sorted((row["condition"], row["utterance"]) for row in rows) == sorted(wanted)
    assert (tried, pieces.largest) == ([4, 2, 1, 1, 1, 1], 1)
    pieces.rows(batch)
    assert tried[6:] == [1] * 4


def test_an_utterance_that_does_not_fit_alone_is_named(mixtures: list[Mixture]) -> None:
    rows_of, _ = crowded(0, OUT_OF_MEMORY[0])
    with pytest.raises(MemoryError, match=f"{mixtures[0].target.id}: not enough memory") as caught:
        Halving(rows_of, largest=3).rows({"clean": mixtures})
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory(mixtures: list[Mixture]) -> None:
    rows_of, tried = crowded(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        Halving(rows_of, largest=4).rows({"clean": mixtures})
    assert tried == [4]


def test_a_measurement_short_of_memory_has_the_rows_of_smaller_batches(
    few: SpectralSettings, tmp_path: Path
) -> None:
    alone = measured(replace(few, batch=1, output=tmp_path / "alone.parquet"))

    def limited(model: SpeechModel, batch: Batch, settings: SpectralSettings) -> list[Row]:
        if len(batch["clean"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return spectral_rows(model, batch, settings)

    summary = measured(few, limited)
    assert (summary.measured, summary.batch) == (4, 1)
    assert "at most 1 at once" in str(summary)
    pd.testing.assert_frame_equal(read([summary.output]), read([alone.output]))
