"""Jacobians by the context against automatic differentiation, and from the log-mel input on."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from companion.measurement.tangents import forward, total_sensitivity
from companion.models.random_layers import random_layer
from spectral import Layer, linearise, top_singular_triplets
from spectral.jacobians.context_jacobian import joined

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
law = settings(derandomize=True, deadline=None, max_examples=15)
FLOAT64 = torch.float64


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def stack_of(layers: int, width: int, heads: int, **kind: int | None) -> list[Layer]:
    return [random_layer(width, heads, seed=i, dtype=FLOAT64, **kind) for i in range(layers)]


def streams(layers: list[Layer], hidden: Tensor, context: Tensor) -> list[Tensor]:
    """The residual stream before each layer."""
    before = [hidden]
    for layer in layers[:-1]:
        before.append(forward(layer, before[-1], context))
    return before


def brute_force(layer: Layer, hidden: Tensor, context: Tensor) -> Tensor:
    """d h_l / d c at fixed h_{l-1}: (tokens, width, frames * source)."""
    return torch.func.jacrev(lambda c: forward(layer, hidden, c))(context).flatten(-2)


def fixed_past(layers: list[Layer], hidden: list[Tensor], context: Tensor) -> Tensor:
    """J_L by its recursion J_l = W_l J_{l-1} + G_l."""
    result = brute_force(layers[0], hidden[0], context)
    for layer, stream in zip(layers[1:], hidden[1:], strict=True):
        result = linearise(layer, stream, context).propagators() @ result
        result = result + brute_force(layer, stream, context)
    return result


def assert_equal(got: Tensor, expected: Tensor, rtol: float = 1e-10) -> None:
    assert got.shape == expected.shape
    assert ((got - expected).abs() <= rtol * expected.abs().max()).all()


def assert_same_jacobian(
    layers: list[Layer], hidden: Tensor, context: Tensor, device: str = "cpu"
) -> None:
    """Everything that a ContextJacobian tells, against the dense matrix."""
    before = streams(layers, hidden, context)
    expected = fixed_past(layers, before, context)
    there = [layer.to(device=device) for layer in layers]
    point = linearise(there, [h.to(device) for h in before], context.to(device), chunk=2)
    got = point.sensitivity()
    operator = got.operator()
    tokens, width, columns = expected.shape
    assert operator.shape == expected.shape
    across, down = gaussian(tokens, columns, 3), gaussian(tokens, width, 2)
    assert_equal(operator.matmat(across.to(device)).cpu(), expected @ across)
    assert_equal(operator.rmatmat(down.to(device)).cpu(), expected.mT @ down)
    assert_equal(got.gram().cpu(), expected @ expected.mT)
    frames = expected.unflatten(-1, context.shape)
    norms = frames.square().sum((-3, -1)).sqrt()
    assert_equal(got.frame_norms().cpu(), norms, rtol=1e-8)


CASES = {
    "one layer": (stack_of(1, 24, 4), 6, 9),
    "three layers": (stack_of(3, 12, 3), 5, 7),
    "one token, one frame, one head": (stack_of(2, 6, 1), 1, 1),
    "one frame": (stack_of(1, 8, 2), 3, 1),
    "heads of width one": (stack_of(1, 6, 6), 3, 4),
    "width one": (stack_of(2, 1, 1), 3, 2),
    "widths of their own": (stack_of(2, 12, 3, head_width=5, context_width=10), 4, 7),
}


@pytest.mark.parametrize(("layers", "tokens", "frames"), CASES.values(), ids=CASES)
@DEVICES
def test_context_jacobian_equals_brute_force(
    layers: list[Layer], tokens: int, frames: int, device: str
) -> None:
    crossing = layers[0].cross_attention
    assert crossing is not None
    context = gaussian(frames, crossing.key_weight.shape[1], seed=1)
    assert_same_jacobian(layers, 2 * gaussian(tokens, layers[0].width), context, device)


@law
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_any_stack(depth: int, tokens: int, frames: int, seed: int) -> None:
    layers = [random_layer(6, 2, seed=seed + i, dtype=FLOAT64) for i in range(depth)]
    assert_same_jacobian(layers, gaussian(tokens, 6, seed=seed), gaussian(frames, 6, seed=seed))


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_batches(batch: tuple[int, ...]) -> None:
    (layer,), hidden, context = stack_of(1, 12, 3), gaussian(*batch, 4, 12), gaussian(*batch, 5, 12)
    got = linearise(layer, hidden, context, chunk=3).injection()
    items = zip(hidden.reshape(-1, 4, 12), context.reshape(-1, 5, 12), strict=True)
    expected = torch.stack([brute_force(layer, *item) for item in items])
    expected = expected.reshape(*batch, 4, 12, 60)
    assert_equal(got.gram(), expected @ expected.mT)
    assert got.frame_norms().shape == (*batch, 4, 5)
    vectors = gaussian(*batch, 4, 60, 2)
    assert_equal(got.operator().matmat(vectors), expected @ vectors)
    assert_equal(got.operator().rmatmat(expected @ vectors), expected.mT @ expected @ vectors)


def test_padding_does_not_matter() -> None:
    layers, context = stack_of(2, 12, 3), gaussian(5, 12, seed=1)
    before = streams(layers, gaussian(4, 12), context)
    expected = linearise(layers, before, context).sensitivity()
    mask = torch.tensor([False, True, True, True, True, False])
    padded = [torch.full((6, 12), torch.nan, dtype=FLOAT64) for _ in layers]
    for target, stream in zip(padded, before, strict=True):
        target[mask] = stream
    got = linearise(layers, padded, context, mask).sensitivity()
    assert_equal(got.frame_norms()[mask], expected.frame_norms())
    assert_equal(got.gram()[mask], expected.gram())
    assert not got.frame_norms()[~mask].any()
    chosen = linearise(layers, padded, context, mask, tokens=slice(1, 3)).sensitivity()
    assert_equal(chosen.gram(), expected.gram()[:2])
    assert not got.operator().matmat(gaussian(6, 60, 1))[~mask].any()


@pytest.mark.parametrize("shape", [(0, 12), (2, 0, 12), (0, 4, 12)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    (layer,), context = stack_of(1, 12, 3), gaussian(5, 12)
    got = linearise(layer, torch.zeros(shape, dtype=FLOAT64), context).injection()
    assert got.frame_norms().shape == (*shape[:-1], 5)
    assert got.gram().shape == (*shape, 12)
    operator = got.operator()
    assert operator.matmat(torch.zeros(*shape[:-1], 60, 1, dtype=FLOAT64)).shape == (*shape, 1)
    assert operator.rmatmat(torch.zeros(*shape, 1, dtype=FLOAT64)).shape == (*shape[:-1], 60, 1)


def test_a_layer_that_does_not_listen_has_no_injection() -> None:
    (layer,) = stack_of(1, 12, 3)
    assert layer.cross_attention is not None
    silent = replace(layer.cross_attention, out_weight=torch.zeros(12, 12, dtype=FLOAT64))
    deaf = replace(layer, cross_attention=silent)
    got = linearise(deaf, gaussian(4, 12), gaussian(5, 12)).injection()
    assert not got.frame_norms().any()
    assert not got.gram().any()


def test_single_precision() -> None:
    layers, context = stack_of(2, 24, 4), gaussian(9, 24, seed=1)
    before = streams(layers, gaussian(5, 24), context)
    expected = linearise(layers, before, context).sensitivity()
    single = [layer.to(torch.float32) for layer in layers]
    got = linearise(single, [h.float() for h in before], context.float()).sensitivity()
    assert_equal(got.frame_norms().double(), expected.frame_norms(), rtol=1e-5)
    assert_equal(got.gram().double(), expected.gram(), rtol=1e-5)


def test_top_triplets_of_an_injection() -> None:
    (layer,), hidden, context = stack_of(1, 12, 3), gaussian(4, 12), gaussian(9, 12, seed=1)
    got = top_singular_triplets(linearise(layer, hidden, context).injection().operator(), k=2)
    expected = torch.linalg.svdvals(brute_force(layer, hidden, context))[:, :2]
    assert got.converged.all()
    assert got.v.shape == (4, 9 * 12, 2)
    assert_equal(got.sigma, expected)


def test_total_and_fixed_past_agree_where_there_is_no_past() -> None:
    layers, hidden, context = stack_of(3, 8, 2), gaussian(2, 4, 8), gaussian(2, 5, 8, seed=1)
    before = streams(layers, hidden, context)
    fixed = linearise(layers, before, context).sensitivity().operator()
    vectors = gaussian(2, 40, 2)
    products = fixed.matmat(vectors[:, None].expand(-1, 4, -1, -1))
    for token in range(4):
        total = total_sensitivity(layers, hidden, context, slice(token, token + 1))
        assert total.shape == (2, 8, 40)
        same = torch.allclose(total.matmat(vectors), products[:, token], rtol=1e-10)
        assert same == (token == 0)


def test_products_of_a_total_sensitivity_at_short_and_long_texts() -> None:
    """Texts of fewer tokens than a head is wide go another way."""
    layers = stack_of(2, 12, 3)
    for tokens in (2, 4, 7):
        hidden, context = gaussian(2, tokens, 12), gaussian(2, 5, 12, seed=1)

        def decoder(context: Tensor, hidden: Tensor = hidden) -> Tensor:
            return forward(layers[1], forward(layers[0], hidden, context), context)[:, 1::2]

        operator = total_sensitivity(layers, hidden, context, slice(1, None, 2))
        columns = gaussian(2, 60, 3, seed=2)
        tangents = columns.mT.reshape(2, 3, 5, 12).unbind(1)
        moved = [torch.func.jvp(decoder, (context,), (tangent,))[1] for tangent in tangents]
        expected = torch.stack(moved, -1).flatten(1, 2)
        assert operator.shape == (*expected.shape[:2], 60)
        assert_equal(operator.matmat(columns), expected)
        down = gaussian(2, expected.shape[1], 2, seed=3)
        assert_equal(columns.mT @ operator.rmatmat(down), expected.mT @ down)


def test_injections_carried_on_add_up_to_the_sensitivity_and_come_with_their_parts() -> None:
    layers, context = stack_of(3, 12, 3), gaussian(2, 5, 12, seed=1)
    before, tokens = streams(layers, gaussian(2, 4, 12), context), slice(1, 4, 2)
    point = linearise(layers, before, context, tokens=tokens)
    upper, arriving = torch.eye(12, dtype=FLOAT64).expand(2, 2, 12, 12), []
    for i in (2, 1, 0):
        arriving.append(point.injection(i).then(upper))
        upper = upper @ point.propagators()[i]
    sensitivity = linearise(layers, before, context, tokens=tokens).sensitivity()
    gram, cores = joined(arriving[::-1]).gram_and_cores(3)
    assert_equal(gram, sensitivity.gram())
    for i, part in enumerate(arriving[::-1]):
        ways = part.ways.reshape(2, 2, 12, -1)
        assert_equal(ways @ cores[..., i, :, :] @ ways.mT, part.gram())
    assert sensitivity.to(torch.float32).gram().dtype == torch.float32


def test_stacks_that_do_not_fit_are_refused() -> None:
    layers, hidden, context = stack_of(2, 12, 3), gaussian(4, 12), gaussian(5, 12)
    with pytest.raises(ValueError, match="one hidden state per layer"):
        linearise(layers, [hidden], context).sensitivity()
    with pytest.raises(ValueError, match="at least one"):
        linearise([], [], context).sensitivity()
    encoder = random_layer(12, 3, cross_attention=False, causal=False, dtype=FLOAT64)
    with pytest.raises(ValueError, match="without cross-attention"):
        linearise(encoder, hidden, context).injection()
    other = random_layer(12, 4, dtype=FLOAT64)
    with pytest.raises(ValueError, match="all heads must have one width"):
        linearise([layers[0], other], [hidden, hidden], context).sensitivity()
