"""Spectra against NumPy's float64 SVD, closed forms, and the laws they must obey."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spectral import (
    effective_rank,
    eigenvalues,
    kirchhoff_index,
    resolved_kirchhoff_index,
    resolved_modes,
    spectral_slope,
)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
CENTER = pytest.mark.parametrize("center", [True, False])
law = settings(derandomize=True, deadline=None, max_examples=80)


def reference(activations: np.ndarray, center: bool = True) -> np.ndarray:
    """Covariance eigenvalues of one utterance by SVD, centred in extended precision."""
    rows = np.asarray(activations, dtype=np.longdouble)
    if center:
        rows = rows - rows.mean(axis=0)
    unit = np.abs(rows).max()
    sigma = np.linalg.svd((rows / unit).astype(np.float64), compute_uv=False)
    return np.float64((sigma * unit) ** 2 / (len(rows) - 1))


def assert_same_spectrum(actual: Tensor, expected: np.ndarray) -> None:
    """Equal to 1e-5 down to 1e-9 of the largest, exactly zero below."""
    edge = 1e-9 * expected[0]
    kept, noise = expected > 1.001 * edge, expected < 0.999 * edge
    values = actual.cpu().numpy()
    np.testing.assert_allclose(values[kept], expected[kept], rtol=1e-5)
    assert not values[noise].any()


def gaussian(tokens: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, width))


def with_singular_values(tokens: int, width: int, sigma: np.ndarray) -> np.ndarray:
    """A matrix of rows with zero mean and these singular values."""
    modes = len(sigma)
    left, _ = np.linalg.qr(np.c_[np.ones(tokens), gaussian(tokens, modes, seed=1)])
    right, _ = np.linalg.qr(gaussian(width, modes, seed=2))
    return (left[:, 1 : modes + 1] * sigma) @ right.T


CASES = {
    "fewer tokens than width": gaussian(20, 64),
    "more tokens than width": gaussian(64, 20),
    "as many tokens as width": gaussian(32, 32),
    "one token more than width": gaussian(33, 32),
    "two tokens": gaussian(2, 7),
    "width one": gaussian(9, 1),
    "rank one": np.outer(gaussian(1, 30)[0], gaussian(1, 12)[0]),
    "power law past the noise": with_singular_values(90, 60, np.arange(1.0, 61.0) ** -3),
    "geometric past the noise": with_singular_values(60, 90, np.geomspace(1, 1e-6, 59)),
    "plateau just above the noise": with_singular_values(99, 80, np.repeat([1, 10**-4.49], 40)),
    "scale 1e-20": 1e-20 * gaussian(20, 30),
    "scale 1e20": 1e20 * gaussian(20, 30),
    "scale 1e-100": 1e-100 * gaussian(20, 30),
    "scale 1e100": 1e100 * gaussian(20, 30),
    "float32 scale 1e20": np.float32(1e20 * gaussian(20, 30)),
    "float32 scale 1e-38": np.float32(1e-38 * gaussian(20, 30)),
    "float16": np.float16(gaussian(20, 30)),
    "float32 of one unit in the last place about 1e4": np.float32(1e4 + 1e-3 * gaussian(20, 30)),
    "variance 1e-6 about a mean of 1e8": 1e8 + 1e-3 * gaussian(20, 30),
    "power law about a mean of 1e10": 1e10 + with_singular_values(60, 40, np.arange(1.0, 41) ** -2),
    "one outlying row, the first": np.r_[1e4 + gaussian(1, 30), gaussian(20, 30)],
    "one feature 1e4 times the others": gaussian(20, 30) * np.r_[1e4, np.ones(29)],
    "one constant feature of 1e10": np.c_[np.full(20, 1e10), gaussian(20, 30)],
    "half of the rows the same": np.r_[np.ones((10, 30)), gaussian(10, 30)],
}
case = pytest.mark.parametrize("activations", CASES.values(), ids=CASES.keys())


# --- eigenvalues: agreement with an independent reference


@case
@CENTER
@DEVICES
def test_eigenvalues_descend_and_agree_with_float64_svd(
    activations: np.ndarray, center: bool, device: str
) -> None:
    actual = eigenvalues(torch.as_tensor(activations, device=device), center=center)
    assert (actual.shape, actual.dtype) == ((min(activations.shape),), torch.float64)
    assert actual.device.type == device
    assert (actual.diff() <= 0).all()
    assert_same_spectrum(actual, reference(activations, center))
    for read in READINGS if device == "cuda" else ():
        torch.testing.assert_close(read(actual).cpu(), read(actual.cpu()), equal_nan=True)
    if center:
        variance = np.asarray(activations, dtype=np.longdouble).var(axis=0, ddof=1).sum()
        assert actual.sum().item() == pytest.approx(float(variance), rel=1e-7, abs=0)


@DEVICES
@pytest.mark.parametrize("count", [16, 17, 32, 33, 40])
def test_a_batch_of_any_size_has_the_spectra_of_its_members(device: str, count: int) -> None:
    """Batched solvers take other algorithms by size and by batch, on CUDA above all."""
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn(512, count, 48, generator=generator).to(device)
    singles = torch.stack([eigenvalues(member) for member in rows])
    for size in (1, 2, 31, 512):
        actual = eigenvalues(rows[:size])
        torch.testing.assert_close(actual, singles[:size], rtol=1e-9, atol=0)
    wide = eigenvalues(rows.mT)  # the Gram matrix of the other side
    assert wide.shape[-1] == count
    assert torch.isfinite(wide).all()


def test_half_precision_input_is_taken_at_face_value() -> None:
    activations = torch.as_tensor(gaussian(20, 30))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        rounded = activations.to(dtype)
        assert torch.equal(eigenvalues(rounded), eigenvalues(rounded.double()))


# --- eigenvalues: small and constant utterances


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -1e4, 1e20, 1e-20, 1e100, 1e-100])
def test_constant_rows_have_a_spectrum_of_exactly_zero(value: float) -> None:
    row = torch.tensor([value, 0.7 * value, -0.1 * value], dtype=torch.float64)
    for tokens in (2, 3, 7, 10, 49):
        assert not eigenvalues(row.repeat(tokens, 1)).any()
        assert not eigenvalues(row.clamp(-1e38, 1e38).float().repeat(tokens, 1)).any()


def test_constant_rows_that_differ_by_float64_rounding_have_a_spectrum_of_zero() -> None:
    rng = np.random.default_rng(0)
    for tokens, width in [(2, 2), (7, 3), (40, 16), (200, 64)]:
        row = rng.standard_normal(width)
        rounding = rng.choice([-1, 0, 1], (tokens, width)) * np.spacing(row)
        rotation = scipy.stats.special_ortho_group.rvs(width, random_state=0)
        for rows in (row + rounding, (row + rounding) @ rotation):
            assert not eigenvalues(torch.as_tensor(rows)).any()


@CENTER
def test_one_token_or_none_has_a_spectrum_of_zeros(center: bool) -> None:
    assert eigenvalues(torch.ones(1, 5), center=center).tolist() == [0.0]
    mask = torch.tensor([[False] * 3, [True, False, False]])
    assert not eigenvalues(torch.randn(2, 3, 5), mask, center=center).any()
    for shape in ((0, 5), (5, 0), (0, 0), (0, 4, 5), (3, 0, 5)):
        actual = eigenvalues(torch.ones(shape), center=center)
        assert (actual.shape, actual.dtype) == ((*shape[:-2], min(shape[-2:])), torch.float64)


def test_an_empty_spectrum_means_what_a_spectrum_of_zeros_means() -> None:
    for spectrum in (torch.zeros(2, 0), torch.zeros(2, 4)):
        assert effective_rank(spectrum).tolist() == [0.0, 0.0]
        assert effective_rank(spectrum, k=3, of="singular_values").tolist() == [0.0, 0.0]
        assert resolved_modes(spectrum).tolist() == [0, 0]
        assert spectral_slope(spectrum, 1, 2).isnan().all()
        assert kirchhoff_index(spectrum, k=3, eps=0.5).tolist() == [18.0, 18.0]
        assert resolved_kirchhoff_index(spectrum, k=3, eps=0.5).tolist() == [0.0, 0.0]


# --- eigenvalues: batches and masks


@CENTER
@DEVICES
@pytest.mark.parametrize("garbage", [0.0, math.nan, math.inf, -math.inf, 1e300])
def test_what_lies_under_a_mask_does_not_matter(garbage: float, center: bool, device: str) -> None:
    """Real tokens may lie anywhere under it, and it broadcasts over leading dimensions."""
    activations = torch.as_tensor(gaussian(6 * 12, 5)).reshape(6, 12, 5)
    mask = torch.arange(12) < torch.tensor([12, 1, 0, 2, 7, 12])[:, None]
    mask = mask[:, torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    alone = [eigenvalues(a[m], center=center) for a, m in zip(activations, mask, strict=True)]
    activations[~mask] = garbage
    both = torch.stack([activations, activations]).to(device)
    for actual in eigenvalues(both, mask.to(device), center=center).cpu():
        for spectrum, expected in zip(actual, alone, strict=True):
            torch.testing.assert_close(spectrum[: len(expected)], expected, rtol=1e-9, atol=0)
            assert not spectrum[len(expected) :].any()


def test_a_batch_of_any_leading_dimensions_equals_a_loop() -> None:
    activations = torch.as_tensor(gaussian(2 * 3 * 8, 5)).reshape(2, 3, 8, 5)
    scales = torch.tensor([1e-20, 1.0, 1e20]).double()[:, None, None]
    actual = eigenvalues(activations * scales)
    for i, j in np.ndindex(2, 3):
        torch.testing.assert_close(
            actual[i, j], eigenvalues(activations[i, j] * scales[j]), rtol=1e-12, atol=0
        )
    for read in READINGS:
        torch.testing.assert_close(
            read(actual), torch.stack([torch.stack([read(e) for e in pair]) for pair in actual])
        )


READINGS: list[Callable[[Tensor], Tensor]] = [
    resolved_modes,
    effective_rank,
    lambda e: effective_rank(e, k=3, of="singular_values"),
    lambda e: spectral_slope(e, 1, 4),
    lambda e: resolved_kirchhoff_index(e, k=8, eps=1e-6),
    lambda e: kirchhoff_index(e, k=8, eps=1e-6),
]


def test_views_equal_their_copies_which_stay_as_they_were_without_gradients() -> None:
    view = torch.as_tensor(gaussian(30, 24)).T[::2].requires_grad_()
    before = view.detach().clone()
    assert torch.equal(eigenvalues(view), eigenvalues(before))
    assert torch.equal(view, before)
    assert not any(read(eigenvalues(view)).requires_grad for read in READINGS)


# --- readings of a spectrum


@pytest.mark.parametrize("of", ["eigenvalues", "singular_values"])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 997])
@pytest.mark.parametrize("level", [5e-324, 1e-300, 1.0, 1.7e308])
def test_a_flat_spectrum_of_n_modes_has_rank_n(of: str, n: int, level: float) -> None:
    spectrum = torch.tensor([level] * n + [0.0] * 5, dtype=torch.float64)
    rank = effective_rank(spectrum, of=of)
    assert rank <= n
    torch.testing.assert_close(rank.item(), float(n), rtol=1e-13, atol=0)


@pytest.mark.parametrize(("of", "power"), [("eigenvalues", 1), ("singular_values", 0.5)])
def test_effective_rank_is_the_exponential_of_scipy_s_entropy(of: str, power: float) -> None:
    spectrum = np.random.default_rng(0).random(40) ** 8
    rank = effective_rank(torch.as_tensor(spectrum), of=of).item()
    assert rank == pytest.approx(np.exp(scipy.stats.entropy(spectrum**power)), rel=1e-12)


def test_k_renormalises_over_the_largest_modes_and_pads_where_there_are_fewer() -> None:
    spectrum = torch.tensor([5.0, 3.0, 2.0, 1.0])
    assert effective_rank(spectrum, k=2) == effective_rank(torch.tensor([5.0, 3.0]))
    assert effective_rank(spectrum, k=1) == 1
    assert effective_rank(spectrum, k=50) == effective_rank(spectrum)


def test_the_order_of_eigenvalues_does_not_matter() -> None:
    spectrum = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.0]).double()
    for read in READINGS[:-1]:  # the last one's sum rounds
        assert torch.equal(read(spectrum), read(spectrum[[3, 1, 4, 0, 2]]))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.7, 9.0])
@pytest.mark.parametrize(("first", "last"), [(1, 2), (1, 50), (10, 50), (49, 50), (3, 17)])
def test_the_slope_of_a_power_law_is_its_exponent(alpha: float, first: int, last: int) -> None:
    spectrum = torch.arange(1, 51).double().pow(-alpha)
    actual = spectral_slope(spectrum, first, last).item()
    assert actual == pytest.approx(alpha, rel=1e-11, abs=1e-11)


def test_the_slope_agrees_with_scipy_linregress() -> None:
    spectrum = np.sort(np.random.default_rng(0).random(30))[::-1].copy()
    fit = scipy.stats.linregress(np.log(np.arange(4, 21)), np.log(spectrum[3:20]))
    actual = spectral_slope(torch.as_tensor(spectrum), 4, 20).item()
    assert actual == pytest.approx(-fit.slope, rel=1e-12)


def test_the_slope_is_nan_where_last_exceeds_the_resolved_modes() -> None:
    spectra = torch.tensor([[4.0, 2.0, 1.0], [4.0, 2.0, 0.0], [4.0, 0.0, 0.0]])
    assert spectral_slope(spectra, 1, 3).isnan().tolist() == [False, True, True]
    assert spectral_slope(spectra, 1, 2).isnan().tolist() == [False, False, True]
    assert spectral_slope(spectra, 1, 4).isnan().tolist() == [True, True, True]


def test_padded_kirchhoff_adds_one_over_eps_per_missing_mode_and_resolved_leaves_it_out() -> None:
    spectrum = torch.tensor([3.0, 1.0, 0.0])
    assert kirchhoff_index(spectrum, k=2, eps=1.0).item() == 2 * (1 / 4 + 1 / 2)
    assert kirchhoff_index(spectrum, k=3, eps=1.0).item() == 3 * (1 / 4 + 1 / 2 + 1)
    assert kirchhoff_index(spectrum, k=5, eps=1.0).item() == 5 * (1 / 4 + 1 / 2 + 3)
    for k in (2, 3, 5):
        assert resolved_kirchhoff_index(spectrum, k=k, eps=1.0).item() == 2 * (1 / 4 + 1 / 2)
    assert resolved_kirchhoff_index(spectrum, k=1, eps=1.0).item() == 1 / 4
    assert resolved_kirchhoff_index(spectrum, k=5, eps=0.0).item() == 2 * (1 / 3 + 1)


# --- laws

# On a grid, so that a rotation's rounding cannot pass for a mode.
grid = st.integers(-64, 64).map(lambda i: i / 8)
positive = st.floats(-12, 12).map(lambda x: 10.0**x)
spectra = st.lists(st.floats(-9, 0).map(lambda x: 10.0**x), min_size=2, max_size=12).map(
    lambda x: torch.tensor(sorted(x, reverse=True), dtype=torch.float64)
)


@st.composite
def utterances(draw: st.DrawFn) -> Tensor:
    tokens, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    values = draw(st.lists(grid, min_size=tokens * width, max_size=tokens * width))
    return torch.tensor(values, dtype=torch.float64).reshape(tokens, width)


@law
@given(utterances())
def test_effective_rank_lies_between_1_and_the_rank_of_centred_rows(rows: Tensor) -> None:
    modes, (tokens, width) = eigenvalues(rows), rows.shape
    rank, larger = effective_rank(modes).item(), effective_rank(modes, of="singular_values").item()
    constant = bool((rows == rows[0]).all())
    assert rank == 0 if constant else rank >= 1
    assert rank * (1 - 1e-12) <= larger <= min(tokens - 1, width)


@law
@given(spectra, st.integers(1, 15), positive, positive)
def test_k_bounds_the_rank_and_kirchhoff_scales_inversely(
    spectrum: Tensor, k: int, c: float, eps: float
) -> None:
    assert 1 <= effective_rank(spectrum, k).item() <= min(k, len(spectrum))
    for index in (kirchhoff_index, resolved_kirchhoff_index):
        torch.testing.assert_close(
            index(c * spectrum, k, c * eps), index(spectrum, k, eps) / c, rtol=1e-12, atol=0
        )


@law
@given(utterances(), st.permutations(range(9)), grid, positive)
def test_scale_enters_squared_and_order_and_a_common_offset_not_at_all(
    rows: Tensor, order: list[int], offset: float, c: float
) -> None:
    expected = eigenvalues(rows)
    shuffled = rows[[i for i in order if i < len(rows)]] + offset
    torch.testing.assert_close(eigenvalues(shuffled), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(eigenvalues(c * rows), expected * c**2, rtol=1e-5, atol=0)


@law
@given(utterances(), st.integers(0, 10**6), st.booleans())
def test_rotating_the_features_changes_nothing(rows: Tensor, seed: int, center: bool) -> None:
    rotation = torch.as_tensor(np.linalg.qr(gaussian(rows.shape[1], rows.shape[1], seed))[0])
    actual = eigenvalues(rows @ rotation, center=center)
    torch.testing.assert_close(actual, eigenvalues(rows, center=center), rtol=1e-5, atol=0)


# --- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eigenvalues(torch.ones(5)), r"activations .*\(\*batch, tokens, width\).*\(5,\)"),
        (lambda: eigenvalues(torch.ones(3, 2).long()), "activations .*torch.int64"),
        (lambda: eigenvalues(torch.ones(3, 2).cfloat()), "activations .*torch.complex64"),
        (
            lambda: eigenvalues(torch.tensor([[1.0, 2.0], [3.0, math.nan]])),
            r"activations .*nan at index \(1, 1\) \(1 of 4",
        ),
        (lambda: eigenvalues(torch.tensor([[1.0], [-math.inf]])), r"-inf at index \(1, 0\)"),
        (lambda: eigenvalues(torch.ones(2, 2).double() * 1e200), r"activations .*1e\+200"),
        (lambda: eigenvalues(torch.ones(2, 2).double() * 1e-200), "activations .*1e-200"),
        (lambda: eigenvalues(torch.ones(3, 2), torch.ones(3)), "mask .*torch.float32"),
        (
            lambda: eigenvalues(torch.ones(3, 2), torch.ones(2, dtype=torch.bool)),
            r"mask .*\(3,\).*broadcasts.*\(2,\)",
        ),
        (
            lambda: eigenvalues(torch.ones(3, 2), torch.ones(3, dtype=torch.bool, device="meta")),
            "mask must be on cpu, got meta",
        ),
        (lambda: effective_rank(torch.tensor(1.0)), r"eigenvalues .*\(\*batch, modes\), got \(\)"),
        (lambda: effective_rank(torch.tensor([1, 2])), "eigenvalues .*torch.int64"),
        (lambda: effective_rank(torch.tensor([1.0, math.nan])), r"eigenvalues .*nan at index \(1,"),
        (lambda: effective_rank(torch.tensor([math.inf])), r"eigenvalues .*inf at index \(0,"),
        (lambda: effective_rank(torch.tensor([1.0, -0.5])), r"eigenvalues .*-0.5 at index \(1,"),
        (lambda: effective_rank(torch.ones(2), k=0), "k must be at least 1, got 0"),
        (lambda: effective_rank(torch.ones(2), k=2.5), "k must be a whole number, got 2.5"),
        (lambda: effective_rank(torch.ones(2), of="modes"), "of must be .* got 'modes'"),
        (lambda: resolved_modes(torch.tensor([-1.0])), "eigenvalues .*-1.0"),
        (lambda: spectral_slope(torch.ones(9), 0, 5), "first must be at least 1, got 0"),
        (lambda: spectral_slope(torch.ones(9), 5, 5), "last .*first=5, last=5"),
        (lambda: spectral_slope(torch.ones(9), 5, 2), "last .*first=5, last=2"),
        (lambda: spectral_slope(torch.tensor([math.nan]), 1, 2), "eigenvalues .*nan"),
        (lambda: kirchhoff_index(torch.ones(2), k=-3, eps=1.0), "k must be at least 1, got -3"),
        (lambda: kirchhoff_index(torch.ones(2), k=2, eps=0.0), "eps must be above 0 .*got 0.0"),
        (lambda: kirchhoff_index(torch.ones(2), k=2, eps=math.nan), "eps .*got nan"),
        (lambda: kirchhoff_index(torch.ones(2), k=2, eps=math.inf), "eps .*got inf"),
        (lambda: kirchhoff_index(-torch.ones(2), k=2, eps=1.0), r"eigenvalues .*-1.0 .*2 of 2"),
        (lambda: resolved_kirchhoff_index(torch.ones(2), k=0, eps=1.0), "k must be .*got 0"),
        (lambda: resolved_kirchhoff_index(torch.ones(2), k=2, eps=-1.0), "eps .*got -1.0"),
    ],
)
def test_a_wrong_argument_is_named_and_shown(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_tensor_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"activations must be a torch\.Tensor, got ndarray"):
        eigenvalues(np.ones((3, 2)))
    with pytest.raises(TypeError, match=r"mask must be a torch\.Tensor, got list"):
        eigenvalues(torch.ones(3, 2), [True, True, False])
