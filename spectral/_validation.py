"""Checks shared by the kernels: each failure names the argument, what was seen and the remedy."""

import operator

import torch
from torch import Tensor

CACHED, ON_DEVICE = 2**20, 2**28
"""Numbers that a chunk of tokens may need: on a CPU, to stay in its caches; and elsewhere."""


def as_float64(values: Tensor, name: str, layout: str) -> Tensor:
    """``values`` in float64 and outside autograd, checked to be real floating point.

    ``layout``: their shape, such as ``(*batch, tokens, width)``, as the error says it.
    """
    if not isinstance(values, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(values).__name__}: "
            "wrap arrays in torch.as_tensor"
        )
    if not values.is_floating_point():
        raise ValueError(
            f"{name} must be real floating point, got {values.dtype}: convert with .double()"
        )
    required = layout.count(",")
    if values.ndim < required:
        raise ValueError(f"{name} must have shape {layout}, got {tuple(values.shape)}")
    return values.detach().to(torch.float64)


def as_mask(mask: Tensor | None, shape: torch.Size, device: torch.device) -> Tensor:
    """``mask`` in this shape, checked to be bool and on this device; all true for None."""
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool, true where a token is real, got {mask.dtype}: convert with .bool()"
        )
    if mask.device != device:
        raise ValueError(f"mask must be on {device}, got {mask.device}: move it with .to")
    try:
        return mask.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"mask must have shape {tuple(shape)}, one entry per token, or one that broadcasts to "
            f"it, got {tuple(mask.shape)}"
        ) from None


def require_finite(values: Tensor, name: str, remedy: str) -> None:
    """Raise ValueError, with the first offender and its index, unless all values are finite."""
    _refuse(~torch.isfinite(values), values, f"{name} must be finite", remedy)


def require_non_negative(values: Tensor, name: str, remedy: str) -> None:
    """Raise ValueError, with the first offender and its index, if a value is below zero."""
    _refuse(values < 0, values, f"{name} must be non-negative", remedy)


def _refuse(wrong: Tensor, values: Tensor, rule: str, remedy: str) -> None:
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"{rule}, got {values[index].item()} at index {index} "
            f"({int(wrong.sum())} of {values.numel()} values): {remedy}"
        )


def whole_number(value: int, name: str, least: int) -> int:
    """``value`` as an int of at least ``least``; ValueError otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def as_chunk(chunk: int | None, numbers: int, device: torch.device) -> int:
    """``chunk`` itself, checked, or how many tokens of so many numbers each suit the device."""
    if chunk is not None:
        return whole_number(chunk, "chunk", least=1)
    return max(1, (CACHED if device.type == "cpu" else ON_DEVICE) // max(numbers, 1))


def power_of_two_near(largest: Tensor) -> Tensor:
    """The last power of two up to each value, and 1 for 0: dividing by it is exact."""
    mantissa, _ = torch.frexp(largest)
    return torch.where(largest > 0, largest / (2 * mantissa), 1.0)
