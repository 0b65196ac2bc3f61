"""Measured choices against what they are said to be, computed another way."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from companion.measurement.choices import FORCED, POOLED, pooled
from companion.measurement.kinds import KINDS
from companion.measurement.run import Halving, by_speaker, pieces
from companion.measurement.schemas import CHOICES
from companion.measurement.settings import Settings
from companion.measurement.spectra import Side, spectra_of
from companion.measurement.store import read
from companion.measurement.texts import Batch
from companion.models.capture import capture
from companion.models.decoding import transcribe
from companion.models.forcing import feed
from companion.models.rules import UNRESTRICTED
from companion.models.view import SpeechModel
from companion.results.specifications import SLOWER, SLOWER_FITTING, measured, slow_utterances
from companion.speech.corpus import Utterance, find_utterances, read_wave
from companion.stress.conditions import condition
from companion.stress.mixture import Mixture, Speakers
from spectral.spectra import effective_rank, eigenvalues

RANK = "n_eff, 50, eigenvalues"
SLOW_RATE = 3.5


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., Settings]) -> Settings:
    return settings_of(
        "choices",
        conditions=("clean", "hell", "hell-slow", "hell-mix-stretch-noise"),
        seed=0,
        batch=9,
    )


@pytest.fixture(scope="module")
def rows(settings: Settings) -> pd.DataFrame:
    return read([KINDS["choices"].measure(settings).output], CHOICES)


def test_rows_with_a_large_mean_have_rank_one_when_they_are_not_centred() -> None:
    """Closed form: a mean of norm m adds T m^2 / (T - 1) to one eigenvalue."""
    drawn = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).double()
    planted = torch.linalg.qr(drawn - drawn.mean(0))[0] * 39**0.5  # the identity's covariance
    mean = 30 * torch.eye(8, dtype=torch.float64)[0]
    activations, length = (planted + mean)[None, None], torch.tensor([40])
    on, off = (spectra_of(activations, length, center=center) for center in (True, False))
    assert effective_rank(on).item() == pytest.approx(8)
    wanted = torch.tensor([[[1 + 900 * 40 / 39, *[1.0] * 7]]], dtype=torch.float64)
    torch.testing.assert_close(off, wanted)
    torch.testing.assert_close(effective_rank(off), effective_rank(wanted))
    assert effective_rank(off).item() < 1.1


def test_a_pooled_spectrum_is_that_of_the_concatenated_rows() -> None:
    activations = torch.randn(3, 2, 9, 5, generator=torch.Generator().manual_seed(1)).double()
    lengths = torch.tensor([9, 4, 6])
    texts = [{"speaker": name, "utterance": name, "windows": 1} for name in "aba"]
    by_speaker = pooled(Side(texts, activations, lengths))
    assert [text["speaker"] for text in by_speaker.texts] == ["a", "b"]
    assert by_speaker.lengths.tolist() == [15, 4]
    joined = torch.cat([activations[0, 1, :9], activations[2, 1, :6]])
    spectra = spectra_of(by_speaker.activations, by_speaker.lengths)
    torch.testing.assert_close(spectra[0, 1, :5], eigenvalues(joined))
    torch.testing.assert_close(spectra[1, 0, :4], eigenvalues(activations[1, 0, :4])[:4])


def test_speakers_are_never_parted() -> None:
    utterances = [Utterance(f"{v}-{i}", v, "A", Path()) for i, v in enumerate("aabbbc")]
    sizes = {size: [*map(len, pieces(utterances, size, by_speaker))] for size in (1, 4, 5, 6)}
    assert sizes == {1: [2, 3, 1], 4: [2, 4], 5: [5, 1], 6: [6]}
    batch: Batch = {
        "clean": [Mixture.of(utterance, np.ones(9, np.float32)) for utterance in utterances]
    }
    tried: list[list[str]] = []

    def crowded(part: Batch) -> list[dict[str, object]]:
        tried.append([mixture.target.speaker for mixture in part["clean"]])
        if len(part["clean"]) > 3:
            raise MemoryError("full")
        return []

    Halving(crowded, 6, by_speaker).rows(batch)
    assert ["".join(names) for names in tried] == ["aabbbc", "aa", "bbb", "c"]

    def full(part: Batch) -> list[dict[str, object]]:
        raise MemoryError("full")

    with pytest.raises(MemoryError, match="a-0: not enough memory for the 2 utterances of its"):
        Halving(full, 6, by_speaker).rows(batch)


def test_prompt_and_end_are_rows_of_their_own(tiny: SpeechModel, waves: list[np.ndarray]) -> None:
    waves = [*waves, np.concatenate(waves[:3])]  # the last of several windows
    with capture(tiny) as decoding:
        transcripts = transcribe(tiny, waves, UNRESTRICTED)
    with capture(tiny) as feeding:
        feed(tiny, waves, transcripts)
    prompt = len(tiny.tokens.prompt) - 1
    ended = [[len(part) < tiny.limit for part in text.windows] for text in transcripts]
    assert {flag for windows in ended for flag in windows} == {True, False}
    kept = {}
    for whole in (False, True):
        (decoded, mask), (fed, _) = (
            recording.text_rows("ffn", transcripts, whole) for recording in (decoding, feeding)
        )
        kept[whole] = mask.sum(-1).tolist()
        real = mask[:, None, :, None].expand(decoded.shape)
        torch.testing.assert_close(decoded[real], fed[real], rtol=1e-3, atol=1e-4)
    for of_text, of_all, windows in zip(kept[False], kept[True], ended, strict=True):
        assert of_all - of_text == prompt * len(windows) + sum(windows)
    text, everything = (decoding.text_rows("ffn", transcripts, whole)[0] for whole in (False, True))
    length = len(transcripts[0].tokens)
    assert torch.equal(everything[0, :, prompt : prompt + length], text[0, :, :length])
    assert torch.equal(everything[0, :, 0], decoding.rows("ffn")[0, :, 0])


def test_rows_are_of_whole_speakers_and_each_choice_changes_the_rank(rows: pd.DataFrame) -> None:
    """The check: rows add up over speakers that batches part, forced texts have one length."""
    assert KINDS["choices"].check(rows).startswith("8 crossed choices")
    key = ["utterance", "speaker", "forcing", "positions", "component", "pooling", "condition"]
    assert not rows.duplicated([*key, "matched_with", "centred"]).any()
    assert rows[rows.pooling == POOLED].speaker.nunique() == 7
    assert (rows[rows.forcing == FORCED].matched_with == "").all()
    raw = rows[(rows.matched_with == "") & (rows.condition == "hell")]
    switched = raw.set_index([*key, "centred"])[["tokens", RANK]].unstack("centred")
    assert (switched["tokens"][True] == switched["tokens"][False]).all()
    moved = (switched[RANK][True] - switched[RANK][False]).abs() > 1e-6
    assert moved.mean() > 0.9  # all but those whose mean happens to be near zero


def test_slow_speech_counts_where_it_fits_and_says_how_many(
    rows: pd.DataFrame, settings: Settings, tiny: SpeechModel
) -> None:
    corpus = find_utterances(settings.corpus).utterances
    slow, speakers = condition("hell-slow"), Speakers(corpus)
    clean = [Mixture.of(utterance, read_wave(utterance)) for utterance in corpus]
    waves = [slow.apply(mixture, speakers, 0).wave for mixture in clean]
    longer = [SLOW_RATE * mixture.wave.size for mixture in clean]
    assert all(wave.size >= round(length) for wave, length in zip(waves, longer, strict=True))
    fit = sum(wave.size <= tiny.window_samples for wave in waves)
    counts = slow_utterances(rows).loc[("tiny-0", "hell-slow")]
    assert (counts.utterances, counts.fitting) == (len(corpus), fit)
    assert fit < len(corpus)
    first = rows[rows.component == "ffn"]
    planted = first.assign(windows=first.windows.where(first.speaker != "1", 1))
    table = pd.concat(measured(planted, "hell"))
    slower = table[(table.utterances == "all") & table.stretch.str.startswith("slower")]
    made = slower.groupby("stretch").n.max().to_dict()
    slowed = planted[planted.condition == "hell-slow"].groupby("utterance").windows.max()
    in_one_window = int((slowed == 1).sum())
    assert made == {SLOWER: len(corpus), SLOWER_FITTING: in_one_window}
    assert 2 <= in_one_window < len(corpus)
