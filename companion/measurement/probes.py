"""What can be read linearly from features: a ridge classifier in closed form, cross-validated."""

from collections.abc import Callable

import torch
from torch import Tensor

from spectral._validation import as_float64, require_finite

RIDGE = 1e-2
"""The penalty, in units of the number of training rows: features have variance one."""


def linear_probe(features: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    r"""Labels predicted for each fold by a linear probe that was fitted to all the others.

    Features are scaled to mean 0 and variance 1 over the training rows; the weights minimise

    .. math:: |X W - Y|^2 + 10^{-2} N |W|^2

    with Y the labels as indicator columns less their means, and the largest score decides (Hastie,
    Tibshirani & Friedman 2009, sec. 4.2, with a penalty). N D^2 + D^3 operations per fold.

    Args:
        features: Shape ``(rows, width)``, finite.
        labels: Shape ``(rows,)``, int64.
        folds: Shape ``(rows,)``, int64: which fold a row is in.

    Returns:
        Predicted labels, ``(rows,)``, int64.

    Raises:
        ValueError: For other shapes, a dtype that is not floating, NaN or infinity, one fold only.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [0.1], [0.9]])
        >>> linear_probe(features, torch.tensor([3, 5, 3, 5]), torch.tensor([0, 0, 1, 1]))
        tensor([3, 5, 3, 5])
    """
    rows = as_float64(features, "features", "(rows, width)")
    require_finite(rows, "features", "leave out the rows that are not real")

    def predict(train: Tensor, test: Tensor) -> Tensor:
        known, column = torch.unique(labels[train], return_inverse=True)
        mean, deviation = rows[train].mean(0), rows[train].std(0, correction=0)
        scale = deviation.where(deviation > 0, 1.0)
        x = (rows[train] - mean) / scale
        y = torch.nn.functional.one_hot(column, len(known)).to(x.dtype)
        fraction = y.mean(0)
        penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weights = torch.linalg.solve(x.mT @ x + penalty, x.mT @ (y - fraction))
        return known[((rows[test] - mean) / scale @ weights + fraction).argmax(-1)]

    return _by_fold(predict, labels, folds, len(rows))


def majority(labels: Tensor, folds: Tensor) -> Tensor:
    """The chance of :func:`linear_probe`: the most frequent label of all other folds.

    Args:
        labels: Shape ``(rows,)``, int64; of equally frequent ones the smallest is taken.
        folds: Shape ``(rows,)``, int64.

    Returns:
        Predicted labels, ``(rows,)``, int64.

    Raises:
        ValueError: For other shapes, or one fold only.

    Example:
        >>> majority(torch.tensor([1, 2, 2, 1]), torch.tensor([0, 0, 0, 1]))
        tensor([1, 1, 1, 2])
    """

    def predict(train: Tensor, test: Tensor) -> Tensor:
        known, counts = torch.unique(labels[train], return_counts=True)
        return known[counts.argmax()]

    return _by_fold(predict, labels, folds, len(labels))


def _by_fold(
    predict: Callable[[Tensor, Tensor], Tensor], labels: Tensor, folds: Tensor, count: int
) -> Tensor:
    """What is predicted of each fold from all other rows, both given as masks."""
    if labels.shape != (count,) or folds.shape != (count,):
        raise ValueError(
            f"labels and folds must have a value for each of {count} rows, got "
            f"{tuple(labels.shape)} and {tuple(folds.shape)}"
        )
    known = torch.unique(folds).tolist()
    if len(known) < 2:
        raise ValueError("folds has one fold only; a probe is tested on rows it never saw")
    predicted = torch.empty_like(labels)
    for fold in known:
        predicted[folds == fold] = predict(folds != fold, folds == fold)
    return predicted
