"""A Moonshine of the transformers library (Jeffries et al. 2024): raw audio, rotary positions."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.models.moonshine.modeling_moonshine import apply_rotary_pos_emb

from companion.models.transformers_model import keep_in_cache
from companion.models.view import SpeechModel, Tokens
from companion.speech.corpus import SAMPLE_RATE
from spectral.tracing.structure import transformers_layers

WINDOW_SECONDS = 30
"""The longest audio that its training has met; the architecture itself has no limit."""

_SHORTEST = 895  # samples: what the three convolutions need for one position


class MoonshineModel(SpeechModel):
    """transformers' MoonshineForConditionalGeneration with its tokenizer and feature extractor.

    Waves keep their own length. The encoder normalises over all that it is given, so every wave is
    encoded by itself; features and contexts of a batch end in NaN where a longer one goes on.
    """

    def __init__(
        self,
        name: str,
        model: MoonshineForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        extractor: Wav2Vec2FeatureExtractor,
    ) -> None:
        self.name = name
        self.module = self._model = model.eval()
        self._tokenizer, self._extractor = tokenizer, extractor
        self.tokens = _tokens(tokenizer, model.config)
        self.width = model.config.hidden_size
        self.heads = model.config.decoder_num_attention_heads
        self.limit = model.config.max_position_embeddings - len(self.tokens.prompt)
        self.window_samples = WINDOW_SECONDS * SAMPLE_RATE
        self.layers = transformers_layers(model.model.decoder, ffn="mlp")
        self.encoder_layers = list(model.model.encoder.layers)
        self.final_norm = model.model.decoder.norm

    def features(self, waves: Sequence[np.ndarray]) -> Tensor:
        """Waves as the network takes them: (batch, samples), NaN after the end of each."""
        rows = [torch.from_numpy(self._prepared(wave[: self.window_samples])) for wave in waves]
        padded = pad_sequence(rows, batch_first=True, padding_value=torch.nan)
        return padded.to(self.device, self.dtype)

    def encode(self, features: Tensor) -> Tensor:
        """The context: features (batch, samples) -> (batch, S, width), NaN after the end of each.

        Raises ValueError where the encoder itself gives NaN.
        """
        contexts = []
        for row in features:
            wave = row[: int((~row.isnan()).sum())]
            contexts.append(self._model.model.encoder(wave[None]).last_hidden_state[0])
            if contexts[-1].isnan().any():
                raise ValueError(f"{self.name}: its encoder gives NaN; check weights and audio")
        return pad_sequence(contexts, batch_first=True, padding_value=torch.nan)

    def new_cache(self) -> EncoderDecoderCache:
        """See :class:`SpeechModel`."""
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def step(self, tokens: Tensor, context: Tensor, cache: EncoderDecoderCache) -> Tensor:
        """See :class:`SpeechModel`."""
        beyond = context[..., :1].isnan()
        hidden = self._model.model.decoder(
            input_ids=tokens,
            encoder_hidden_states=context.masked_fill(beyond, 0.0),
            encoder_attention_mask=(~beyond[..., 0]).long(),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits: Tensor = self._model.proj_out(hidden)
        return logits

    def _keep(self, rows: Tensor, cache: EncoderDecoderCache) -> None:
        keep_in_cache(cache, rows)

    def text(self, tokens: Sequence[int]) -> str:
        """See :class:`SpeechModel`."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text.strip()

    def encode_text(self, text: str) -> list[int]:
        """See :class:`SpeechModel`."""
        ids: list[int] = self._tokenizer(text.strip(), add_special_tokens=False).input_ids
        if "".join(self.text(ids).split()) != "".join(text.split()):
            raise ValueError(f"{self.name} lacks characters of {text!r}; it knows {self.text(ids)}")
        return ids

    def placed(self, rows: Tensor) -> Tensor:
        """See :class:`SpeechModel`: the first dimensions of every head are turned by position."""
        positions = torch.arange(rows.shape[-2], device=rows.device)[None]
        cosine, sine = self._model.model.decoder.rotary_emb(rows, position_ids=positions)
        turned: Tensor = apply_rotary_pos_emb(rows, rows, cosine, sine)[0]
        return turned

    def layer_function(self, layer: int, context: Tensor) -> Callable[[Tensor], Tensor]:
        """See :class:`SpeechModel`."""
        module = copy.deepcopy(self.layers[layer].layer).to(context.dtype)
        rotary = self._model.model.decoder.rotary_emb

        def output(hidden: Tensor) -> Tensor:
            positions = torch.arange(len(hidden), device=hidden.device)[None]
            result: Tensor = module(
                hidden[None],
                encoder_hidden_states=context,
                position_embeddings=rotary(context, position_ids=positions),
            )
            return result[0]

        return output

    def _prepared(self, wave: np.ndarray) -> np.ndarray:
        longer = np.pad(np.asarray(wave, np.float32), (0, max(0, _SHORTEST - len(wave))))
        prepared = self._extractor(longer, sampling_rate=SAMPLE_RATE).input_values[0]
        return np.asarray(prepared, np.float32)


def _tokens(tokenizer: PreTrainedTokenizerFast, config: MoonshineConfig) -> Tokens:
    """Moonshine has a start and an end, and no token that says that nobody speaks."""
    start, end, vocabulary = config.decoder_start_token_id, config.eos_token_id, config.vocab_size
    if not isinstance(end, int) or start is None or len(tokenizer) > vocabulary:
        raise ValueError(
            f"a vocabulary of {len(tokenizer)} tokens is not that of a model of {vocabulary} "
            f"(decoder_start_token_id {start}, eos_token_id {end}); give the folder its own "
            "config.json and tokenizer.json"
        )
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values(), start}
    unnamed = range(len(tokenizer), vocabulary)
    suppressed = sorted({*special, *unnamed} - {end})
    return Tokens(
        prompt=(start,),
        end=end,
        no_speech=None,
        suppressed=tuple(suppressed),
        non_speech=(),
        control=tuple(suppressed),
        blank=(),
    )
