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
    """A WhisperConfig of the given shape; weights start as torch.nn.Linear's do, 1 / sqrt(3 width).

    That is also how openai-whisper's modules start: std 1 / sqrt(3 fan_in), whatever the width.
    """
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
        init_std=(3 * width) ** -0.5,
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


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
    (folder / "training.json").write_text(json.dumps(training, indent=1))
    write_checksums(folder)


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of every other file of a folder, in the format of sha256sum."""
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text(
        "".join(f"{sha256(path)}  {path.name}\n" for path in files if path.is_file())
    )


def verify_checksums(folder: Path) -> None:
    """Raise ValueError for a file of SHA256SUMS that is missing or differs, naming both sums."""
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split(maxsplit=1)
        path = folder / name
        found = sha256(path) if path.exists() else "no such file"
        if found != expected:
            raise ValueError(
                f"{path}: SHA-256 is {found}, expected {expected}; restore it with "
                f"`git checkout -- {path.parent.name}/{name}` or train it again with `make ladder`"
            )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
