"""Plain-tensor layers against the forward passes of the two libraries they come from."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import whisper.model
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer, WhisperEncoderLayer

from companion.measurement.tangents import forward
from companion.models.random_layers import random_layer
from spectral.jacobians.layers import Layer
from spectral.whisper import as_layer

WIDTH, HEADS, TOKENS, FRAMES = 24, 4, 6, 9


def randomised(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The module in evaluation mode, every weight and bias drawn at random."""
    torch.manual_seed(0)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.3)
    return module.to(dtype).eval()


def config(**changes: object) -> WhisperConfig:
    sizes = {"attention_heads": HEADS, "ffn_dim": 4 * WIDTH}
    both = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in sizes.items()}
    return WhisperConfig(d_model=WIDTH, attn_implementation="eager", **both, **changes)


def causal_mask(dtype: torch.dtype) -> Tensor:
    return torch.full((TOKENS, TOKENS), -torch.inf, dtype=dtype).triu(1)[None, None]


def transformers_decoder(**changes: object) -> nn.Module:
    return randomised(WhisperDecoderLayer(config(**changes), layer_idx=0))


def decoded(module: nn.Module, hidden: Tensor, context: Tensor) -> Tensor:
    """By a decoder's layer of transformers."""
    return module(hidden, causal_mask(hidden.dtype), context, use_cache=False)


OPENAI = partial(whisper.model.ResidualAttentionBlock, WIDTH, HEADS)
LIBRARIES: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor]]] = {
    "transformers' decoder": (transformers_decoder, decoded),
    "transformers' encoder": (
        lambda: WhisperEncoderLayer(config()), lambda module, hidden, _: module(hidden, None),
    ),
    "openai-whisper's decoder": (
        lambda: OPENAI(cross_attention=True),
        lambda module, hidden, context: module(hidden, context, causal_mask(hidden.dtype)[0, 0]),
    ),
    "openai-whisper's encoder": (OPENAI, lambda module, hidden, _: module(hidden)),
}  # fmt: skip


@pytest.fixture
def _float64_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """openai-whisper normalises in float32 whatever the input; here the formulas matter."""
    monkeypatch.setattr(whisper.model.LayerNorm, "forward", nn.LayerNorm.forward)


def states(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    hidden, context = (torch.randn(2, rows, WIDTH, dtype=dtype) for rows in (TOKENS, FRAMES))
    return 2 * hidden, context


@pytest.mark.usefixtures("_float64_norms")
@pytest.mark.parametrize("name", LIBRARIES)
def test_layer_equals_library(name: str) -> None:
    make, run = LIBRARIES[name]
    module = randomised(make())
    hidden, context = states()
    layer = as_layer(module)
    assert layer.dtype == torch.float64
    assert layer.causal == (layer.cross_attention is not None)
    got = forward(layer, hidden, context)
    torch.testing.assert_close(got, run(module, hidden, context), rtol=1e-12, atol=1e-12)


def test_half_precision_weights_are_computed_with_in_float32() -> None:
    module = transformers_decoder()
    layer = as_layer(module.half())
    assert layer.dtype == torch.float32
    hidden, context = states(torch.float32)
    expected = decoded(module.float(), hidden, context)
    torch.testing.assert_close(forward(layer, hidden, context), expected, rtol=1e-5, atol=1e-5)
    assert as_layer(module.half(), torch.float64).dtype == torch.float64


def test_dropout_is_off_in_training_mode_too() -> None:
    module = transformers_decoder(dropout=0.5, attention_dropout=0.5)
    hidden, context = states()
    expected = decoded(module, hidden, context)
    got = forward(as_layer(module.train()), hidden, context)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_layer_is_outside_autograd() -> None:
    assert not forward(as_layer(transformers_decoder()), *states()).requires_grad


def test_other_modules_and_activations_are_refused() -> None:
    with pytest.raises(TypeError, match="got Linear"):
        as_layer(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="exact gelu, got NewGELUActivation"):
        as_layer(transformers_decoder(activation_function="gelu_new"))


class Adapted(nn.Module):
    """A linear map that something is added to, beside the weight that it shows."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias, self.out_features = linear.weight, linear.bias, linear.out_features
        self.added = nn.Linear(linear.in_features, linear.out_features)

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.linear(rows, self.weight, self.bias) + self.added(rows)


def test_adapters_that_the_weights_do_not_hold_are_refused() -> None:
    module: Any = transformers_decoder()
    module.self_attn.q_proj = Adapted(module.self_attn.q_proj)
    with pytest.raises(TypeError, match="got Adapted: merge adapters into the weights"):
        as_layer(module)


def test_padding_does_not_matter() -> None:
    layer = random_layer(WIDTH, HEADS, dtype=torch.float64)
    hidden, context = states()
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    mask[0, :2], mask[1, 4:] = False, False
    got = forward(layer, hidden, context, mask)
    torch.testing.assert_close(got[0, 2:], forward(layer, hidden[0, 2:], context[0]))
    torch.testing.assert_close(got[1, :4], forward(layer, hidden[1, :4], context[1]))


def test_moving_a_layer_moves_all_of_it() -> None:
    layer = random_layer(WIDTH, HEADS).to(torch.float64)
    assert layer.dtype == torch.float64
    assert layer.cross_attention is not None
    assert layer.cross_attention.norm.bias.dtype == torch.float64


def with_heads(layer: Layer, heads: int) -> Layer:
    return replace(layer, self_attention=replace(layer.self_attention, heads=heads))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layer: with_heads(layer, 5), r"heads must divide 24, its inner width, got 5"),
        (
            lambda layer: replace(layer, ffn=replace(layer.ffn, in_weight=torch.ones(96, 23))),
            r"ffn.in_weight must have shape \(96, 24\), got \(96, 23\)",
        ),
        (
            lambda layer: replace(layer, ffn=replace(layer.ffn, in_bias=torch.ones(96).double())),
            "one dtype and device",
        ),
        (lambda layer: layer.to(torch.int64), "real floating point, got torch.int64"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[Layer], Layer], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        change(random_layer(WIDTH, HEADS))


def test_missing_context_is_refused() -> None:
    with pytest.raises(ValueError, match="needs context"):
        forward(random_layer(WIDTH, HEADS), states(torch.float32)[0])
