"""Randomly initialised Whispers in the real formats of both libraries, of equal weights."""

import json
import struct
from functools import cache
from pathlib import Path

import torch
import whisper
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import get_tokenizer

from companion.models.ladder import ladder_config

MULTILINGUAL, ENGLISH = 51865, 51864
TINY_WINDOW_SECONDS = 2  # of the tiny ladder


def dimensions(
    width: int,
    heads: int,
    layers: int,
    vocabulary: int,
    mels: int,
    decoder_layers: int | None = None,
) -> ModelDimensions:
    decoder = decoder_layers or layers
    return ModelDimensions(mels, 1500, width, heads, layers, vocabulary, 448, width, heads, decoder)


def random_whisper(dims: ModelDimensions, seed: int = 0) -> Whisper:
    """Weights that make it listen and vary: a fresh one repeats one token, whatever it hears."""
    torch.manual_seed(seed)
    model = Whisper(dims).eval()
    with torch.no_grad():
        model.decoder.positional_embedding.normal_(std=0.5)
        model.decoder.token_embedding.weight.normal_(std=0.3)
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "blocks" in name:
                weight.mul_(8 if "cross" in name else 2)
    return model


def write_openai(path: Path, model: Whisper) -> Path:
    """A .pt file as OpenAI publishes them: dims and a half-precision state."""
    state = {name: weight.half() for name, weight in model.state_dict().items()}
    torch.save({"dims": vars(model.dims), "model_state_dict": state}, path)
    return path


def as_transformers(model: Whisper) -> WhisperForConditionalGeneration:
    """The same weights as a model of transformers."""
    dims = model.dims
    tokenizer = transformers_tokenizer(dims.n_vocab)
    layers = (dims.n_audio_layer, dims.n_text_layer)
    config = ladder_config(
        dims.n_text_state, dims.n_text_head, *layers, 30, dims.n_text_ctx, tokenizer
    )
    config.num_mel_bins = dims.n_mels
    assert config.vocab_size == dims.n_vocab
    initialised = WhisperForConditionalGeneration(config).eval()
    state = {_renamed(name): weight for name, weight in model.state_dict().items()}
    missing, unexpected = initialised.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"proj_out.weight"}, "tied to the embedding"
    return initialised


def write_transformers(folder: Path, model: Whisper) -> Path:
    """The same weights as a folder of transformers: safetensors, configuration, tokenizer."""
    as_transformers(model).half().save_pretrained(folder, safe_serialization=True)
    transformers_tokenizer(model.dims.n_vocab).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=model.dims.n_mels).save_pretrained(folder)
    return folder


@cache
def transformers_tokenizer(vocabulary: int) -> WhisperTokenizer:
    """OpenAI's byte pairs, which its package holds, as transformers' tokenizer."""
    multilingual = vocabulary != ENGLISH
    name = "multilingual" if multilingual else "gpt2"
    file = str(Path(whisper.__file__).parent / "assets" / f"{name}.tiktoken")
    vocab, merges = TikTokenConverter(file).extract_vocab_merges_from_model(file)
    languages = vocabulary - 51765 - multilingual
    special = get_tokenizer(multilingual, num_languages=languages).special_tokens
    named = [token for token in special if "." not in token]
    return WhisperTokenizer(vocab=vocab | special, merges=merges, additional_special_tokens=named)


def _renamed(name: str) -> str:
    """openai-whisper's name of a weight in transformers' words."""
    for old, new in {
        "blocks": "layers",
        "mlp.0": "fc1",
        "mlp.2": "fc2",
        "mlp_ln": "final_layer_norm",
        "cross_attn_ln": "encoder_attn_layer_norm",
        "attn_ln": "self_attn_layer_norm",
        "cross_attn.": "encoder_attn.",
        ".attn.": ".self_attn.",
        ".query.": ".q_proj.",
        ".key.": ".k_proj.",
        ".value.": ".v_proj.",
        ".out.": ".out_proj.",
        "decoder.ln.": "decoder.layer_norm.",
        "encoder.ln_post.": "encoder.layer_norm.",
        "positional_embedding": "embed_positions.weight",
        "token_embedding": "embed_tokens",
    }.items():
        name = name.replace(old, new)
    return f"model.{name}"


def write_ctranslate2(
    folder: Path,
    model: Whisper,
    dtype: torch.dtype = torch.float16,
    parts: int = 1,
    names: list[str] | None = None,
) -> Path:
    """The same weights as faster-whisper's folder: model.bin, perhaps in parts, and vocabulary.

    ``names``: the tokens in order, which OpenAI's are unless given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    raw = _binary(_variables(model, dtype))
    ends = [len(raw) * i // parts for i in range(parts + 1)]
    for i in range(parts):
        name = "model.bin" if parts == 1 else f"model.bin.part{i + 1}"
        (folder / name).write_bytes(raw[ends[i] : ends[i + 1]])
    lines = names or token_names(model.dims.n_vocab)
    (folder / "vocabulary.txt").write_text("".join(f"{n}\n" for n in lines), encoding="utf-8")
    end = lines.index("<|endoftext|>")
    (folder / "config.json").write_text(json.dumps({"suppress_ids_begin": [220, end]}))
    return folder


def token_names(vocabulary: int) -> list[str]:
    """OpenAI's tokens in order, as vocabularies of either library spell them."""
    numbers = transformers_tokenizer(vocabulary).get_vocab()
    return sorted(numbers, key=numbers.__getitem__)


def _variables(model: Whisper, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights under CTranslate2's names, projections of one input stacked."""
    state, dims = model.state_dict(), model.dims
    variables: dict[str, torch.Tensor] = {
        "encoder/num_heads": torch.tensor(dims.n_audio_head, dtype=torch.int16),
        "decoder/num_heads": torch.tensor(dims.n_text_head, dtype=torch.int16),
        "decoder/pre_norm": torch.tensor(1, dtype=torch.int8),
        "encoder/position_encodings/encodings": state["encoder.positional_embedding"],
        "decoder/position_encodings/encodings": state["decoder.positional_embedding"],
        "decoder/embeddings/weight": state["decoder.token_embedding.weight"],
    }

    def take(target: str, *source: str, kinds: tuple[str, str] = ("weight", "bias")) -> None:
        weights = [state[f"{name}.weight"] for name in source]
        biases = [
            state.get(f"{name}.bias", torch.zeros(len(weight)))
            for name, weight in zip(source, weights, strict=True)
        ]
        for kind, stack in zip(kinds, (weights, biases), strict=True):
            variables[f"{target}/{kind}"] = torch.cat(stack)

    def norm(target: str, source: str) -> None:
        take(f"{target}/layer_norm", source, kinds=("gamma", "beta"))

    def attention(target: str, source: str, *stacks: str) -> None:
        norm(target, f"{source}_ln")
        for i, stack in enumerate((*stacks, "out")):
            take(f"{target}/linear_{i}", *(f"{source}.{part}" for part in stack.split()))

    for i in (1, 2):
        take(f"encoder/conv{i}", f"encoder.conv{i}")
    norm("encoder", "encoder.ln_post")
    norm("decoder", "decoder.ln")
    for side, count in (("encoder", dims.n_audio_layer), ("decoder", dims.n_text_layer)):
        for i in range(count):
            target, source = f"{side}/layer_{i}", f"{side}.blocks.{i}"
            norm(f"{target}/ffn", f"{source}.mlp_ln")
            take(f"{target}/ffn/linear_0", f"{source}.mlp.0")
            take(f"{target}/ffn/linear_1", f"{source}.mlp.2")
            attention(f"{target}/self_attention", f"{source}.attn", "query key value")
            if side == "decoder":
                attention(f"{target}/attention", f"{source}.cross_attn", "query", "key value")
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in variables.items()
    }


def _binary(variables: dict[str, torch.Tensor]) -> bytes:
    """CTranslate2's file, version 6."""
    codes = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    raw = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for name, tensor in sorted(variables.items()):
        data = tensor.contiguous().numpy().tobytes()
        raw += [text(name), struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)]
        raw += [struct.pack("<BI", codes[tensor.dtype], len(data)), data]
    raw += [struct.pack("<I", 1), text("decoder/projection/weight")]
    return b"".join([*raw, text("decoder/embeddings/weight")])
