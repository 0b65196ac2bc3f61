"""A Whisper of the transformers library."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from companion.models.ladder import PROMPT, SPECIAL_TOKENS
from companion.models.view import SpeechModel, Tokens, embedded, kept_rows
from companion.models.vocabulary import END, openai_tokens, recognised
from companion.speech.corpus import SAMPLE_RATE
from spectral.whisper import decoder_layers

_CHARACTERS = 256  # at most so many tokens: no pair of characters has one of its own

_NO_SPEECH = "<|nospeech|>"
_ALLOWED = (PROMPT[1], PROMPT[-1])  # a language and <|notimestamps|>, which openai-whisper allows


class TransformersModel(SpeechModel):
    """transformers' WhisperForConditionalGeneration with its tokenizer and feature extractor."""

    def __init__(
        self,
        name: str,
        model: WhisperForConditionalGeneration,
        tokenizer: WhisperTokenizer,
        extractor: WhisperFeatureExtractor,
    ) -> None:
        self.name = name
        self.module = self._model = model.eval()
        self._tokenizer, self._extractor = tokenizer, extractor
        self.tokens = _tokens(name, tokenizer, model)
        # Whisper's words bring their space along; a vocabulary of characters starts without
        self.spells = len(tokenizer.get_vocab()) <= _CHARACTERS
        self._opening = "" if self.spells else " "
        self.width = model.config.d_model
        self.heads = model.config.decoder_attention_heads
        self.limit = model.config.max_target_positions - len(self.tokens.prompt)
        self.window_samples = int(extractor.n_samples)
        self.layers = decoder_layers(model.model.decoder)
        self.encoder_layers = list(model.model.encoder.layers)
        self.final_norm = model.model.decoder.layer_norm
        self.encoder_norm = model.model.encoder.layer_norm

    def features(self, waves: Sequence[np.ndarray]) -> Tensor:
        mels = self._extractor(
            list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt"
        ).input_features
        return mels.to(self.device, self.dtype)

    def encode(self, features: Tensor) -> Tensor:
        return self._model.model.encoder(features).last_hidden_state

    def embed(self, features: Tensor) -> Tensor:
        encoder = self._model.model.encoder
        return embedded(encoder, features, encoder.embed_positions.weight)

    def new_cache(self) -> EncoderDecoderCache:
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def step(self, tokens: Tensor, context: Tensor, cache: EncoderDecoderCache) -> Tensor:
        hidden = self._model.model.decoder(
            input_ids=tokens, encoder_hidden_states=context, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return self._model.proj_out(hidden)

    def logits(self, states: Tensor) -> Tensor:
        return self._model.proj_out(self.final_norm(states))

    def _keep(self, rows: Tensor, cache: EncoderDecoderCache) -> None:
        for half in (cache.self_attention_cache, cache.cross_attention_cache):
            for layer in half.layers:  # the cache's own way copies all that stay, too
                layer.keys, layer.values = (
                    kept_rows(layer.keys, rows),
                    kept_rows(layer.values, rows),
                )

    def text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True).strip()

    def encode_text(self, text: str) -> list[int]:
        written = f"{self._opening}{text.strip()}"
        ids = _encoded(self._tokenizer, written)
        if "".join(self.text(ids).split()) != "".join(text.split()):
            raise ValueError(f"{self.name} lacks characters of {text!r}; it knows {self.text(ids)}")
        return ids


def _tokens(
    name: str, tokenizer: WhisperTokenizer, model: WhisperForConditionalGeneration
) -> Tokens:
    """Of a vocabulary of characters by its special tokens; of any other as OpenAI's own has it."""
    known, rows = tokenizer.get_vocab(), model.config.vocab_size
    if len(known) > _CHARACTERS:
        names = {number: token for token, number in known.items()}
        special = {
            added.content for added in tokenizer.added_tokens_decoder.values() if added.special
        }
        vocabulary = recognised(name, names, special, rows)
        configured = getattr(model.generation_config, "is_multilingual", None)
        if configured is not None and configured != vocabulary.multilingual:
            raise ValueError(
                f"{name}: is_multilingual is {configured} in its generation_config.json, and the "
                "vocabulary is the other one; give the folder the tokenizer that it came with"
            )
        return openai_tokens(vocabulary, rows)
    missing = [token for token in SPECIAL_TOKENS if token not in known]
    if missing or known[END] < 1 or any(known[token] <= known[END] for token in PROMPT):
        raise ValueError(
            f"{name}: a vocabulary of {len(known)} tokens is not Whisper's (missing: {missing}; "
            "special tokens must follow the text); give the folder its tokenizer.json, or "
            "vocab.json and merges.txt"
        )
    other = [number for number in range(rows) if number > known[END]]
    return Tokens(
        prompt=tuple(known[token] for token in PROMPT),
        end=known[END],
        no_speech=known[_NO_SPEECH],
        suppressed=tuple(other),
        non_speech=(),
        control=tuple(sorted({*other} - {known[token] for token in _ALLOWED})),
        blank=tuple(_encoded(tokenizer, " ")),
    )


def _encoded(tokenizer: WhisperTokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids
