"""Batches of one curriculum stage: clips of similar length, padded as silence is, with labels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperTokenizer

from companion.models.ladder import PROMPT
from companion.training.material import Clips
from companion.training.recipe import Stage

IGNORE = -100
_BUCKET = 20  # windows are whole multiples of so many frames
_SORTED_BATCHES = 16  # clips are sorted by length within so many batches
_TIME_MASK, _MEL_MASK = 20, 12


@dataclass(frozen=True)
class Batch:
    """features (batch, mels, frames); inputs, labels (batch, tokens); texts without specials."""

    features: Tensor
    inputs: Tensor
    labels: Tensor
    texts: list[list[int]]


class Batcher:
    """Seeded batches of a stage: the step decides a batch, so a resumed run sees the same.

    With ``shuffled_pairs`` every clip, also one without speech, is answered by the text of any
    clip of the stage, drawn anew each time: nothing that is heard tells what to write, not even
    how much.
    """

    def __init__(
        self,
        clips: Clips,
        no_speech: Clips,
        stage: Stage,
        tokenizer: WhisperTokenizer,
        full_window: int,
        seed: int,
        shuffled_pairs: bool = False,
    ) -> None:
        self._clips, self._no_speech, self._stage = clips, no_speech, stage
        self._full_window, self._seed = full_window, seed
        self._shuffled_pairs = shuffled_pairs
        if len(clips.texts) < stage.batch:
            raise ValueError(f"{len(clips.texts)} clips, a batch has {stage.batch}; prepare more")
        self._lengths = np.array([mel.shape[1] for mel in clips.mels])
        self._ids = tokenizer(clips.texts, add_special_tokens=False).input_ids
        self._prompt = tokenizer.convert_tokens_to_ids(list(PROMPT))
        self._no_speech_id = tokenizer.convert_tokens_to_ids("<|nospeech|>")
        self._end = tokenizer.eos_token_id

    def batches(self, first_step: int, full_window_from: int) -> Iterator[Batch]:
        """Batches from ``first_step`` on; from ``full_window_from`` on all have the full window."""
        per_epoch = len(self._lengths) // self._stage.batch
        for epoch in range(first_step // per_epoch, self._stage.steps // per_epoch + 1):
            for i, chosen in enumerate(self._epoch(epoch)):
                step = epoch * per_epoch + i
                if step >= first_step:
                    yield self._batch(chosen, step, always_full=step >= full_window_from)

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self._seed, 10, epoch])
        order = rng.permutation(len(self._lengths))
        size = self._stage.batch
        group = size * _SORTED_BATCHES
        chunks = []
        for start in range(0, len(order), group):
            part = order[start : start + group]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            chunks += [part[i : i + size] for i in range(0, len(part) - size + 1, size)]
        return [chunks[i] for i in rng.permutation(len(chunks))]

    def _batch(self, chosen: np.ndarray, step: int, always_full: bool) -> Batch:
        rng = np.random.default_rng([self._seed, 11, step])
        full = always_full or rng.random() < self._stage.full_window_share
        longest = int(self._lengths[chosen].max())
        window = self._full_window if full else -(-longest // _BUCKET) * _BUCKET
        features: list[np.ndarray] = []
        spoken: list[int | None] = []  # None in the place of a clip without speech
        for clip in chosen:
            if rng.random() < self._stage.no_speech_share:
                source, clip = self._no_speech, int(rng.integers(len(self._no_speech.texts)))
                spoken.append(None)
            else:
                source = self._clips
                spoken.append(int(clip))
            features.append(self._heard(source, clip, window, rng))
        if self._shuffled_pairs:  # any clip of the stage, or none as often as the stage has it
            rng = np.random.default_rng([self._seed, 12, step])
            none = rng.random(len(spoken)) < self._stage.no_speech_share
            clips = rng.integers(len(self._ids), size=len(spoken)).tolist()
            spoken = [None if n else clip for n, clip in zip(none, clips, strict=True)]
        texts = [[] if clip is None else self._ids[clip] for clip in spoken]
        nothing = [self._prompt[0], self._no_speech_id, self._end]
        rows = [
            torch.tensor(nothing if clip is None else [*self._prompt, *text, self._end])
            for clip, text in zip(spoken, texts, strict=True)
        ]
        inputs = pad_sequence([row[:-1] for row in rows], True, self._end)
        labels = pad_sequence([row[1:] for row in rows], True, IGNORE)
        return Batch(torch.from_numpy(np.stack(features)), inputs, labels, texts)

    def _heard(self, clips: Clips, clip: int, window: int, rng: np.random.Generator) -> np.ndarray:
        mel = clips.mels[clip][:, :window].astype(np.float32)
        if self._stage.spec_augment:
            for axis, widest in ((0, _MEL_MASK), (1, _TIME_MASK)):
                width = int(rng.integers(0, widest + 1))
                start = int(rng.integers(0, max(1, mel.shape[axis] - width)))
                index = [slice(None), slice(None)]
                index[axis] = slice(start, start + width)
                mel[tuple(index)] = mel.mean()
        return padded(mel, clips.silence[clip], window)


def padded(mel: np.ndarray, silence: float, frames: int) -> np.ndarray:
    """A log-mel (mels, n) with its value of silence after it: (mels, frames) float32."""
    wide = ((0, 0), (0, frames - mel.shape[1]))
    return np.pad(mel.astype(np.float32), wide, constant_values=silence)
