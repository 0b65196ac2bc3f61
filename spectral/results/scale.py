"""Effects of stress by width and depth: a table of sizes, and contrasts between them."""

import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from spectral.results.bootstrap import interval, weighted_mean
from spectral.results.effects import (
    change,
    effects,
    interval_columns,
    layer_means,
    observable_rows,
)

MODES = 50
SHOWN = ("n_eff", "alpha", "log10_kf_resolved")
DEPTH, WIDTH, BOTH = "depth at equal width", "width at equal depth", "width and depth"


def size_of(model: str) -> str:
    """A model's name without the seed that one of the ladder ends in: ``xs-0`` gives ``xs``."""
    return re.sub(r"-\d+$", "", model)


def model_shapes(folders: list[Path]) -> pd.DataFrame:
    """Columns model, size, width, depth (decoder layers), seeds: how many models have that size.

    Raises ValueError for a folder without config.json, and for seeds of a size that differ in it.
    """
    table = []
    for folder in folders:
        path = folder / "config.json"
        if not path.exists():
            raise ValueError(f"{path}: no such file; width and depth are read from it")
        config = json.loads(path.read_text())
        table.append(
            {
                "model": folder.name,
                "size": size_of(folder.name),
                "width": config["d_model"],
                "depth": config["decoder_layers"],
            }
        )
    shapes = pd.DataFrame(table)
    for size, group in shapes.groupby("size"):
        if len(group[["width", "depth"]].drop_duplicates()) > 1:
            raise ValueError(f"the seeds of {size!r} differ in width or depth; name them apart")
    return shapes.assign(seeds=shapes.groupby("size").model.transform("size"))


def scale_effects(
    rows: pd.DataFrame, shapes: pd.DataFrame, condition: str, resamples: int, seed: int
) -> pd.DataFrame:
    """Length-matched changes at K = 50 beside width, depth and seeds: those of ``effects``.

    One row per model, component and observable, with ``change``, ``low``, ``high`` and ``n``.
    """
    table = effects(_matched(rows), condition, resamples, seed)
    found = pd.concat([observable_rows(table, name) for name in SHOWN], ignore_index=True)
    columns = ["parameters", "component", "observable", "change", "low", "high", "n"]
    joined = shapes.merge(found[["model", *columns]], on="model", validate="one_to_many")
    return joined.sort_values(["parameters", "model", "component", "observable"], ignore_index=True)


def pairs(shapes: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What differs, the larger size and the smaller: every pair that can be told apart.

    Two sizes of equal width differ in depth alone, two of equal depth in width alone. Of those that
    differ in both just the shallowest and narrowest stands against the deepest and widest.
    """
    sizes = shapes.drop_duplicates("size").set_index("size")[["width", "depth"]]
    ordered = sizes.sort_values(["width", "depth"])
    found = []
    for small, large in combinations(ordered.index, 2):
        wider, deeper = ordered.loc[large] > ordered.loc[small]
        if deeper and not wider:
            found.append((DEPTH, large, small))
        elif wider and ordered.depth[large] == ordered.depth[small]:
            found.append((WIDTH, large, small))
    first, last = ordered.index[[0, -1]]
    if (ordered.loc[last] > ordered.loc[first]).all():
        found.append((BOTH, last, first))
    return sorted(found, key=lambda pair: [DEPTH, WIDTH, BOTH].index(pair[0]))


def contrasts(
    rows: pd.DataFrame, shapes: pd.DataFrame, condition: str, resamples: int, seed: int
) -> pd.DataFrame:
    """A size's length-matched change minus another's, on the utterances that both sides have.

    A size's change is the mean over its seeds. The interval is of resampled voices and utterances,
    the same for both sides; the networks stay as they are, so it says nothing of other seeds.
    ``seeds`` tells how many networks are on each side. One row per pair, component and observable.
    """
    means = layer_means(_matched(rows), condition)
    members = shapes.groupby("size").model.agg(list)
    table = []
    for differs, larger, smaller in pairs(shapes):
        ones, others = members[larger], members[smaller]
        chosen = means[means.model.isin([*ones, *others])]
        for component, group in chosen.groupby("component", sort=True):
            for name in SHOWN:
                table.append(
                    {
                        "differs": differs,
                        "contrast": f"{larger} minus {smaller}",
                        "seeds": f"{len(ones)} against {len(others)}",
                        "component": component,
                        "observable": name,
                    }
                    | _difference(group, name, ones, others, resamples, seed)
                )
    columns = ["differs", "contrast", "seeds", "component", "observable"]
    return pd.DataFrame(table, columns=[*columns, "change", "change_low", "change_high", "n"])


def _matched(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows.modes == MODES) & (rows.matched_with != "")]


def _difference(
    group: pd.DataFrame, name: str, ones: list[str], others: list[str], resamples: int, seed: int
) -> dict[str, float]:
    wide = group.pivot(index=["utterance", "speaker"], columns="model")
    sides = {side: wide[f"{name}_{side}"] for side in ("clean", "stressed")}
    everywhere = np.all([np.isfinite(side).all(axis=1) for side in sides.values()], axis=0)
    kept = {side: values[everywhere] for side, values in sides.items()}

    def mean_change(weights: np.ndarray, models: list[str]) -> np.ndarray:
        networks = [
            change(name, *(weighted_mean(weights, kept[side][model].to_numpy()) for side in kept))
            for model in models
        ]
        return np.mean(networks, axis=0)

    speakers = kept["clean"].index.get_level_values("speaker").to_numpy()
    if len(speakers) == 0:
        return dict.fromkeys(["change", "change_low", "change_high"], np.nan) | {"n": 0}
    found = interval(
        lambda weights: mean_change(weights, ones) - mean_change(weights, others),
        speakers, resamples, seed,
    )  # fmt: skip
    return interval_columns("change", found) | {"n": len(speakers)}
