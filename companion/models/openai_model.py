"""A Whisper of the openai-whisper library, and its files, which are fetched by their names."""

import hashlib
import math
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper
from torch import Tensor, nn
from whisper.audio import N_SAMPLES, log_mel_spectrogram, pad_or_trim
from whisper.decoding import DecodingOptions, DecodingResult, DecodingTask
from whisper.model import ModelDimensions, Whisper
from whisper.utils import compression_ratio

from companion.fetching import retrieve
from companion.models.checksums import sha256
from companion.models.decoding import Transcript
from companion.models.view import SpeechModel, embedded, initial_std, kept_rows
from companion.models.vocabulary import Vocabulary, of_rows, openai_tokenizer, openai_tokens
from spectral.whisper import decoder_layers, hooked

Cache = dict[nn.Module, Tensor]
_FIRST = 8  # bytes that are shown of a file of another format


class OpenAIModel(SpeechModel):
    """openai-whisper's Whisper; without a ``vocabulary`` the number of its tokens says which."""

    def __init__(self, name: str, model: Whisper, vocabulary: Vocabulary | None = None) -> None:
        self.name = name
        self.module = self._model = model.eval()
        self.vocabulary = vocabulary or of_rows(name, model.dims.n_vocab)
        self._tokenizer = openai_tokenizer(self.vocabulary)
        self.tokens = openai_tokens(self.vocabulary, model.dims.n_vocab)
        self.width = model.dims.n_text_state
        self.heads = model.dims.n_text_head
        self.limit = model.dims.n_text_ctx - len(self.tokens.prompt)
        self.window_samples = N_SAMPLES
        self.layers = decoder_layers(model.decoder)
        self.encoder_layers = list(model.encoder.blocks)
        self.final_norm, self.encoder_norm = model.decoder.ln, model.encoder.ln_post

    @property
    def parameters(self) -> int:
        """The number of weights; the encoder's fixed positions count, as in transformers."""
        return super().parameters + self._model.encoder.positional_embedding.numel()

    def features(self, waves: Sequence[np.ndarray]) -> Tensor:
        padded = [pad_or_trim(torch.from_numpy(np.asarray(wave, np.float32))) for wave in waves]
        mels = [log_mel_spectrogram(wave, self._model.dims.n_mels) for wave in padded]
        return torch.stack(mels).to(self.device, self.dtype)

    def encode(self, features: Tensor) -> Tensor:
        return self._model.encoder(features)

    def embed(self, features: Tensor) -> Tensor:
        encoder = self._model.encoder
        return embedded(encoder, features, encoder.positional_embedding)

    def new_cache(self) -> Cache:
        return {}

    def step(self, tokens: Tensor, context: Tensor, cache: Cache) -> Tensor:
        """Raises ValueError for several tokens into a filled cache."""
        if cache and tokens.shape[1] > 1:
            raise ValueError(f"{tokens.shape[1]} tokens after the first step; give one at a time")
        with hooked(self._keeping(cache)):
            return self._model.decoder(tokens, context, kv_cache=cache)

    def logits(self, states: Tensor) -> Tensor:
        weight = self._model.decoder.token_embedding.weight
        return (self.final_norm(states) @ weight.to(states.dtype).mT).float()

    def _keep(self, rows: Tensor, cache: Cache) -> None:
        for module, kept in cache.items():
            cache[module] = kept_rows(kept, rows)

    def text(self, tokens: Sequence[int]) -> str:
        added, end = self.vocabulary.added, self.tokens.end
        return self._tokenizer.encoding.decode([t for t in tokens if t < end or t in added]).strip()

    def encode_text(self, text: str) -> list[int]:
        added = set(self.vocabulary.added.values())
        return self._tokenizer.encode(f" {text.strip()}", allowed_special=added)

    def windows_by_library(self, wave: np.ndarray, **options: Any) -> list[Transcript]:
        """The samples are the seed of what is drawn.

        Raises ValueError for a wave shorter than a frame, and for NaN probabilities.
        """
        wave = np.ascontiguousarray(wave, np.float32)
        listener, seed = _Listener(self._model), hashlib.sha256(wave.tobytes()).digest()[:8]
        with torch.random.fork_rng():
            torch.manual_seed(int.from_bytes(seed))
            written = whisper.transcribe(listener, wave, language="en", fp16=False, **options)
        groups = groupby(written["segments"], lambda segment: segment["seek"])
        kept = [list(segments) for _, segments in groups]
        windows = []
        for result, finished in listener.heard:
            numbers = (result.avg_logprob, result.no_speech_prob)
            if any(map(math.isnan, numbers)):
                raise ValueError(f"{self.name}: its logits are NaN; check the weights and the wave")
            # the library names no window that it skips; segments carry their window's numbers
            first = kept[0][0] if kept else {}
            is_kept = (first.get("avg_logprob"), first.get("no_speech_prob")) == numbers
            segments = kept.pop(0) if is_kept else []
            text = "".join(segment["text"] for segment in segments).strip()
            tokens = [token for segment in segments for token in segment["tokens"]]
            written_tokens = tuple(token for token in tokens if token < self.tokens.end)
            windows.append(
                Transcript(
                    text, written_tokens, result.avg_logprob, no_speech_probability=numbers[1],
                    compression_ratio=compression_ratio(text), finished=finished,
                )
            )  # fmt: skip
        if not windows:
            raise ValueError(f"a wave of {len(wave)} samples is shorter than a frame; leave it out")
        return windows

    def _keeping(self, cache: Cache) -> Iterator[tuple[Any, Any]]:
        """The library's cache works by hooks; here they last for one step, after all others."""

        def append(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            cache[module] = torch.cat([cache[module], output], 1) if module in cache else output
            return cache[module]

        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            cache[module] = output

        for layer in self.layers:
            for attention, hook in ((layer.self_attention, append), (layer.cross_attention, keep)):
                yield from ((part, hook) for part in (attention.key, attention.value))


def initialised(dims: ModelDimensions, seed: int) -> Whisper:
    """openai-whisper's architecture with weights drawn as transformers draws the ladder's."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model, std = Whisper(dims), initial_std(dims.n_text_state)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
                module.weight.normal_(std=std)
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()  # type: ignore[operator, union-attr]
        model.decoder.positional_embedding.normal_(std=std)
    return model.eval()


class _Listener:
    """Keeps what the library's ``transcribe`` decoded every window to, and whether to its end."""

    def __init__(self, model: Whisper) -> None:
        self._model = model
        self.heard: list[tuple[DecodingResult, bool]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def decode(self, segment: Tensor, options: DecodingOptions) -> DecodingResult:
        """As the library's own; another temperature tries the same window again."""
        task = DecodingTask(self._model, options)
        (result,) = task.run(segment[None])
        room = min(task.sample_len, task.n_ctx + 1 - task.sample_begin)
        if options.temperature > 0:
            self.heard.pop()
        self.heard.append((result, len(result.tokens) < room))
        return result


@dataclass(frozen=True)
class OpenAIFile:
    """A checkpoint; ``published``: one of openai-whisper's names, by which it can be fetched."""

    path: Path
    published: str | None

    @classmethod
    def of(cls, name: str, ladder: Path) -> "OpenAIFile":
        """Where openai-whisper's checkpoint of that name is, or would be once fetched."""
        published = name if name in whisper.available_models() else None
        beside = ladder / f"{name.removesuffix('.pt')}.pt"
        if beside.is_file() or not published:
            return cls(beside if beside.is_file() else Path(name), published)
        cache = Path(os.getenv("XDG_CACHE_HOME", Path.home() / ".cache"))
        return cls(cache / "whisper" / Path(whisper._MODELS[name]).name, published)

    def load(self, name: str, device: torch.device, seed: int | None = None) -> OpenAIModel:
        """The model, of a ``seed`` at random.

        Raises ValueError for no such checkpoint, FileNotFoundError where none is.
        """
        model = self._read()
        model = model if seed is None else initialised(model.dims, seed)
        return OpenAIModel(name, model.to(device))

    def digest(self) -> str:
        """The SHA-256 of the file."""
        return sha256(self.path)

    def _read(self) -> Whisper:
        if self.published:
            self._fetch(whisper._MODELS[self.published])
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file; give an openai-whisper checkpoint")
        try:
            return whisper.load_model(str(self.path), device="cpu").float()
        except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if isinstance(error, pickle.UnpicklingError | EOFError):  # torch advises to load it all
                reason = f"of another format or of more than tensors, {beginning(self.path)}"
            raise ValueError(
                f"{self.path}: no openai-whisper checkpoint ({reason}); it must hold "
                "dims and model_state_dict, and nothing that runs code: fetch it again"
            ) from error

    def _fetch(self, url: str) -> None:
        """Download a checkpoint; a file that is there stays, and is an error where it differs."""
        expected = url.split("/")[-2]
        if self.path.is_file():
            if (digest := self.digest()) != expected:
                raise ValueError(
                    f"{self.path}: SHA-256 {digest}, expected {expected}; remove the file, and "
                    f"{url} is fetched again"
                )
            return
        try:
            retrieve(url, self.path.parent, expected)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise FileNotFoundError(
                f"{self.published}: not on this computer and not fetched ({reason}); put {url} at "
                f"{self.path}, SHA-256 {expected}"
            ) from error


def beginning(path: Path) -> str:
    """How a file begins, which tells its format; an empty one is called so."""
    with path.open("rb") as file:
        start = file.read(_FIRST)
    return f"it starts with {start!r}" if start else "an empty file"
