"""A randomly initialised Moonshine in transformers' real format."""

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)

SPACE = "\u2581"  # how byte pairs of this kind spell a space
START, END = 1, 2
VOCABULARY = 350


def moonshine_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs with a fallback to bytes, as Moonshine's, with few merges and few spare tokens."""
    merges = [(SPACE, "t"), ("h", "e"), (SPACE + "t", "he"), (SPACE, "s"), ("i", "n")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE]
    tokens += [*string.ascii_letters, *map("".join, merges)]
    numbers = {token: number for number, token in enumerate(tokens)}
    core = Tokenizer(BPE(numbers, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.add_special_tokens([f"<<ST_{i}>>" for i in range(4)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def write_moonshine(folder: Path, width: int = 32, heads: int = 4, layers: int = 2) -> Path:
    """Weights that make it listen and vary, its tokenizer and its feature extractor."""
    tokenizer = moonshine_tokenizer()
    config = MoonshineConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        encoder_num_hidden_layers=layers,
        decoder_num_hidden_layers=layers,
        encoder_num_attention_heads=heads,
        decoder_num_attention_heads=heads,
        max_position_embeddings=40,
        decoder_start_token_id=START,
        bos_token_id=START,
        eos_token_id=END,
    )
    torch.manual_seed(0)
    model = MoonshineForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=(2 if "encoder_attn" in name else 1) * width**-0.5)
        tokens = model.model.decoder.embed_tokens.weight
        tokens[END] = 1.1 * tokens[63]
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    return folder
