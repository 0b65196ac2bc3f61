"""Whisper-architecture models of the ladder: configuration, checkpoint folders and checksums."""

import hashlib
import json
from pathlib import Path

import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

FRAMES_PER_POSITION = 2  # the encoder's second convolution has stride two
FRAMES_PER_SECOND = 100
MELS = 80


def ladder_config(
    width: int,
    heads: int,
    encoder_layers: int,
    decoder_layers: int,
    window_seconds: int,
    max_target_positions: int,
    tokenizer: WhisperTokenizer,
) -> WhisperConfig:
    """A WhisperConfig of the given shape, whose weights start with ``initial_std``."""
    start, end = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|endoftext|>"])
    return WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=MELS,
        d_model=width,
        encoder_layers=encoder_layers,
        encoder_attention_heads=heads,
        decoder_layers=decoder_layers,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=window_seconds * FRAMES_PER_SECOND // FRAMES_PER_POSITION,
        max_target_positions=max_target_positions,
        dropout=0.0,
        init_std=initial_std(width),
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def initial_std(width: int) -> float:
    """The standard deviation that weights start with, 1 / sqrt(3 width), as torch.nn.Linear's."""
    return float((3 * width) ** -0.5)


def feature_extractor(window_seconds: int) -> WhisperFeatureExtractor:
    """Whisper's log-mel spectrogram for a window of ``window_seconds``."""
    return WhisperFeatureExtractor(feature_size=MELS, chunk_length=window_seconds)


def initialise(config: WhisperConfig, seed: int) -> WhisperForConditionalGeneration:
    """A randomly initialised model in evaluation mode; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WhisperForConditionalGeneration(config).eval()


def save(
    folder: Path,
    model: WhisperForConditionalGeneration,
    tokenizer: WhisperTokenizer,
    extractor: WhisperFeatureExtractor,
    training: dict[str, object],
) -> None:
    """Write float16 safetensors, configuration, tokenizer, training record and checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: weight.half() for name, weight in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    extractor.save_pretrained(folder)
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # it was private
    (folder / "training.json").write_text(json.dumps(training, indent=1))
    write_checksums(folder)


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of every other file of a folder, in the format of sha256sum."""
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in _files(folder))
    (folder / "SHA256SUMS").write_text(sums)


def verify_checksums(folder: Path) -> None:
    """Raise ValueError for a file that is missing, differs, or is not listed in SHA256SUMS."""
    sums = {}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        expected, _, name = line.partition("  ")
        path = folder / name
        sums[path] = expected
        found = sha256(path) if path.is_file() else "no such file"
        if found != expected:
            raise ValueError(
                f"{path}: SHA-256 is {found}, expected {expected}; restore it with "
                f"`git checkout -- {folder}`, or remove the folder and run `make ladder`"
            )
    for path in _files(folder):
        if path not in sums:
            raise ValueError(f"{path}: SHA256SUMS beside it does not list it; remove it")


def _files(folder: Path) -> list[Path]:
    """What the checksums cover: all but SHA256SUMS itself and hidden files."""
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(p for p in files if p.name != "SHA256SUMS" and not p.name.startswith("."))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
