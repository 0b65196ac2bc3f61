"""The embedded test corpus: synthesised speech in the LibriSpeech layout, the same every time.

``python -m companion.speech.embedded data/corpus`` writes it. What training has never met is marked
utterance by utterance: whole constructions, adjective-noun pairs, timbres, and an accent.
"""

import hashlib
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile

from companion.speech.corpus import SAMPLE_RATE
from companion.speech.grammar import Sentence, test_sentence
from companion.speech.synthesis import (
    HELD_OUT_ACCENT,
    HELD_OUT_VARIANTS,
    TRAINING_ACCENTS,
    TRAINING_VARIANTS,
    Request,
    Speaker,
    synthesise_shards,
)

Entry = dict[str, Any]
"""One row of the corpus's table: the utterance, its speaker, and what about it is unseen."""

SEED = 2604_08591
UTTERANCES_PER_SPEAKER = 8
SECONDS = (2.0, 5.9)
TABLE = "utterances.csv"
_CANDIDATES = 24  # sentences drawn per speaker; the first eight of fitting length are kept
_RATES, _PITCHES = (140, 190), (35, 66)
_LEAD_SECONDS = 0.15
_PEAK = 0.8
_SEEN_SPEAKERS, _UNSEEN_VARIANTS, _UNSEEN_ACCENT_SEEN, _UNSEEN_ACCENT_UNSEEN = 7, 5, 2, 2


def test_speakers() -> list[Speaker]:
    """Sixteen test speakers: seven as in training, five of new timbres, four of a new accent."""
    rng = np.random.default_rng([SEED, 0])
    seen = list(rng.permutation(TRAINING_VARIANTS))
    unseen = list(rng.permutation(HELD_OUT_VARIANTS))
    pairs = [(TRAINING_ACCENTS[i % 4], seen.pop()) for i in range(_SEEN_SPEAKERS)]
    pairs += [(TRAINING_ACCENTS[i % 4], unseen.pop()) for i in range(_UNSEEN_VARIANTS)]
    pairs += [(HELD_OUT_ACCENT, seen.pop()) for _ in range(_UNSEEN_ACCENT_SEEN)]
    pairs += [(HELD_OUT_ACCENT, HELD_OUT_VARIANTS[i]) for i in range(_UNSEEN_ACCENT_UNSEEN)]
    return [
        Speaker(accent, str(variant), int(rng.integers(*_RATES)), int(rng.integers(*_PITCHES)))
        for accent, variant in pairs
    ]


def make_corpus(folder: Path) -> list[Entry]:
    """Write speaker/chapter/*.flac, *.trans.txt, SPEAKERS.TXT and the table of utterances."""
    speakers = test_speakers()
    rng = np.random.default_rng([SEED, 1])
    sentences = [[test_sentence(rng) for _ in range(_CANDIDATES)] for _ in speakers]
    shards = [
        [Request(sentence.text, speaker) for sentence in drawn]
        for speaker, drawn in zip(speakers, sentences, strict=True)
    ]
    if folder.exists():
        if any(folder.iterdir()) and not (folder / TABLE).exists():
            raise ValueError(f"{folder}: holds something else than this corpus; give a new folder")
        shutil.rmtree(folder)
    entries: list[Entry] = []
    for i, waves in enumerate(synthesise_shards(shards, workers=2)):
        spoken = list(zip(sentences[i], waves, strict=True))
        entries += _write_speaker(folder, 101 + i, speakers[i], spoken)
    lines = ["; ID | ACCENT | VARIANT | WORDS PER MINUTE | PITCH\n"]
    lines += [
        f"{101 + i} | {speaker.accent} | {speaker.variant} | {speaker.rate} | {speaker.pitch}\n"
        for i, speaker in enumerate(speakers)
    ]
    (folder / "SPEAKERS.TXT").write_text("".join(lines))
    pd.DataFrame(entries).to_csv(folder / TABLE, index=False)
    return entries


def sample_hash(wave: np.ndarray) -> str:
    """SHA-256 of samples as 16-bit little-endian integers, as FLAC stores them."""
    return hashlib.sha256(_quantised(wave).tobytes()).hexdigest()


def _write_speaker(
    folder: Path, number: int, speaker: Speaker, spoken: list[tuple[Sentence, np.ndarray]]
) -> list[Entry]:
    chapter = folder / str(number) / "1"
    chapter.mkdir(parents=True)
    entries: list[Entry] = []
    lines = []
    for sentence, raw in spoken:
        wave = _finished(raw)
        seconds = len(wave) / SAMPLE_RATE
        if len(entries) == UTTERANCES_PER_SPEAKER or not SECONDS[0] <= seconds <= SECONDS[1]:
            continue
        name = f"{number}-1-{len(entries):04d}"
        samples = _quantised(wave)
        soundfile.write(chapter / f"{name}.flac", samples, SAMPLE_RATE, compression_level=1.0)
        lines.append(f"{name} {sentence.text.upper()}\n")
        entries.append({
            "id": name, **asdict(speaker),
            "unseen_construction": sentence.unseen_construction,
            "unseen_pair": sentence.unseen_pair,
            "unseen_voice": speaker.variant in HELD_OUT_VARIANTS,
            "unseen_accent": speaker.accent == HELD_OUT_ACCENT,
            "seconds": round(seconds, 3), "sha256": sample_hash(wave),
        })  # fmt: skip
    if len(entries) < UTTERANCES_PER_SPEAKER:
        raise RuntimeError(f"speaker {number}: {len(entries)} utterances of {SECONDS} s; draw more")
    (chapter / f"{number}-1.trans.txt").write_text("".join(lines))
    return entries


def _finished(raw: np.ndarray) -> np.ndarray:
    lead = int(_LEAD_SECONDS * SAMPLE_RATE)
    return np.pad(raw / np.abs(raw).max() * _PEAK, lead)


def _quantised(wave: np.ndarray) -> np.ndarray:
    return np.round(wave * 32767).astype("<i2")


if __name__ == "__main__":
    written = make_corpus(Path(sys.argv[1]))
    seconds = sum(entry["seconds"] for entry in written)
    print(f"{len(written)} utterances, {seconds:.0f} s of speech")
