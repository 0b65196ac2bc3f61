"""The inputs that make models invent, and the table of what is written for them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from companion.measurement.inputs import INPUTS, clips, input_rows, inputs
from companion.measurement.store import read, write
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.models.view import SpeechModel
from companion.results.transcripts import (
    kinds_of_transcript,
    shortened,
    with_outcomes,
    words_from_nonspeech,
    written,
)
from companion.speech.corpus import SAMPLE_RATE, find_utterances
from companion.stress.inputs import ROOM_TONE, from_speech, pink_noise, without_speech
from companion.stress.mixture import rms

CLIP = np.random.default_rng(1).standard_normal(2 * SAMPLE_RATE).astype(np.float32) / 10
NOTHING = {sound.name: sound.wave for sound in without_speech(seed=0)}
SPOKEN = {sound.name: sound for sound in from_speech("clip", CLIP, "TWO WORDS", seed=0)}

BOTH = (OPENAI, UNRESTRICTED)


def test_inputs_without_speech_are_what_they_are_called() -> None:
    assert NOTHING["zeros, 30 s"].shape == (30 * SAMPLE_RATE,)
    assert not NOTHING["zeros, 30 s"].any()
    assert rms(NOTHING["white noise of RMS 0.01, 5 s"]) == pytest.approx(0.01, rel=0.02)
    peaks = np.abs(np.fft.rfft(NOTHING["chord, 20 s"])).argsort()[-3:] / 20
    assert sorted(peaks) == pytest.approx([261.65, 329.65, 392.0])
    assert np.abs(np.fft.rfft(NOTHING["tone of 440 Hz, 5 s"])).argmax() / 5 == 440


def test_the_same_seed_gives_the_same_samples_and_another_does_not() -> None:
    again, other = ({e.name: e.wave for e in without_speech(seed)} for seed in (0, 1))
    for name, wave in NOTHING.items():
        np.testing.assert_array_equal(wave, again[name])
        assert ("noise" in name) != np.array_equal(wave, other[name])


def test_speech_that_goes_wrong_is_what_it_is_called() -> None:
    np.testing.assert_array_equal(SPOKEN["clip"].wave, CLIP)
    room = SPOKEN["clip, then room tone to 30 s"].wave
    assert room.size == 30 * SAMPLE_RATE
    np.testing.assert_array_equal(room[: CLIP.size], CLIP)
    assert rms(room[CLIP.size :]) == pytest.approx(ROOM_TONE, rel=1e-5)
    power = np.abs(np.fft.rfft(SPOKEN["clip at 8 kHz"].wave)) ** 2
    assert power[int(0.55 * len(power)) :].sum() < 1e-4 * power.sum()
    clipped = SPOKEN["clip, clipped at 0.1 of its peak"].wave
    assert np.abs(clipped).max() == pytest.approx(0.1 * np.abs(CLIP).max())
    assert SPOKEN["clip, 2.5 times faster (wsola)"].wave.size == round(CLIP.size / 2.5)
    np.testing.assert_array_equal(SPOKEN["clip, ten times"].wave.reshape(10, -1), [CLIP] * 10)
    assert SPOKEN["clip, ten times"].reference.split() == ["TWO", "WORDS"] * 10
    assert not SPOKEN["clip after 3 s of zeros"].wave[: 3 * SAMPLE_RATE].any()


def test_pink_noise_has_as_much_power_in_every_octave() -> None:
    power = np.abs(np.fft.rfft(pink_noise(2**18, np.random.default_rng(0)))) ** 2
    octaves = [power[2**k : 2 ** (k + 1)].sum() for k in range(8, 17)]
    assert max(octaves) < 1.3 * min(octaves)


def test_every_input_has_a_row_for_every_rule(
    tiny: SpeechModel, speech: Path, tmp_path: Path
) -> None:
    names = [utterance.id for utterance in find_utterances(speech).utterances[:2]]
    given = inputs(speech, names, seed=0)[12:20]
    rows = input_rows(tiny, given, [rule.name for rule in BOTH], batch=3)
    write(rows, tmp_path / "a.parquet", {}, INPUTS)
    table = read([tmp_path / "a.parquet"], INPUTS)
    assert len(table) == len(given) * len(BOTH)
    alone = input_rows(tiny, given[-1:], ["openai"], batch=1)[0]
    (same,) = [r for r in rows if (r["input"], r["decoding"]) == (given[-1].name, "openai")]
    assert same["transcript"] == alone["transcript"]
    assert same["forbidden_mass"] == pytest.approx(alone["forbidden_mass"], rel=1e-5)


def test_an_utterance_that_is_not_there_is_named(speech: Path) -> None:
    with pytest.raises(ValueError, match="no utterance '9-9-9999'"):
        inputs(speech, ["9-9-9999"], seed=0)


def test_the_table_has_a_row_per_input_and_a_column_per_model_and_rule() -> None:
    rows = pd.DataFrame(
        [
            {"model": model, "decoding": decoding, "input": given, "reference": reference,
             "transcript": f"{model} {decoding} {given}", 
             "no_speech_probability": 0.9, "forbidden_mass": 0.25}
            for model in ("b", "a") for decoding in ("openai", "unrestricted")
            for given, reference in (("zeros", ""), ("clip", "WORDS"))
        ]
    )  # fmt: skip
    rows = with_outcomes(rows)
    table = written(rows)
    assert list(table.input) == ["zeros", "clip"]
    assert table["a: openai"].to_list() == ['"a openai zeros"', '"a openai clip"']
    assert table["b: no-speech, forbidden"].to_list() == ["0.90, 0.25"] * 2
    kinds = kinds_of_transcript(rows)
    assert kinds[["inputs", "outcome"]].values.tolist() == [
        ["no speech", "gibberish"], ["speech", "gibberish"]
    ]  # fmt: skip
    assert (kinds["b: openai"] == 1).all()


def test_long_texts_are_shortened_and_fit_into_a_cell() -> None:
    assert shortened("no  line\nbreak | here") == '"no line break \\| here"'
    long = shortened("ha " * 200)
    assert len(long) <= 42
    assert long.endswith('…"')


def test_words_of_clips_without_speech_are_counted_by_rule() -> None:
    texts = {"openai": ["you", "Thank you.", "[BLANK_AUDIO] yes"],
             "unrestricted": ["[Music]", "...", "you"]}  # fmt: skip
    rows = pd.DataFrame(
        [
            {"parameters": 1, "model": "m", "decoding": decoding, "reference": "", "transcript": t}
            for decoding, written in texts.items() for t in written
        ] + [{"parameters": 1, "model": "m", "decoding": "openai", "reference": "SAID",
              "transcript": "said"}]
    )  # fmt: skip
    table = words_from_nonspeech(rows).set_index("decoding")
    assert table.loc["openai", ["clips", "with_words"]].to_list() == [3, 3]
    assert table.loc["unrestricted", ["clips", "with_words"]].to_list() == [3, 1]


def test_clips_are_inputs_in_which_nothing_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rain.wav", CLIP, SAMPLE_RATE, subtype="FLOAT")
    (given,) = clips(tmp_path)
    assert (given.name, given.reference) == ("rain", "")
    np.testing.assert_array_equal(given.wave, CLIP)
