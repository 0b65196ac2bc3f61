"""What can be read linearly from features: a ridge classifier in closed form, cross-validated."""

import torch
from torch import Tensor

from spectral._validation import as_float64, require_finite

RIDGE = 1e-2
"""The penalty, in units of the number of training rows: features have variance one."""


def ridge_probe(features: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    r"""Labels predicted for each fold by a linear linear probe that was fitted to all the others.

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
        >>> ridge_probe(features, torch.tensor([3, 5, 3, 5]), torch.tensor([0, 0, 1, 1]))
        tensor([3, 5, 3, 5])
    """
    rows = as_float64(features, "features", "(rows, width)")
    require_finite(rows, "features", "leave out the rows that are not real")
    _require_folds(labels, folds, len(rows))
    predicted = torch.empty_like(labels)
    for fold in torch.unique(folds).tolist():
        train, test = rows[folds != fold], rows[folds == fold]
        known, column = torch.unique(labels[folds != fold], return_inverse=True)
        mean = train.mean(0)
        deviation = train.std(0, correction=0)
        scale = deviation.where(deviation > 0, 1.0)
        x = (train - mean) / scale
        y = torch.nn.functional.one_hot(column, len(known)).to(x.dtype)
        fraction = y.mean(0)
        penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weights = torch.linalg.solve(x.mT @ x + penalty, x.mT @ (y - fraction))
        predicted[folds == fold] = known[((test - mean) / scale @ weights + fraction).argmax(-1)]
    return predicted


def majority_probe(labels: Tensor, folds: Tensor) -> Tensor:
    """The chance of :func:`ridge_probe`: the most frequent label of all other folds.

    Args:
        labels: Shape ``(rows,)``, int64; of equally frequent ones the smallest is taken.
        folds: Shape ``(rows,)``, int64.

    Returns:
        Predicted labels, ``(rows,)``, int64.

    Raises:
        ValueError: For other shapes, or one fold only.

    Example:
        >>> majority_probe(torch.tensor([1, 2, 2, 1]), torch.tensor([0, 0, 0, 1]))
        tensor([1, 1, 1, 2])
    """
    _require_folds(labels, folds, len(labels))
    predicted = torch.empty_like(labels)
    for fold in torch.unique(folds).tolist():
        known, counts = torch.unique(labels[folds != fold], return_counts=True)
        predicted[folds == fold] = known[counts.argmax()]
    return predicted


def _require_folds(labels: Tensor, folds: Tensor, count: int) -> None:
    if labels.shape != (count,) or folds.shape != (count,):
        raise ValueError(
            f"labels and folds must have a value for each of {count} rows, got "
            f"{tuple(labels.shape)} and {tuple(folds.shape)}"
        )
    if len(torch.unique(folds)) < 2:
        raise ValueError("folds has one fold only; a linear probe is tested on rows it never saw")
