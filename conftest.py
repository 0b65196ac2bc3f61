"""Warm kernels for the notebooks, and what docstrings of ``spectral`` take as given: two layers."""

from typing import Any

import pytest
import warm

from companion.models.random_layers import random_layer

LONG = {
    f"test_{name}"
    for name in ("workflow", "rules", "planted_effects", "training", "weights", "verification")
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that at the end no worker waits for another."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_configure(config: pytest.Config) -> None:
    """Notebooks are checked by kernels of one server, whichever worker checks them."""
    if config.getoption("nbval_lax", False) and not hasattr(config, "workerinput"):
        warm.start()


@pytest.fixture(scope="session", autouse=True)
def _layers_of_examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["layers"] = [random_layer(width=8, heads=2, seed=seed) for seed in (0, 1)]
    doctest_namespace["layer"] = doctest_namespace["layers"][0]
    doctest_namespace["encoder_layer"] = random_layer(8, 2, cross_attention=False, causal=False)
