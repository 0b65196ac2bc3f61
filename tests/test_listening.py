"""Teacher forcing against a loop by hand; rows and tables of listening."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import Tensor

from companion.measurement.kinds import KINDS
from companion.measurement.schemas import LISTENING, NONSPEECH
from companion.measurement.settings import ListeningSettings
from companion.measurement.store import read, read_meta
from companion.models.forcing import teacher_forced
from companion.models.view import SpeechModel
from companion.results.transcripts import (
    HEARD,
    NOTHING_SAID,
    listening_summary,
    nonspeech_transcripts,
)
from companion.speech.corpus import SAMPLE_RATE
from companion.speech.nothing import NO_SPEECH, no_speech
from companion.stress.scoring import wer


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., ListeningSettings]) -> ListeningSettings:
    return settings_of("listening", conditions=(*HEARD, *NOTHING_SAID))


TEXTS = ("the old sailor", "two")


def test_forced_scores_are_those_of_one_token_after_the_other(
    tiny: SpeechModel, features: Tensor
) -> None:
    forced = teacher_forced(tiny, features[:2], TEXTS)
    for i, text in enumerate(TEXTS):
        context, cache = tiny.encode(features[i : i + 1]), tiny.new_cache()
        logits = tiny.step(torch.tensor([tiny.tokens.prompt]), context, cache)
        losses, wrong = [], []
        for token in [*tiny.encode_text(text), tiny.tokens.end]:
            scores = logits[0, -1].double()
            scores[list(tiny.tokens.suppressed)] = -torch.inf
            scores = scores.log_softmax(-1)
            losses.append(-scores[token].item())
            wrong.append(int(scores.argmax()) != token)
            logits = tiny.step(torch.tensor([[token]]), context, cache)
        assert forced[i].loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert forced[i].token_error == pytest.approx(np.mean(wrong))


def test_a_text_does_not_depend_on_its_neighbours(tiny: SpeechModel, features: Tensor) -> None:
    both = teacher_forced(tiny, features[:2], TEXTS)
    alone = teacher_forced(tiny, features[1:2], TEXTS[1:])
    assert alone[0].loss == pytest.approx(both[1].loss, rel=1e-5)


def test_a_text_that_is_too_long_has_no_score_and_harms_no_other(
    tiny: SpeechModel, features: Tensor
) -> None:
    alone = teacher_forced(tiny, features[1:2], TEXTS[1:])[0]
    long, short = teacher_forced(tiny, features[:2], ["a" * 100, TEXTS[1]])
    assert np.isnan([long.loss, long.token_error]).all()
    assert short.loss == pytest.approx(alone.loss, rel=1e-5)


def test_a_text_with_unknown_characters_has_no_score(tiny: SpeechModel, features: Tensor) -> None:
    with pytest.raises(ValueError, match="tiny-0 lacks characters of 'caf\u00e9'; it knows caf"):
        tiny.encode_text("caf\u00e9")
    assert np.isnan(teacher_forced(tiny, features[:1], ["caf\u00e9"])[0].loss)


@pytest.fixture(scope="module")
def rows(settings: ListeningSettings) -> pd.DataFrame:
    """The tiny model takes 24 characters, so that long references have no forced score."""
    KINDS["listening"].measure(settings)
    return read([settings.output], LISTENING)


def test_every_utterance_has_a_row_per_condition(rows: pd.DataFrame) -> None:
    assert set(rows.condition) == {*HEARD, *NOTHING_SAID}
    assert not rows.duplicated(["utterance", "condition"]).any()
    assert rows.groupby("condition").utterance.nunique().nunique() == 1
    for row in rows.itertuples():
        assert row.wer == wer(row.reference, row.transcript)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "nonspeech"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("rain.flac", "cafe.wav", "more/birds.ogg"):
        soundfile.write(folder / name, 0.1 * rng.standard_normal(SAMPLE_RATE), SAMPLE_RATE)
    notes = 'file,class,note\nrain.flac,rain,on a roof\ncafe.wav,cafe,"babble: indistinct voices"\n'
    (folder / "clips.csv").write_text(notes)
    return folder


def test_clips_without_speech_are_rows_of_their_own(
    rows: pd.DataFrame, settings: ListeningSettings, clips: Path, tmp_path: Path
) -> None:
    beside = replace(settings, nonspeech=clips, output=tmp_path / "beside.parquet")
    assert beside.plain() == settings.plain()  # a place; the clips are part of the speech's digest
    summary = KINDS["listening"].measure(beside)
    table = read([beside.output], LISTENING)
    alone = table.condition == NONSPEECH
    assert set(table[alone].utterance) == {"rain", "birds"}
    assert (table[alone].reference == "").all()
    assert table[alone].forced_loss.isna().all()
    pd.testing.assert_frame_equal(table[~alone].reset_index(drop=True), rows)
    assert "left out, by its note (babble" in summary.skipped["cafe"]
    keys = [read_meta(path)["key"] for path in (beside.output, settings.output)]
    assert keys[0]["speech"] != keys[1]["speech"]
    transcripts = nonspeech_transcripts(table).set_index("condition")
    assert NONSPEECH in transcripts.index


def test_a_folder_without_clips_is_an_error(settings: ListeningSettings, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no audio below it; put clips without speech"):
        KINDS["listening"].measure(replace(settings, nonspeech=tmp_path / "nowhere"))


def test_two_clips_of_one_name_are_an_error(settings: ListeningSettings, clips: Path) -> None:
    (clips / "more" / "rain.wav").write_bytes((clips / "cafe.wav").read_bytes())
    with pytest.raises(ValueError, match="another clip is called rain too"):
        KINDS["listening"].measure(replace(settings, nonspeech=clips))


def test_what_audio_an_utterance_is_swapped_with_does_not_depend_on_the_batch(
    rows: pd.DataFrame, settings: ListeningSettings, tmp_path: Path
) -> None:
    alone = replace(settings, output=tmp_path / "one.parquet", batch=1)
    KINDS["listening"].measure(alone)
    other = read([alone.output], LISTENING)
    keys = ["utterance", "condition"]
    texts = [frame.set_index(keys).transcript.sort_index() for frame in (rows, other)]
    pd.testing.assert_series_equal(*texts)
    clean, swapped = (texts[0].xs(condition, level="condition") for condition in HEARD)
    assert (clean != swapped).any()


def test_tables_follow_from_the_rows(rows: pd.DataFrame) -> None:
    summary = listening_summary(rows).set_index("condition")
    assert set(summary.index) == set(HEARD)
    clean = rows[rows.condition == "clean"]
    words = clean.reference.str.split().str.len()
    expected = 100 * (clean.wer * words).sum() / words.sum()
    assert summary.loc["clean", "wer"] == pytest.approx(expected)
    assert summary.loc["clean", "forced_loss"] == pytest.approx(clean.forced_loss.mean())
    transcripts = nonspeech_transcripts(rows)
    fractions = transcripts.drop(
        columns=["parameters", "model", "condition", "no_speech_probability"]
    )
    np.testing.assert_allclose(fractions.sum(axis=1), 100)


@pytest.mark.parametrize("kind", NO_SPEECH)
def test_nothing_is_repeatable_and_as_long_as_asked(kind: str) -> None:
    first, second = (no_speech(kind, np.random.default_rng(5), 1000) for _ in range(2))
    assert np.array_equal(first, second)
    assert (first.shape, first.dtype) == ((1000,), np.float32)


def test_an_unknown_kind_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no audio called 'music'; choose from silence"):
        no_speech("music", np.random.default_rng(0), 10)
