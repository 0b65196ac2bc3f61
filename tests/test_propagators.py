"""Closed-form propagators against automatic differentiation, and the laws they must obey."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer

from companion.measurement.tangents import forward
from companion.models.random_layers import random_layer
from spectral.jacobians.layers import Attention, FeedForward, Layer, LayerNorm
from spectral.jacobians.propagators import autodiff_propagators, linearise
from spectral.whisper import as_layer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
law = settings(derandomize=True, deadline=None, max_examples=25)
FLOAT64 = torch.float64


@dataclass(frozen=True)
class Case:
    """A layer, its input and its context."""

    layer: Layer
    hidden: Tensor
    context: Tensor | None

    @property
    def arguments(self) -> tuple[Layer, Tensor, Tensor | None]:
        return self.layer, self.hidden, self.context

    def on(self, device: str) -> tuple[Layer, Tensor, Tensor | None]:
        context = None if self.context is None else self.context.to(device)
        return self.layer.to(device=device), self.hidden.to(device), context


def case(
    tokens: int, frames: int, width: int, heads: int, batch: tuple[int, ...] = (), **kind: object
) -> Case:
    layer = random_layer(width, heads, dtype=FLOAT64, **kind)
    generator = torch.Generator().manual_seed(tokens)
    hidden = 2 * torch.randn(*batch, tokens, width, generator=generator, dtype=FLOAT64)
    if layer.cross_attention is None:
        return Case(layer, hidden, None)
    source = layer.cross_attention.key_weight.shape[1]
    context = torch.randn(*batch, frames, source, generator=generator, dtype=FLOAT64)
    return Case(layer, hidden, context)


ENCODER = {"cross_attention": False, "causal": False}
CASES = {
    "decoder layer": case(6, 9, 24, 4),
    "encoder layer": case(7, 0, 12, 3, **ENCODER),
    "language model's layer": case(5, 0, 12, 2, cross_attention=False),
    "decoder layer that sees ahead": case(5, 4, 12, 2, causal=False),
    "one token, one frame, one head": case(1, 1, 8, 1),
    "one frame": case(4, 1, 8, 2),
    "heads of width one": case(5, 6, 6, 6),
    "width one": case(3, 4, 1, 1),
    "width two": case(3, 4, 2, 1),
    "inner widths of their own": case(5, 7, 12, 3, head_width=5, context_width=10, hidden_width=17),
}
cases = pytest.mark.parametrize("given_case", CASES.values(), ids=CASES)


def brute_force(layer: Layer, hidden: Tensor, context: Tensor | None) -> Tensor:
    """Blocks (t, t) of the layer's whole Jacobian by reverse differentiation."""
    whole = torch.func.jacrev(lambda rows: forward(layer, rows, context))(hidden)
    return torch.stack([whole[t, :, t] for t in range(len(hidden))])


def assert_equal(actual: Tensor, expected: Tensor, rtol: float = 1e-10) -> None:
    """Equal to within ``rtol`` of the largest entry of each matrix."""
    assert actual.shape == expected.shape
    scale = expected.abs().amax((-2, -1), keepdim=True).clamp(min=1e-300)
    assert ((actual - expected).abs() <= rtol * scale).all()


@cases
@DEVICES
def test_all_that_is_asked_of_a_layer_equals_brute_force(given_case: Case, device: str) -> None:
    arguments, expected = given_case.on(device), brute_force(*given_case.arguments)
    for chunk in (1, 3, None):
        assert_equal(linearise(*arguments, chunk=chunk).propagators().cpu(), expected)
    for tokens in (slice(-1, None), slice(0, 2), slice(0, None, 2), slice(0, 0)):
        assert_equal(linearise(*arguments, tokens=tokens).propagators().cpu(), expected[tokens])
    point = linearise(*arguments)
    assert_equal(point.sublayers().product().cpu(), expected)
    operator, vectors = point.operator(), torch.randn(*expected.shape[:-1], 3, dtype=FLOAT64)
    assert operator.shape == expected.shape
    assert_equal(operator.matmat(vectors.to(device)).cpu(), expected @ vectors)
    assert_equal(operator.rmatmat(vectors.to(device)).cpu(), expected.mT @ vectors)
    assert_equal(operator.transpose().matmat(vectors.to(device)).cpu(), expected.mT @ vectors)


@cases
def test_automatic_differentiation_token_by_token(given_case: Case) -> None:
    layer, hidden, context = given_case.arguments
    actual = autodiff_propagators(lambda rows: forward(layer, rows, context), hidden, chunk=5)
    assert_equal(actual, brute_force(*given_case.arguments))


@pytest.mark.parametrize("name", ["decoder layer", "encoder layer"])
def test_propagators_equal_central_differences(name: str) -> None:
    layer, hidden, context = CASES[name].arguments
    step, columns = 1e-5, []
    for column in range(layer.width):
        # One token at a time: the others, their keys and values, stay where they are.
        shift = torch.eye(len(hidden), dtype=FLOAT64)[..., None] * torch.eye(layer.width)[column]
        ahead, behind = (forward(layer, hidden + x * shift, context) for x in (step, -step))
        columns.append((ahead - behind).diagonal().T / (2 * step))
    assert_equal(
        linearise(layer, hidden, context).propagators(), torch.stack(columns, -1), rtol=1e-6
    )


def silent(part: Attention | FeedForward) -> Attention | FeedForward:
    """The sub-layer with nothing to say."""
    return replace(part, out_weight=0 * part.out_weight, out_bias=0 * part.out_bias)


def only(layer: Layer, name: str | None) -> Layer:
    """The layer with all sub-layers silent but one."""
    names = ("self_attention", "cross_attention", "ffn")
    return replace(layer, **{n: silent(getattr(layer, n)) for n in names if n != name})


@pytest.mark.parametrize("name", ["self_attention", "cross_attention", "ffn"])
def test_each_sublayer_alone(name: str) -> None:
    layer, hidden, context = CASES["decoder layer"].arguments
    alone = only(layer, name)
    actual = getattr(linearise(alone, hidden, context).sublayers(), name)
    assert_equal(actual, brute_force(alone, hidden, context) - torch.eye(layer.width))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_batches(batch: tuple[int, ...]) -> None:
    layer, hidden, context = case(4, 5, 12, 3, batch).arguments
    assert context is not None
    actual = linearise(layer, hidden, context, chunk=3).propagators()
    assert actual.shape == (*batch, 4, 12, 12)
    items = zip(hidden.reshape(-1, 4, 12), context.reshape(-1, 5, 12), strict=True)
    expected = torch.stack([brute_force(layer, h, c) for h, c in items])
    assert_equal(actual.reshape(expected.shape), expected)
    shared = linearise(layer, hidden, context.reshape(-1, 5, 12)[0]).propagators()
    assert_equal(shared.reshape(expected.shape)[0], expected[0])
    operator, vectors = (
        linearise(layer, hidden, context).operator(),
        torch.randn_like(actual)[..., :2],
    )
    assert_equal(operator.matmat(vectors), actual @ vectors)
    assert_equal(operator.rmatmat(vectors), actual.mT @ vectors)


@pytest.mark.parametrize("name", ["decoder layer", "encoder layer"])
def test_padding_does_not_matter(name: str) -> None:
    layer, hidden, context = CASES[name].arguments
    tokens = len(hidden)
    expected = linearise(layer, hidden, context).propagators()
    padded = torch.full((2, tokens + 3, layer.width), torch.nan, dtype=FLOAT64)
    mask = torch.zeros(2, tokens + 3, dtype=torch.bool)
    for item, start in enumerate((0, 2)):
        padded[item, start : start + tokens] = hidden
        mask[item, start : start + tokens] = True
    actual = linearise(layer, padded, context, mask, chunk=2).propagators()
    assert_equal(actual[mask], expected.repeat(2, 1, 1))
    assert not actual[~mask].any()
    selected = linearise(layer, padded, context, mask, tokens=slice(1, 4)).propagators()
    torch.testing.assert_close(selected, actual[:, 1:4])
    vectors = torch.randn(2, tokens + 3, layer.width, 2, dtype=FLOAT64)
    operator = linearise(layer, padded, context, mask).operator()
    assert_equal(operator.matmat(vectors), actual @ vectors)
    assert_equal(operator.rmatmat(vectors), actual.mT @ vectors)


@pytest.mark.parametrize("shape", [(0, 12), (2, 0, 12), (0, 5, 12)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    layer, _, context = case(1, 4, 12, 3).arguments
    hidden = torch.zeros(shape, dtype=FLOAT64)
    assert linearise(layer, hidden, context).propagators().shape == (*shape, 12)
    operator = linearise(layer, hidden, context).operator()
    assert operator.matmat(hidden[..., None]).shape == (*shape, 1)
    assert operator.rmatmat(hidden[..., None][..., :0]).shape == (*shape, 0)


@pytest.mark.parametrize(("factor", "other"), [(0.0, 1.0), (1e-20, 1.0), (1e20, 1.0), (1.0, 1e4)])
def test_hidden_states_and_contexts_of_any_size(factor: float, other: float) -> None:
    layer, hidden, context = CASES["decoder layer"].arguments
    assert context is not None
    arguments = layer, factor * hidden, other * context  # one frame alone is heard of a large one
    assert_equal(linearise(*arguments).propagators(), brute_force(*arguments))


def test_operator_at_some_tokens() -> None:
    layer, hidden, context = case(4, 5, 12, 3, (2,)).arguments
    mask = torch.tensor([[True, True, True, False], [False, True, True, True]])
    index = torch.tensor([0, 3, 6, 5])
    dense = linearise(layer, hidden, context, mask).propagators().flatten(0, 1)[index]
    selected = linearise(layer, hidden, context, mask).operator().at(index)
    vectors = torch.randn(4, 12, 2, dtype=FLOAT64)
    assert selected.shape == dense.shape
    assert_equal(selected.matmat(vectors), dense @ vectors)
    assert_equal(
        selected.transpose().at(torch.tensor([2])).matmat(vectors[2:3]), (dense.mT @ vectors)[2:3]
    )


def test_later_tokens_do_not_matter() -> None:
    layer, hidden, context = CASES["decoder layer"].arguments
    actual = linearise(layer, hidden[:3].clone().requires_grad_(), context).propagators()
    assert not actual.requires_grad
    assert_equal(actual, linearise(layer, hidden, context).propagators()[:3])


def test_a_step_with_cached_keys_has_the_same_propagator() -> None:
    torch.manual_seed(0)
    config = WhisperConfig(d_model=12, decoder_attention_heads=3, decoder_ffn_dim=48)
    module = WhisperDecoderLayer(config, layer_idx=0).double().eval()
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.4)
    hidden, context = torch.randn(6, 12, dtype=FLOAT64), torch.randn(7, 12, dtype=FLOAT64)

    def step(row: Tensor) -> Tensor:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        past_mask = torch.full((5, 5), -torch.inf, dtype=FLOAT64).triu(1)[None, None]
        module(hidden[None, :5], past_mask, context[None], past_key_values=cache)
        return module(row[None, None], None, context[None], past_key_values=cache)[0, 0]

    actual = linearise(as_layer(module), hidden, context, tokens=slice(5, 6)).propagators()
    assert_equal(actual[0], torch.autograd.functional.jacobian(step, hidden[5]))


def test_half_precision_weights() -> None:
    config = WhisperConfig(d_model=24, decoder_attention_heads=4, decoder_ffn_dim=96)
    layer = as_layer(WhisperDecoderLayer(config, layer_idx=0).half())
    _, hidden, context = CASES["decoder layer"].arguments
    assert context is not None
    actual = linearise(layer, hidden.float(), context.float()).propagators()
    assert actual.dtype == torch.float32
    assert_equal(actual.double(), brute_force(layer.to(FLOAT64), hidden, context), rtol=1e-5)


@law
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_a_layer_with_nothing_to_say_is_the_identity(
    tokens: int, frames: int, heads: int, seed: int
) -> None:
    layer, hidden, context = case(tokens, frames, 2 * heads, heads, seed=seed).arguments
    actual = linearise(only(layer, None), hidden, context).propagators()
    assert torch.equal(actual, torch.eye(2 * heads, dtype=FLOAT64).expand_as(actual))


def rotated(layer: Layer, turn: Tensor) -> Layer:
    """The layer in another orthogonal basis of its stream; its norms must have no weights."""

    def attention(part: Attention) -> Attention:
        changed = {"query_weight": part.query_weight @ turn.T, "out_weight": turn @ part.out_weight}
        if part is layer.self_attention:
            changed["key_weight"] = part.key_weight @ turn.T
            changed["value_weight"] = part.value_weight @ turn.T
        return replace(part, **changed, out_bias=turn @ part.out_bias)

    assert layer.cross_attention is not None
    return Layer(
        attention(layer.self_attention),
        attention(layer.cross_attention),
        replace(
            layer.ffn,
            in_weight=layer.ffn.in_weight @ turn.T,
            out_weight=turn @ layer.ffn.out_weight,
            out_bias=turn @ layer.ffn.out_bias,
        ),
        layer.causal,
    )


def with_plain_norms(layer: Layer) -> Layer:
    plain = LayerNorm(
        torch.ones(layer.width, dtype=FLOAT64), torch.zeros(layer.width, dtype=FLOAT64), 1e-5
    )
    parts = ("self_attention", "cross_attention", "ffn")
    return replace(layer, **{name: replace(getattr(layer, name), norm=plain) for name in parts})


@law
@given(st.integers(1, 4), st.integers(0, 99))
def test_change_of_basis(tokens: int, seed: int) -> None:
    layer, hidden, context = case(tokens, 5, 8, 2, seed=seed).arguments
    layer = with_plain_norms(layer)
    # A layer norm knows one direction of its space, that of equal entries: turn the others.
    basis = torch.randn(8, 8, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))
    basis[:, 0] = 1
    basis = torch.linalg.qr(basis).Q
    inner = torch.eye(8, dtype=FLOAT64)
    inner[1:, 1:] = torch.linalg.qr(basis[1:, 1:]).Q
    turn = basis @ inner @ basis.T
    actual = linearise(rotated(layer, turn), hidden @ turn.T, context).propagators()
    assert_equal(actual, turn @ linearise(layer, hidden, context).propagators() @ turn.T)


@law
@given(st.integers(2, 4), st.integers(0, 99))
def test_propagators_of_a_stack_compose(layers: int, seed: int) -> None:
    stack = [random_layer(6, 2, seed=seed + i, dtype=FLOAT64) for i in range(layers)]
    # A single token has no past: the product is the derivative of the whole stack.
    _, hidden, context = case(1, 3, 6, 2).arguments
    product = torch.eye(6, dtype=FLOAT64)
    stream = hidden
    for layer in stack:
        product = linearise(layer, stream, context).propagators()[0] @ product
        stream = forward(layer, stream, context)

    def whole(row: Tensor) -> Tensor:
        for layer in stack:
            row = forward(layer, row, context)
        return row

    assert_equal(product, torch.func.jacrev(whole)(hidden)[0, :, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.ones(6, 23).double()}, r"width 24, got \(6, 23\)"),
        ({"hidden": torch.ones(24).double()}, r"must have shape \(\*batch, tokens, width\)"),
        ({"hidden": torch.ones(6, 24)}, "must be torch.float64 on cpu"),
        ({"hidden": torch.full((6, 24), torch.nan).double()}, "hidden must be finite"),
        ({"context": None}, "needs context"),
        ({"context": torch.ones(9, 23).double()}, r"width 24, got \(9, 23\)"),
        ({"context": torch.ones(0, 24).double()}, "at least one frame"),
        ({"context": torch.full((9, 24), torch.inf).double()}, "context must be finite"),
        ({"context": torch.ones(2, 9, 24).double()}, "batch dimensions of hidden"),
        ({"mask": torch.ones(5, dtype=torch.bool)}, "mask must have shape"),
        ({"mask": torch.ones(6)}, "mask must be bool"),
        ({"chunk": 0}, "chunk must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    change: dict[str, Tensor | int | None], message: str
) -> None:
    layer, hidden, context = CASES["decoder layer"].arguments
    arguments: dict[str, object] = {"layer": layer, "hidden": hidden, "context": context}
    with pytest.raises(ValueError, match=message):
        linearise(**{**arguments, **change}).propagators()


def test_context_without_cross_attention_is_refused() -> None:
    layer, hidden, _ = CASES["encoder layer"].arguments
    with pytest.raises(ValueError, match="context must be None"):
        linearise(layer, hidden, hidden).propagators()


@DEVICES
def test_float32_stands_keys_of_any_condition(device: str) -> None:
    """The closed form solves no system: a key matrix of condition 5e9 costs it no digit."""
    layer, hidden, context = case(16, 60, 64, 4).arguments

    def conditioned(attention: Attention) -> Attention:
        left, _, right = torch.linalg.svd(attention.key_weight)
        values = torch.logspace(0.7, 0.7 - 9.69897, len(right), dtype=FLOAT64)
        return replace(attention, key_weight=left * values @ right)

    assert layer.cross_attention is not None
    layer = replace(
        layer,
        self_attention=conditioned(layer.self_attention),
        cross_attention=conditioned(layer.cross_attention),
    )
    assert torch.linalg.cond(layer.self_attention.key_weight) == pytest.approx(5e9, rel=1e-3)
    expected = linearise(layer, hidden, context).propagators()
    assert context is not None
    single = Case(layer.to(torch.float32), hidden.float(), context.float())
    actual = linearise(*single.on(device)).propagators()
    assert actual.dtype == torch.float32
    assert_equal(actual.double().cpu(), expected, rtol=1e-4)
