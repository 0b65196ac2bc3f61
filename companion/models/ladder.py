"""Whisper-architecture models of the ladder: tokenizer, configuration, folders of checkpoints."""

import json
import string
from pathlib import Path

import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from companion.models.checksums import write_checksums
from companion.models.view import initial_std

FRAMES_PER_POSITION = 2  # the encoder's second convolution has stride two
FRAMES_PER_SECOND = 100
MELS = 80

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|transcribe|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
_SPACE = "\u0120"  # how byte-level tokenizers spell a space


def character_tokenizer() -> WhisperTokenizer:
    """A WhisperTokenizer of a-z, apostrophe and space: one token per character, no merges."""
    characters = [_SPACE, "'", *string.ascii_lowercase]
    vocabulary = {token: i for i, token in enumerate([*characters, *SPECIAL_TOKENS])}
    return WhisperTokenizer(
        vocab=vocabulary,
        merges=[],
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        language=None,
    )


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
