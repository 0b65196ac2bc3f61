"""Training speech as log-mel shards on disk: words, sentences, jumbles, and clips without speech.

A shard is ``<name>-000.npy`` (frames, mels) float16, its utterances end to end, and
``<name>-000.json`` with their texts, lengths in frames and levels of silence.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm
from transformers import WhisperFeatureExtractor

from companion.measurement.store import whole_or_absent
from companion.speech.corpus import SAMPLE_RATE
from companion.speech.grammar import jumble, random_words, training_sentence
from companion.speech.nothing import NO_SPEECH, no_speech
from companion.speech.synthesis import (
    TRAINING_ACCENTS,
    TRAINING_VARIANTS,
    Request,
    Speaker,
    synthesise_shards,
)
from companion.training.recipe import Material

WORD_SECONDS = 1.6
RATES = (140, 211)  # words per minute
PITCHES = (30, 71)
LEAD_SECONDS = (0.05, 0.3)
_FRAME = 160  # samples between two frames of the log-mel
_SEEDS = {"words": 0, "sentences": 1, "jumbles": 2}


@dataclass(frozen=True)
class Clips:
    """Log-mel clips: (mels, frames) float16 each, their texts, and each clip's value of silence."""

    mels: list[np.ndarray]
    texts: list[str]
    silence: list[float]

    def __getitem__(self, part: slice) -> "Clips":
        return Clips(self.mels[part], self.texts[part], self.silence[part])

    def __add__(self, other: "Clips") -> "Clips":
        return Clips(self.mels + other.mels, self.texts + other.texts, self.silence + other.silence)


def random_speaker(rng: np.random.Generator) -> Speaker:
    """A speaker of the training accents and variants."""
    return Speaker(
        str(rng.choice(TRAINING_ACCENTS)),
        str(rng.choice(TRAINING_VARIANTS)),
        int(rng.integers(*RATES)),
        int(rng.integers(*PITCHES)),
    )


def prepare(folder: Path, material: Material, extractor: WhisperFeatureExtractor) -> None:
    """Write every shard that is not there yet; shards of another recipe raise ValueError."""
    _claim(folder / "material.json", {**asdict(material), "window": extractor.chunk_length})
    counts = (material.word_shards, material.sentence_shards, material.jumble_shards)
    jobs = [
        (kind, i)
        for kind, count in zip(_SEEDS, counts, strict=True)
        for i in range(count)
        if not (folder / f"{kind}-{i:03d}.json").exists()
    ]
    shards = [_requests(kind, i, material) for kind, i in jobs]
    waves = synthesise_shards(shards, workers=2)
    for (kind, i), shard, spoken in tqdm(
        zip(jobs, shards, waves, strict=True), total=len(jobs), desc="speech", unit="shard"
    ):
        rng = np.random.default_rng([material.seed, 1, _SEEDS[kind], i])
        longest = WORD_SECONDS if kind == "words" else float(extractor.chunk_length)
        pieces = (
            (request.text, _disturb(wave, material, rng))
            for request, wave in zip(shard, spoken, strict=True)
        )
        pieces = ((text, wave) for text, wave in pieces if len(wave) <= longest * SAMPLE_RATE)
        _write(folder / f"{kind}-{i:03d}", _clips(pieces, extractor))
    if not (folder / "no_speech-000.json").exists():
        rng = np.random.default_rng([material.seed, 2])
        clips = (
            ("", no_speech(NO_SPEECH[rng.integers(3)], rng, extractor.n_samples))
            for _ in range(material.no_speech_clips)
        )
        _write(folder / "no_speech-000", _clips(clips, extractor))


def load(folder: Path, kind: str) -> Clips:
    """Every clip of one kind, memory-mapped."""
    clips = Clips([], [], [])
    for path in sorted(folder.glob(f"{kind}-*.json")):
        record = json.loads(path.read_text())
        frames = np.load(path.with_suffix(".npy"), mmap_mode="r")
        ends = np.cumsum(record["frames"])
        clips.mels.extend(
            frames[end - n : end].T for n, end in zip(record["frames"], ends, strict=True)
        )
        clips.texts.extend(record["texts"])
        clips.silence.extend(record["silence"])
    if not clips.texts:
        raise FileNotFoundError(f"{folder}: no {kind} shards; run `make ladder` to make them")
    return clips


def _requests(kind: str, shard: int, material: Material) -> list[Request]:
    rng = np.random.default_rng([material.seed, 0, _SEEDS[kind], shard])
    texts: dict[str, Callable[[], str]] = {
        "words": lambda: random_words(rng, int(rng.integers(1, 4))),
        "sentences": lambda: training_sentence(rng).text,
        "jumbles": lambda: jumble(rng),
    }
    return [Request(texts[kind](), random_speaker(rng)) for _ in range(material.shard_size)]


def _disturb(wave: np.ndarray, material: Material, rng: np.random.Generator) -> np.ndarray:
    lead = rng.uniform(*LEAD_SECONDS, size=2) * SAMPLE_RATE
    wave = np.pad(wave, lead.astype(int))
    if rng.random() < material.noise_share:
        level = np.sqrt(np.mean(wave**2)) * 10 ** (-rng.uniform(*material.noise_snr_db) / 20)
        wave = wave + level * rng.standard_normal(len(wave))
    return wave.astype(np.float32)


def _clips(pieces: Iterator[tuple[str, np.ndarray]], extractor: WhisperFeatureExtractor) -> Clips:
    clips = Clips([], [], [])
    for text, wave in pieces:
        mel = extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features[0]
        frames = -(-len(wave) // _FRAME)
        clips.mels.append(mel[:, :frames].astype(np.float16))
        clips.texts.append(text)
        clips.silence.append(float(mel[:, frames:].mean() if frames < mel.shape[1] else mel.min()))
    return clips


def _write(stem: Path, clips: Clips) -> None:
    record = {
        "texts": clips.texts,
        "frames": [mel.shape[1] for mel in clips.mels],
        "silence": clips.silence,
    }
    with whole_or_absent(stem.with_suffix(".npy")) as place, place.open("wb") as file:
        np.save(file, np.concatenate([mel.T for mel in clips.mels]))
    with whole_or_absent(stem.with_suffix(".json")) as place:  # last: it says that all is there
        place.write_text(json.dumps(record))


def _claim(path: Path, material: dict[str, object]) -> None:
    known = json.loads(path.read_text()) if path.exists() else None
    wanted = json.loads(json.dumps(material))
    if known not in (None, wanted):
        raise ValueError(f"{path}: speech of another recipe ({known}); remove {path.parent}")
    with whole_or_absent(path) as place:
        place.write_text(json.dumps(wanted))
