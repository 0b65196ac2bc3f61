"""A Whisper of the transformers library."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from whisper.tokenizer import Tokenizer as OpenAITokenizer

from companion.models.tokenizer import PROMPT
from companion.models.view import SpeechModel, Tokens, embedded, kept_rows
from companion.models.vocabulary import END, added_text, is_multilingual
from companion.speech.corpus import SAMPLE_RATE
from spectral.whisper import decoder_layers

_CHARACTERS = 256  # at most so many tokens: no pair of characters has one of its own

_CONTROL = (
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
)
_TIMESTAMPS = 1501
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # the older checkpoints have the second


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
        """See :class:`SpeechModel`."""
        mels = self._extractor(
            list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt"
        ).input_features
        return mels.to(self.device, self.dtype)

    def encode(self, features: Tensor) -> Tensor:
        """See :class:`SpeechModel`."""
        context: Tensor = self._model.model.encoder(features).last_hidden_state
        return context

    def embed(self, features: Tensor) -> Tensor:
        """See :class:`SpeechModel`."""
        encoder = self._model.model.encoder
        return embedded(encoder, features, encoder.embed_positions.weight)

    def new_cache(self) -> EncoderDecoderCache:
        """See :class:`SpeechModel`."""
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def step(self, tokens: Tensor, context: Tensor, cache: EncoderDecoderCache) -> Tensor:
        """See :class:`SpeechModel`."""
        hidden = self._model.model.decoder(
            input_ids=tokens,
            encoder_hidden_states=context,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits: Tensor = self._model.proj_out(hidden)
        return logits

    def logits(self, states: Tensor) -> Tensor:
        """See :class:`SpeechModel`."""
        logits: Tensor = self._model.proj_out(self.final_norm(states))
        return logits

    def _keep(self, rows: Tensor, cache: EncoderDecoderCache) -> None:
        keep_in_cache(cache, rows)

    def text(self, tokens: Sequence[int]) -> str:
        """See :class:`SpeechModel`."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text.strip()

    def encode_text(self, text: str) -> list[int]:
        """See :class:`SpeechModel`."""
        written = f"{self._opening}{text.strip()}"
        ids = _encoded(self._tokenizer, written)
        if "".join(self.text(ids).split()) != "".join(text.split()):
            raise ValueError(f"{self.name} lacks characters of {text!r}; it knows {self.text(ids)}")
        return ids


def keep_in_cache(cache: EncoderDecoderCache, rows: Tensor) -> None:
    """Go on with these rows of a batch: the cache's own way copies all that stay, too."""
    for half in (cache.self_attention_cache, cache.cross_attention_cache):
        for layer in half.layers:
            layer.keys, layer.values = (
                kept_rows(part, rows) for part in (layer.keys, layer.values)
            )


def _tokens(
    name: str, tokenizer: WhisperTokenizer, model: WhisperForConditionalGeneration
) -> Tokens:
    """Text comes before the end token in every Whisper vocabulary; what comes after is special.

    But for text that was added. Rows of the embedding that no token names are never chosen.
    """
    known, rows = tokenizer.get_vocab(), model.config.vocab_size
    no_speech = next((token for token in _NO_SPEECH if token in known), _NO_SPEECH[0])
    english = END in known and _english_only(name, known, model)
    prompt = (PROMPT[0], PROMPT[-1]) if english else PROMPT
    missing = [token for token in (END, no_speech, *prompt) if token not in known]
    end = known.get(END, 0)
    if missing or end < 1 or any(known[token] <= end for token in prompt):
        raise ValueError(
            f"{name}: a vocabulary of {len(known)} tokens is not Whisper's (missing: {missing}; "
            "special tokens must follow the text); give the folder its tokenizer.json, or "
            "vocab.json and merges.txt"
        )
    _require_fit(name, known, model)
    names = {number: token for token, number in known.items()}
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    text = added_text(names, end, special)
    other = [number for number in range(end + 1, rows) if number not in text]
    steering = {known[token] for token in (*_CONTROL, no_speech) if token in known}
    timestamps = range(known[PROMPT[-1]] + 1, known[PROMPT[-1]] + 1 + _TIMESTAMPS)
    if timestamps[-1] < rows:  # the older tokenizers do not name them
        names = {number: f"<|{i}|>" for i, number in enumerate(timestamps)} | names
    return Tokens(
        prompt=tuple(known[token] for token in prompt),
        end=end,
        no_speech=known[no_speech],
        suppressed=tuple(other),
        non_speech=_non_speech(tokenizer) if len(known) > _CHARACTERS else (),
        control=tuple(
            sorted({*steering, *(n for n in other if not names.get(n, "").startswith("<|"))})
        ),
        blank=tuple(_encoded(tokenizer, " ")),
    )


def _english_only(name: str, known: dict[str, int], model: WhisperForConditionalGeneration) -> bool:
    """As the text tokens say, or else whether there is a language to choose from.

    Raises ValueError where the generation configuration says otherwise.
    """
    text = sorted((number, token) for token, number in known.items() if number < known[END])
    multilingual = is_multilingual(token for _, token in text)
    configured = getattr(model.generation_config, "is_multilingual", None)
    if multilingual is None:
        return configured is False or PROMPT[1] not in known
    if configured is not None and configured != multilingual:
        raise ValueError(
            f"{name}: is_multilingual is {configured} in its generation_config.json, and the "
            "vocabulary is the other one; give the folder the tokenizer that it came with"
        )
    return not multilingual


def _require_fit(name: str, known: dict[str, int], model: WhisperForConditionalGeneration) -> None:
    """ValueError for a vocabulary that is not the one that the weights were trained with."""
    rows, start = model.config.vocab_size, model.config.decoder_start_token_id
    if (last := max(known.values())) >= rows:
        raise ValueError(
            f"{name}: {last + 1} tokens in its tokenizer, and an embedding of {rows}; give the "
            "folder the tokenizer that it came with"
        )
    if start is not None and start != known[PROMPT[0]]:
        raise ValueError(
            f"{name}: {PROMPT[0]} is token {known[PROMPT[0]]} in its tokenizer, and {start} in its "
            "config.json; give the folder the tokenizer that it came with"
        )


def _non_speech(tokenizer: WhisperTokenizer) -> tuple[int, ...]:
    """openai-whisper's own definition, which asks its tokenizer for nothing but ``encode``."""
    encoding = SimpleNamespace(encode=lambda text: _encoded(tokenizer, text))
    found: tuple[int, ...] = OpenAITokenizer.non_speech_tokens.func(
        SimpleNamespace(encoding=encoding)
    )
    return found


def _encoded(tokenizer: WhisperTokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids
