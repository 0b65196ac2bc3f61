"""The corpus reader on good and bad files, the grammar, and the corpus that is shipped."""

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.speech import embedded, grammar, synthesis
from companion.speech.corpus import (
    SAMPLE_RATE,
    Corpus,
    UnusableUtterance,
    Utterance,
    find_utterances,
    read_wave,
)
from companion.speech.grammar import HELD_OUT_CONSTRUCTIONS, TRAINING_CONSTRUCTIONS
from companion.training.material import random_speaker

SHIPPED = Path(__file__).parents[1] / "data" / "corpus"
law = settings(derandomize=True, deadline=None, max_examples=30)


def tone(seconds: float = 0.5, rate: int = SAMPLE_RATE, pitch: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


def at(path: Path) -> Utterance:
    return Utterance("1-1-0000", "1", "A WORD", path)


def written(
    path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE, subtype: str | None = None
) -> Utterance:
    soundfile.write(path, samples, rate, subtype=subtype)
    return at(path)


def reason(utterance: Utterance) -> str:
    """Why an utterance is unusable: one line that starts with its path."""
    with pytest.raises(UnusableUtterance) as caught:
        read_wave(utterance)
    message = str(caught.value)
    assert message.startswith(f"{utterance.path}: ")
    assert "\n" not in message
    return message


def reason_of_bytes(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return reason(at(path))


# --- the layout ---------------------------------------------------------------------------------


def chapter(folder: Path, speaker: int, transcript: str | bytes, audio: list[str]) -> Path:
    place = folder / str(speaker) / "1"
    place.mkdir(parents=True, exist_ok=True)
    data = transcript.encode() if isinstance(transcript, str) else transcript
    (place / f"{speaker}-1.trans.txt").write_bytes(data)
    for name in audio:
        written(place / name, tone())
    return place


def test_utterances_come_in_order_of_their_ids_with_speaker_reference_and_path(
    tmp_path: Path,
) -> None:
    second = chapter(tmp_path, 2, "2-1-0001 LAST WORDS\n2-1-0000 FIRST\n", ["2-1-0000.flac"])
    first = chapter(tmp_path, 1, "1-1-0000 IT IS\n", ["1-1-0000.wav"])
    assert find_utterances(tmp_path) == Corpus(
        (
            Utterance("1-1-0000", "1", "IT IS", first / "1-1-0000.wav"),
            Utterance("2-1-0000", "2", "FIRST", second / "2-1-0000.flac"),
            Utterance("2-1-0001", "2", "LAST WORDS", second / "2-1-0001"),
        ),
        {},
    )


CAFE = "1-1-0000 CAFÉ\n".encode("latin-1") + "1-1-0001 CAFÉ\n".encode()
BLANKS = b"\xef\xbb\xbf\r\n1-1-0000 ONE  \r\n \t \r\n\x0c\r\n  1-1-0001\tTWO WORDS\r\n\r\n"


@pytest.mark.parametrize(
    ("transcript", "references", "fault"),
    [
        (BLANKS, ["ONE", "TWO WORDS"], ""),
        (b"1-1-0001 ONE\n", ["ONE"], "no transcript names it; add a line"),
        (b"1-1-0000\n1-1-0001 ONE\n", ["ONE"], "1-1-0000 has an empty reference; add its words"),
        (b"1-1-0000 \t  \n1-1-0001 ONE\n", ["ONE"], "empty reference; add its words"),
        (CAFE, ["CAFÉ"], "1-1-0000 is not in UTF-8; convert the file"),
    ],
)
def test_what_is_wrong_with_one_line_is_told_once_and_the_others_are_kept(
    transcript: bytes, references: list[str], fault: str, tmp_path: Path
) -> None:
    place = chapter(tmp_path, 1, transcript, ["1-1-0000.flac", "1-1-0001.flac"])
    corpus = find_utterances(tmp_path)
    assert [u.reference for u in corpus.utterances] == references
    assert list(corpus.rejected) == (["1-1-0000"] if fault else [])
    message = corpus.rejected.get("1-1-0000", f"{place}/")
    assert message.startswith(f"{place}/")
    assert fault in message


def test_a_transcript_without_audio_is_listed_and_then_unusable(tmp_path: Path) -> None:
    place = chapter(tmp_path, 1, "1-1-0000 ONE\n", [])
    (utterance,) = find_utterances(tmp_path).utterances
    assert "1-1-0000: no audio file of that name; restore it (.flac, " in reason(utterance)
    (place / "1-1-0000.mod").write_bytes(b"a tune")
    assert "no audio file of that name, only 1-1-0000.mod; restore it" in reason(utterance)


@law
@given(st.binary(max_size=200))
def test_whatever_bytes_a_transcript_holds_its_reasons_can_be_printed_and_stored(
    data: bytes,
) -> None:
    with TemporaryDirectory() as name:
        chapter(Path(name), 1, data, [])
        try:
            corpus = find_utterances(Path(name))
        except ValueError:  # an id given twice
            return
        for key, text in corpus.rejected.items():
            (key + text).encode("utf-8")
        for utterance in corpus.utterances:
            assert utterance.reference.strip() == utterance.reference != ""


def test_a_folder_that_is_no_corpus_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; name the one"):
        find_utterances(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"speaker/chapter/\*\.trans\.txt"):
        find_utterances(tmp_path)
    chapter(tmp_path, 1, "1-1-0000 ONE\n", [])
    chapter(tmp_path, 2, "1-1-0000 TWO\n", [])
    with pytest.raises(ValueError, match=r"2-1\.trans\.txt: utterance 1-1-0000 is listed twice"):
        find_utterances(tmp_path)


# --- good audio ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.flac", "a.wav"])
def test_the_samples_of_a_16_bit_file_come_back_exactly(tmp_path: Path, name: str) -> None:
    stored = np.round(tone() * 32767).astype(np.int16)
    wave = read_wave(written(tmp_path / name, stored))
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave, stored.astype(np.float32) / 32768)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
@pytest.mark.parametrize(("end", "within"), [("flac", 2e-3), ("mp3", 0.08)])
def test_any_rate_becomes_sixteen_kilohertz_and_no_sample_is_late(
    tmp_path: Path, rate: int, end: str, within: float
) -> None:
    wave = read_wave(written(tmp_path / f"a.{end}", np.stack([tone(1.0, rate)] * 2, axis=1), rate))
    assert len(wave) == SAMPLE_RATE
    np.testing.assert_allclose(wave[1000:-1000], tone(1.0)[1000:-1000], atol=within)


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\x10\0" + bytes(2048)])
def test_an_mp3_cut_short_is_unusable(tmp_path: Path, tag: bytes) -> None:
    path = written(tmp_path / "a.mp3", tone(3.0)).path
    data = path.read_bytes()
    path.write_bytes(tag + data)
    assert len(read_wave(at(path))) == 3 * SAMPLE_RATE
    for kept in (0.3, 0.8, 0.97):
        assert "fetch it again" in reason_of_bytes(path, tag + data[: int(kept * len(data))])


def test_an_mp3_that_does_not_say_how_long_it_is_is_read_to_its_end(tmp_path: Path) -> None:
    """libsndfile would guess, and give a shorter wave without a word."""
    path, rising = tmp_path / "a.mp3", np.geomspace(0.05, 0.5, 3 * SAMPLE_RATE) * tone(3.0)
    soundfile.write(path, rising, SAMPLE_RATE, bitrate_mode="VARIABLE")
    stated, data = read_wave(at(path)), path.read_bytes()
    path.write_bytes(data[data.index(data[:2], 200) :])  # without the frame that says it
    wave = read_wave(at(path))
    late = len(wave) - len(stated)  # what the encoder put before the first sample, and after
    assert 0 < late <= 4 * 576
    same = max(np.corrcoef(wave[n : n + len(stated)], stated)[0, 1] for n in range(late + 1))
    assert same > 0.999


def encoded(path: Path, codec: str, samples: np.ndarray, **options: str) -> Utterance:
    """A file that FFmpeg wrote, at 48 kHz."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=48_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(
            samples[None].astype(np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = 48_000, 0
        resampler = av.AudioResampler(
            stream.format.name, "mono", 48_000, frame_size=stream.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return at(path)


FORMATS = {"a.m4a": "aac", "a.mp4": "aac", "a.webm": "libopus", "a.mka": "flac", "a.ogg": "libopus",
           "a.opus": "libopus", "b.m4a": "alac"}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_other_formats_have_their_length_pitch_and_level_and_cut_short_are_unusable(
    tmp_path: Path, name: str
) -> None:
    wave = read_wave(encoded(tmp_path / name, FORMATS[name], tone(1.0, 48_000)))
    assert len(wave) == pytest.approx(SAMPLE_RATE, abs=0.02 * SAMPLE_RATE)
    spectrum = np.abs(np.fft.rfft(wave[:SAMPLE_RATE] * np.hanning(len(wave[:SAMPLE_RATE]))))
    assert spectrum.argmax() == pytest.approx(440, abs=2)
    assert np.sqrt((wave[2000:-2000] ** 2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    options = {"movflags": "faststart"} if FORMATS[name] in ("aac", "alac") else {}
    path = encoded(tmp_path / name, FORMATS[name], tone(5.0, 48_000), **options).path
    data = path.read_bytes()
    for kept in (0.1, 0.5, 0.9):
        assert "fetch it again" in reason_of_bytes(path, data[: int(kept * len(data))])


def test_an_ogg_cut_between_two_pages_is_unusable(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(20 * SAMPLE_RATE) / 10
    data = written(tmp_path / "a.ogg", noise).path.read_bytes()
    starts = [i for i in range(100, len(data)) if data[i : i + 4] == b"OggS"]
    assert len(starts) > 3
    for start in starts[2:]:
        assert "fetch it again" in reason_of_bytes(tmp_path / "a.ogg", data[:start])


def test_speech_in_any_format_is_found_in_a_corpus(tmp_path: Path) -> None:
    place = chapter(tmp_path, 1, "1-1-0000 ONE\n1-1-0001 TWO\n", ["1-1-0000.ogg"])
    encoded(place / "1-1-0001.m4a", "aac", tone(1.0, 48_000))
    encoded(place / "1-1-0002.m4a", "aac", tone(1.0, 48_000))
    corpus = find_utterances(tmp_path)
    assert [u.path.name for u in corpus.utterances] == ["1-1-0000.ogg", "1-1-0001.m4a"]
    assert list(corpus.rejected) == ["1-1-0002"]


def test_channels_are_averaged_and_floats_read_unscaled(tmp_path: Path) -> None:
    left, right = 30 * tone(pitch=300), 30 * tone(pitch=900)
    for subtype in ("FLOAT", "DOUBLE"):
        both = written(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype=subtype)
        np.testing.assert_allclose(read_wave(both), (left + right) / 2, rtol=1e-6, atol=1e-5)


# --- bad audio ----------------------------------------------------------------------------------


FLAC = (SHIPPED / "101" / "1" / "101-1-0000.flac").read_bytes()


def test_a_flac_cut_anywhere_is_unusable_and_never_a_shorter_wave(tmp_path: Path) -> None:
    """In its header, within a frame, between two."""
    frames = [i for i in range(100, len(FLAC)) if FLAC[i : i + 2] == b"\xff\xf8"]
    assert len(frames) > 5
    for kept in (0, 1, 4, 8, 20, 42, 43, 50, 86, 100, *frames, *range(500, len(FLAC), 1999)):
        assert "fetch it again" in reason_of_bytes(tmp_path / "a.flac", FLAC[:kept])


def test_a_flac_with_a_damaged_byte_or_of_unknown_length_is_unusable(tmp_path: Path) -> None:
    for place in (0.2, 0.5, 0.9):
        data = bytearray(FLAC)
        data[int(place * len(data))] ^= 0xFF
        reason_of_bytes(tmp_path / "a.flac", data)
    data = bytearray(FLAC)
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples: 0 is "unknown"
    data[22:26] = bytes(4)
    assert "encode it again" in reason_of_bytes(tmp_path / "a.flac", data)


def test_a_wav_cut_anywhere_or_of_unknown_length_is_unusable(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", tone()).path
    data = bytearray(path.read_bytes())
    for kept in (0, 4, 20, 43, 44, 46, 100, 8_000, -100, -1):
        assert "fetch it again" in reason_of_bytes(path, data[:kept])
    data[4:8] = data[40:44] = b"\xff" * 4  # as it is written into a pipe
    assert "states no length in its header; convert it" in reason_of_bytes(path, data)


@pytest.mark.parametrize(
    ("form", "endian"),
    [("WAV", "LITTLE"), ("WAVEX", "FILE"), ("RF64", "FILE"), ("WAV", "BIG"), ("AIFF", "FILE")],
)
def test_other_headers_of_a_wav_s_kind_say_their_length_too(
    tmp_path: Path, form: str, endian: str
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0), SAMPLE_RATE, format=form, endian=endian)
    np.testing.assert_allclose(read_wave(at(path)), tone(1.0), atol=1e-4)
    data = path.read_bytes()
    assert "truncated" in reason_of_bytes(path, data[: len(data) // 2])


def test_what_is_no_audio_is_unusable(tmp_path: Path) -> None:
    assert "cannot be decoded" in reason_of_bytes(tmp_path / "a.flac", b"<html>404</html>")
    (tmp_path / "b.flac").mkdir()
    reason(at(tmp_path / "b.flac"))


def some_bad(value: float) -> np.ndarray:
    samples = np.stack([tone(), tone()], axis=1)
    samples[10:13, 1] = value
    return samples


CANCELLING = np.stack([tone(), -tone()], axis=1)


@pytest.mark.parametrize(
    ("name", "samples", "subtype", "message"),
    [
        ("a.flac", np.zeros(0), None, "cannot be decoded"),  # without a byte
        ("a.wav", np.zeros(0), None, "no samples"),
        ("a.flac", np.zeros(800), None, "800 samples are zero"),
        ("a.wav", some_bad(np.nan), "FLOAT", "3 samples are NaN or infinite"),
        ("a.wav", some_bad(np.inf), "FLOAT", "3 samples are NaN or infinite"),
        ("a.wav", some_bad(-np.inf), "FLOAT", "3 samples are NaN or infinite"),
        ("a.wav", CANCELLING, "FLOAT", "its 2 channels cancel; keep one of them"),
        ("a.wav", CANCELLING, "PCM_16", "its 2 channels cancel"),  # but for their rounding
        ("a.wav", 1e20 * tone(), "FLOAT", "scale the file"),  # its square leaves float32
    ],
)
def test_samples_that_are_no_utterance_are_unusable(
    name: str, samples: np.ndarray, subtype: str | None, message: str, tmp_path: Path
) -> None:
    assert message in reason(written(tmp_path / name, samples, subtype=subtype))


# --- the grammar --------------------------------------------------------------------------------


def matches(construction: str, text: str) -> bool:
    """Whether the first clause of ``text`` is of a construction; each word is compared alone."""
    words, slots = text.split(), construction.split()
    return len(words) >= len(slots) and all(
        word in (grammar.LEXICON[slot[1:-1]] if slot.startswith("{") else (slot, slot + "n"))
        for word, slot in zip(words, slots, strict=False)
    )


def held_out_pairs(text: str) -> list[tuple[str, str]]:
    adjectives = {*grammar.LEXICON["adjective"], *grammar.LEXICON["colour"]}
    kinds = ("person", "animal", "object", "food", "place", "plural")
    nouns = {noun for kind in kinds for noun in grammar.LEXICON[kind]}
    return [
        (first, second)
        for first, second in pairwise(text.split())
        if first in adjectives and second in nouns and grammar.pair_is_held_out(first, second)
    ]


@pytest.fixture(scope="module")
def training_texts() -> list[str]:
    rng = np.random.default_rng(7)
    return [grammar.training_sentence(rng).text for _ in range(2000)]


def test_the_grammar_has_at_least_600_words_each_once_nearly_all_heard_in_training(
    training_texts: list[str],
) -> None:
    words = grammar.vocabulary()
    assert len(words) >= 600
    assert list(words) == sorted(set(words))
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    used = {word for text in training_texts for word in text.split()}
    assert used <= set(words)
    assert len(used) > 0.95 * len(words)
    known, held = (
        {word for construction in constructions for word in construction.split()}
        for constructions in (TRAINING_CONSTRUCTIONS, HELD_OUT_CONSTRUCTIONS)
    )
    assert {word for word in held if not word.startswith("{")} <= known


def test_training_sentences_and_jumbles_hold_what_training_may_hear_and_fit(
    training_texts: list[str],
) -> None:
    rng = np.random.default_rng(9)
    jumbles = [grammar.jumble(rng) for _ in range(2000)]
    for text in [*training_texts, *jumbles]:
        assert len(text) <= grammar.MAX_CHARACTERS == 80
        assert held_out_pairs(text) == []
        assert set(text.split()) <= set(grammar.vocabulary())
        assert not any(matches(held, text) for held in HELD_OUT_CONSTRUCTIONS), text
    for words in map(str.split, training_texts):
        rests = [" ".join(words[clause:]) for clause in range(len(words))]
        assert not any(matches(held, rest) for held in HELD_OUT_CONSTRUCTIONS for rest in rests)


def test_held_out_constructions_share_no_first_clause_with_training() -> None:
    rng = np.random.default_rng(8)
    drawn = [grammar.test_sentence(rng) for _ in range(300)]
    unseen = [sentence.text for sentence in drawn if sentence.unseen_construction]
    assert len(unseen) > 100
    for text in unseen:
        assert any(matches(held, text) for held in HELD_OUT_CONSTRUCTIONS)
        assert not any(matches(known, text) for known in TRAINING_CONSTRUCTIONS)


def test_training_speakers_are_never_held_out() -> None:
    rng = np.random.default_rng(0)
    speakers = [random_speaker(rng) for _ in range(500)]
    assert not {speaker.variant for speaker in speakers} & set(synthesis.HELD_OUT_VARIANTS)
    assert synthesis.HELD_OUT_ACCENT not in {speaker.accent for speaker in speakers}


# --- the shipped corpus -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Corpus:
    return find_utterances(SHIPPED)


@pytest.fixture(scope="module")
def table(shipped: Corpus) -> pd.DataFrame:
    """What the corpus says of every utterance, beside the utterance."""
    rows = pd.read_csv(SHIPPED / embedded.TABLE, dtype=str)
    return rows.assign(utterance=shipped.utterances)


def test_the_corpus_is_whole_large_enough_and_every_sample_the_one_that_the_table_hashes(
    shipped: Corpus, table: pd.DataFrame
) -> None:
    assert shipped.rejected == {}
    assert len(table) >= 120
    assert len({utterance.speaker for utterance in shipped.utterances}) >= 12
    for row in table.itertuples():
        wave = read_wave(row.utterance)
        stored = np.round(wave * 32768).astype("<i2")
        assert row.id == row.utterance.id
        assert hashlib.sha256(stored.tobytes()).hexdigest() == row.sha256, row.id
        assert 2.0 <= len(wave) / SAMPLE_RATE <= 6.0
        assert float(row.seconds) == pytest.approx(len(wave) / SAMPLE_RATE, abs=1e-3)


def test_the_flags_of_every_utterance_follow_from_its_text_and_speaker(table: pd.DataFrame) -> None:
    for row in table.itertuples():
        text = row.utterance.reference.lower()
        unseen = any(matches(held, text) for held in HELD_OUT_CONSTRUCTIONS)
        assert row.unseen_construction == str(unseen), text
        assert grammar.has_held_out_pair(text) == bool(held_out_pairs(text))
        assert row.unseen_pair == str(bool(held_out_pairs(text)))
        assert row.unseen_voice == str(row.variant not in synthesis.TRAINING_VARIANTS)
        assert row.unseen_accent == str(row.accent not in synthesis.TRAINING_ACCENTS)
    for flag in ("unseen_construction", "unseen_pair", "unseen_voice", "unseen_accent"):
        counts = Counter(table[flag])
        assert min(counts["True"], counts["False"]) >= 20, flag


def test_the_speakers_in_the_table_are_those_of_the_code_and_of_speakers_txt(
    table: pd.DataFrame,
) -> None:
    lines = (SHIPPED / "SPEAKERS.TXT").read_text().splitlines()[1:]
    listed = [line.split(" | ") for line in lines]
    speakers = [*enumerate(embedded.test_speakers(), start=101)]
    assert listed == [[str(n), s.accent, s.variant, str(s.rate), str(s.pitch)] for n, s in speakers]
    of_rows = table.id.str.split("-").str[0], table.accent, table.variant, table.rate, table.pitch
    assert {*zip(*of_rows, strict=True)} == {*map(tuple, listed)}


def test_a_speaker_made_again_in_a_fresh_process_has_the_same_samples(
    table: pd.DataFrame,
) -> None:
    rng = np.random.default_rng([embedded.SEED, 1])
    speaker = embedded.test_speakers()[0]
    drawn = [grammar.test_sentence(rng) for _ in range(embedded._CANDIDATES)]
    shard = [synthesis.Request(sentence.text, speaker) for sentence in drawn]
    (waves,) = synthesis.synthesise_shards([shard], workers=1)
    again = {
        sentence.text.upper(): embedded.sample_hash(embedded._finished(wave))
        for sentence, wave in zip(drawn, waves, strict=True)
    }
    first = table[table.id.str.startswith("101-")]
    assert len(first) == embedded.UTTERANCES_PER_SPEAKER
    hashes = {row.utterance.reference: row.sha256 for row in first.itertuples()}
    assert hashes.items() <= again.items()


# --- lists --------------------------------------------------------------------------------------


def test_a_list_names_a_part_of_a_folder_and_says_what_is_not_there(
    speech: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "some.txt"
    listed.write_text(f"{speech}\n3-1-0001\n1-1-0000\n")
    part = find_utterances(listed)
    assert [utterance.id for utterance in part.utterances] == ["1-1-0000", "3-1-0001"]
    assert part.utterances[0] in find_utterances(speech).utterances
    assert not part.rejected
    listed.write_text(f"{speech}\n1-1-0000\n99-1-0000\n")
    with pytest.raises(ValueError, match="lacks 1 of its 2 utterances, the first 99-1-0000"):
        find_utterances(listed)
    listed.write_text("nowhere\n1-1-0000\n")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_utterances(listed)
