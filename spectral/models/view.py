"""One view of a Whisper-family model: the only module that knows a library's class names."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from spectral.models.tokenizer import PROMPT
from spectral.speech.corpus import SAMPLE_RATE


@dataclass(frozen=True)
class DecoderLayer:
    """The modules of one decoder layer; a component's output is what it adds to the residual."""

    self_attention: nn.Module
    cross_attention: nn.Module
    ffn: nn.Module
    query: nn.Module
    key: nn.Module
    layer: nn.Module


@dataclass(frozen=True)
class Tokens:
    """Token numbers that decoding needs."""

    prompt: tuple[int, ...]
    end: int
    no_speech: int
    suppressed: tuple[int, ...]


class SpeechModel:
    """A Whisper of the transformers library behind the names that this project uses."""

    def __init__(
        self,
        name: str,
        model: WhisperForConditionalGeneration,
        tokenizer: WhisperTokenizer,
        extractor: WhisperFeatureExtractor,
    ) -> None:
        self.name = name
        self._model, self._tokenizer, self._extractor = model.eval(), tokenizer, extractor
        self.tokens = _tokens(tokenizer)
        self.width: int = model.config.d_model
        self.heads: int = model.config.decoder_attention_heads
        self.limit: int = model.config.max_target_positions - len(self.tokens.prompt)
        self.layers: list[DecoderLayer] = [
            DecoderLayer(
                self_attention=layer.self_attn,
                cross_attention=layer.encoder_attn,
                ffn=layer.fc2,
                query=layer.self_attn.q_proj,
                key=layer.self_attn.k_proj,
                layer=layer,
            )
            for layer in model.model.decoder.layers
        ]

    @property
    def parameters(self) -> int:
        """The number of weights, tied ones once."""
        return sum(weight.numel() for weight in self._model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._model.device

    @property
    def window_samples(self) -> int:
        """The length of the model's audio window in samples."""
        return int(self._extractor.n_samples)

    def features(self, waves: Sequence[np.ndarray]) -> Tensor:
        """Log-mel spectrograms of waves (samples,) at 16 kHz: (batch, mels, frames), on the device.

        Whisper hears one window: what is longer is cut, what is shorter padded with silence.
        """
        mels = self._extractor(
            list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt"
        ).input_features
        return mels.to(self.device, self._model.dtype)

    def encode(self, features: Tensor) -> Tensor:
        """The context: features (batch, mels, frames) -> (batch, S, width)."""
        context: Tensor = self._model.model.encoder(features).last_hidden_state
        return context

    def new_cache(self) -> EncoderDecoderCache:
        """An empty cache of keys and values for one batch."""
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def step(self, tokens: Tensor, context: Tensor, cache: EncoderDecoderCache) -> Tensor:
        """Logits of the tokens that come next: tokens (batch, new) -> (batch, new, vocabulary)."""
        decoder = self._model.model.decoder
        hidden = decoder(
            input_ids=tokens,
            encoder_hidden_states=context,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits: Tensor = self._model.proj_out(hidden)
        return logits

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special tokens left out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text.strip()

    def encode_text(self, text: str) -> list[int]:
        """The tokens of a text, without prompt or end."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids


def _tokens(tokenizer: WhisperTokenizer) -> Tokens:
    number = tokenizer.convert_tokens_to_ids
    end = number("<|endoftext|>")
    special = set(tokenizer.all_special_ids)
    return Tokens(
        prompt=tuple(number(list(PROMPT))),
        end=end,
        no_speech=number("<|nospeech|>"),
        suppressed=tuple(sorted(special - {end})),
    )
