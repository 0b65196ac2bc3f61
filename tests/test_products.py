"""Bounds on products of layers: never violated, attained where claimed, refused when wrong."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from companion.measurement.bounds import ProductBounds, product_bounds, stationary_rates
from companion.models.random_layers import random_stack
from spectral.jacobians.propagators import layer_gains
from spectral.jacobians.triplets import top_singular_triplets

ROUNDING = 1e-9  # relative, of bounds; ratios of singular values are resolved to 1e-13
FLOAT64 = torch.float64


def uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def product(stack: Tensor) -> Tensor:
    return functools.reduce(lambda below, layer: layer @ below, stack)


def assert_bounded(bounds: ProductBounds, stack: Tensor) -> None:
    norm, second = torch.linalg.svdvals(product(stack))[..., :2].movedim(-1, 0)
    assert (norm <= bounds.ceiling * (1 + ROUNDING)).all()
    assert (norm >= bounds.floor * (1 - ROUNDING)).all()
    assert bounds.rank_one_ratio.isfinite().all()
    largest = norm * (bounds.rank_one_ratio * (1 + ROUNDING) + 1e-13)
    assert ((second <= largest) | (norm <= 1e-250)).all()


def cube(count: int, layers: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Singular values over two decades, alignments and gaps that crowd towards zero and one."""
    sigma_1 = 10 ** (2 * uniform(layers, count, seed=seed) - 1)
    shape = 2 * uniform(count, seed=seed + 1)[None] - 1
    singular_value_ratio = uniform(layers, count, seed=seed + 2) ** (10**shape)
    alignment = uniform(layers - 1, count, seed=seed + 3) ** (10 ** shape.flip(-1))
    sign = torch.where(uniform(layers - 1, count, seed=seed + 4) < 0.5, -1.0, 1.0)
    return sigma_1, singular_value_ratio * sigma_1, alignment * sign


@pytest.mark.parametrize("kind", ["random", "reflections", "rotations"])
def test_bounds_hold_in_ten_thousand_stacks(kind: str) -> None:
    sigma_1, sigma_2, alignment = cube(10_000, layers=5, seed=11)
    bounds = product_bounds(sigma_1, sigma_2, alignment)
    assert_bounded(bounds, random_stack(sigma_1, sigma_2, alignment, width=5, kind=kind))
    assert 0.2 < (bounds.floor > 0).double().mean() < 0.8, "both cases of the floor are met"


law = settings(derandomize=True, deadline=None, max_examples=200)
fraction = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 1e-300, 1 - 1e-16, 2**-0.5])


@law
@given(st.data(), st.integers(1, 6), st.integers(2, 4), st.integers(0, 2**16))
def test_bounds_hold_for_any_stack(data: st.DataObject, layers: int, width: int, seed: int) -> None:
    def draw(count: int, values: st.SearchStrategy[float]) -> Tensor:
        drawn = data.draw(st.lists(values, min_size=count, max_size=count))
        return torch.tensor(drawn, dtype=FLOAT64)

    sigma_1 = draw(layers, st.floats(1e-3, 1e3))
    sigma_2 = sigma_1 * draw(layers, fraction)
    alignment = draw(layers - 1, fraction) * draw(layers - 1, st.sampled_from([-1.0, 1.0]))
    kind = data.draw(st.sampled_from(["random", "reflections", "rotations"]))
    bounds = product_bounds(sigma_1, sigma_2, alignment)
    assert_bounded(bounds, random_stack(sigma_1, sigma_2, alignment, width, kind, seed))
    assert bounds.floor <= bounds.ceiling * (1 + ROUNDING)
    assert bounds.ceiling <= sigma_1.prod() * (1 + ROUNDING), "never worse than the norms' product"


def radius(largest: float, ratio: float, cosine: float, kind: str) -> Tensor:
    """The growth per layer of many equal layers of two dimensions."""
    sigma = torch.full((2,), largest, dtype=FLOAT64)
    stack = random_stack(sigma, ratio * sigma, tensor([cosine], dtype=FLOAT64), 2, kind)
    return torch.linalg.eigvals(stack[1]).abs().max()


@law
@given(st.floats(0.01, 100), st.floats(0, 1), st.floats(0, 1))
def test_reflections_grow_at_the_fastest_rate(largest: float, cosine: float, ratio: float) -> None:
    rates = stationary_rates(*tensor([largest, cosine, ratio], dtype=FLOAT64))
    rate = radius(largest, ratio, cosine, "reflections")
    torch.testing.assert_close(rate, rates.fastest, rtol=1e-7, atol=1e-12)


@law
@given(st.floats(0.01, 100), st.floats(0.01, 0.9), st.floats(1e-3, 1))
def test_rotations_grow_at_the_slowest_rate(largest: float, ratio: float, above: float) -> None:
    least = 2 * ratio**0.5 / (1 + ratio)
    cosine = least + (1 - least) * above
    rates = stationary_rates(*tensor([largest, cosine, ratio], dtype=FLOAT64))
    rate = radius(largest, ratio, cosine, "rotations")
    torch.testing.assert_close(rate, rates.slowest, rtol=1e-6, atol=1e-12)


def test_below_the_least_alignment_rotations_have_no_leading_direction() -> None:
    singular_value_ratio = 0.5
    least = 2 * singular_value_ratio**0.5 / (1 + singular_value_ratio)
    cosine = tensor(least - 1e-3, dtype=FLOAT64)
    rates = stationary_rates(tensor(1.0), cosine, tensor(singular_value_ratio))
    assert rates.slowest == 0
    sigma = torch.ones(2, dtype=FLOAT64)
    stack = random_stack(sigma, singular_value_ratio * sigma, cosine[None], 2, "rotations")
    assert torch.linalg.eigvals(stack[1]).imag.abs().max() > 0


def test_the_corrected_condition_of_decay_and_not_the_gain_alone_decides() -> None:
    sigma, cosine, singular_value_ratio = (uniform(5000, seed=i) for i in (1, 2, 3))
    sigma_1 = 3 * sigma
    rates = stationary_rates(sigma_1, cosine, singular_value_ratio)
    gain = sigma_1 * cosine
    decays = gain * (1 - singular_value_ratio) + sigma_1.square() * singular_value_ratio < 1
    assert torch.equal(decays, rates.fastest < 1)
    assert (gain[~decays] < 1).any(), "gains below one do not make a stack decay"
    assert (gain[decays] < 1).all()


def test_the_counterexample_to_decay_by_gain_alone() -> None:
    """W_1 = diag(2, 1.9) and W_2 = diag(1.9, 2): gain 0, and a product of norm 3.8."""
    stack = torch.tensor([[2, 1.9], [1.9, 2]], dtype=FLOAT64).diag_embed()
    triplets = top_singular_triplets(stack)
    gains = layer_gains(triplets)
    assert gains.gain.item() < 1e-12
    sigma = triplets.sigma
    bounds = product_bounds(sigma[:, 0], sigma[:, 1], gains.alignment)
    torch.testing.assert_close(bounds.ceiling, tensor(3.8, dtype=FLOAT64))
    torch.testing.assert_close(torch.linalg.matrix_norm(product(stack), 2), bounds.ceiling)


def test_two_layers_attain_the_ceiling() -> None:
    sigma_1, sigma_2, alignment = cube(500, layers=2, seed=5)
    bounds = product_bounds(sigma_1, sigma_2, alignment)
    stack = random_stack(sigma_1, sigma_2, alignment, width=2, kind="reflections")
    torch.testing.assert_close(torch.linalg.matrix_norm(product(stack), 2), bounds.ceiling)


def test_without_second_singular_values_gains_say_it_all() -> None:
    sigma_1, _, alignment = cube(500, layers=6, seed=6)
    bounds = product_bounds(sigma_1, torch.zeros_like(sigma_1), alignment)
    norm = sigma_1[-1] * (sigma_1[:-1] * alignment.abs()).prod(0)
    torch.testing.assert_close(bounds.ceiling, norm)
    torch.testing.assert_close(bounds.floor, norm)
    assert not bounds.rank_one_ratio[norm > 0].any()


def equal_layers(count: int, layers: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    sigma, singular_value_ratio, cosine = (uniform(count, seed=seed + i) for i in range(3))
    return 3 * sigma + 0.1, cosine, singular_value_ratio


@pytest.mark.parametrize("kind", ["random", "reflections", "rotations"])
def test_rates_bound_equal_layers_at_every_length(kind: str) -> None:
    layers = 24
    sigma, cosine, singular_value_ratio = equal_layers(5000, layers, seed=20)
    stack = random_stack(
        sigma.expand(layers, -1), (singular_value_ratio * sigma).expand(layers, -1),
        cosine.expand(layers - 1, -1),
        width=4, kind=kind,
    )  # fmt: skip
    norm = torch.linalg.matrix_norm(product(stack), 2)
    rates = stationary_rates(sigma, cosine, singular_value_ratio)
    assert (norm <= sigma * rates.fastest ** (layers - 1) * (1 + ROUNDING)).all()
    assert (norm >= sigma * rates.slowest ** (layers - 1) * (1 - ROUNDING)).all()


def test_in_three_dimensions_layers_below_the_least_alignment_may_vanish() -> None:
    """diag(2, 1.9, 0) Q, Q cycling the coordinates: alignment 0, gap 0.95, and W^3 = 0."""
    cycle = torch.eye(3, dtype=FLOAT64)[[1, 2, 0]]
    layer = tensor([2.0, 1.9, 0.0], dtype=FLOAT64).diag() @ cycle
    assert not torch.linalg.matrix_power(layer, 3).any()
    rates = stationary_rates(tensor(2.0), tensor(0.0), tensor(0.95))
    assert rates.slowest == 0
    assert rates.fastest > 1


def test_the_ceiling_of_three_unequal_layers_need_not_be_attained() -> None:
    """Gaps 0, xi, 0 and alignments 1, 0: every such product vanishes, the ceiling does not."""
    sigma_1, singular_value_ratio = (
        torch.ones(3, 1, dtype=FLOAT64),
        tensor([[0.0], [0.9], [0.0]], dtype=FLOAT64),
    )
    alignment = tensor([[1.0], [0.0]], dtype=FLOAT64)
    bounds = product_bounds(sigma_1, singular_value_ratio, alignment)
    assert bounds.ceiling.item() == pytest.approx(0.9**0.5)
    assert not product(random_stack(sigma_1, singular_value_ratio, alignment, width=4)).any()


@pytest.mark.parametrize(
    ("sigma", "floor", "ceiling"),
    [([1e200, 1e200, 1e-300], 1e100, 1e100), ([1e200, 1e200, 0.0], 0.0, 0.0),
     ([1e-200, 1e-200, 1e300], 1e-100, 1e-100)],
)  # fmt: skip
def test_sizes_that_leave_float64_on_the_way_do_no_harm(
    sigma: list[float], floor: float, ceiling: float
) -> None:
    values = tensor(sigma, dtype=FLOAT64)
    bounds = product_bounds(values, torch.zeros(3, dtype=FLOAT64), torch.ones(2))
    assert bounds.floor.item() == pytest.approx(floor, rel=1e-9)
    assert bounds.ceiling.item() == pytest.approx(ceiling, rel=1e-9)


@pytest.mark.parametrize("size", [1e-200, 1e-10, 1.0, 1e200])
def test_rates_scale_with_the_singular_value(size: float) -> None:
    sigma, cosine, singular_value_ratio = equal_layers(200, 1, seed=30)
    small, rates = (
        stationary_rates(size * sigma, cosine, singular_value_ratio),
        stationary_rates(sigma, cosine, singular_value_ratio),
    )
    torch.testing.assert_close(small.fastest / size, rates.fastest, rtol=1e-12, atol=0)
    torch.testing.assert_close(small.slowest / size, rates.slowest, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("sigma_1", "sigma_2", "alignment", "expected"),
    [
        ([2.0] * 9, [2.0] * 9, [1.0] * 8, (2**9, 2**9, 1)),  # equal orthogonal layers
        ([3.0], [1.5], [], (3, 3, 0.5)),  # one layer is its own bound
        ([0.0] * 3, [0.0] * 3, [0.0] * 2, (0, 0, 1)),  # zeros give no NaN
    ],
)
def test_the_simplest_stacks(
    sigma_1: list[float], sigma_2: list[float], alignment: list[float], expected: tuple[float, ...]
) -> None:
    bounds = product_bounds(tensor(sigma_1), tensor(sigma_2), tensor(alignment))
    actual = bounds.ceiling.item(), bounds.floor.item(), bounds.rank_one_ratio.item()
    assert actual == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sigma_1", "sigma_2", "alignment", "message"),
    [
        ([1.0, 1.0], [1.0], [0.0], "must have shape"),
        ([1.0, 1.0], [1.0, 1.0], [0.0, 0.0], "must have shape"),
        ([1.0, float("nan")], [1.0, 1.0], [0.0], "sigma_1 must be finite"),
        ([1.0, 1.0], [1.0, 1.5], [0.0], "descending"),
        ([1.0, 1.0], [1.0, -0.5], [0.0], "sigma_2 must be non-negative"),
        ([1.0, 1.0], [1.0, 1.0], [1.1], "length one"),
    ],
)
def test_what_cannot_be_is_refused(
    sigma_1: list[float], sigma_2: list[float], alignment: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        product_bounds(tensor(sigma_1), tensor(sigma_2), tensor(alignment))
