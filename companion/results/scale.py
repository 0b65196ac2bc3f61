"""Effects of stress by width and depth: a table of sizes, and contrasts between them."""

import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from companion.measurement.readings import modes_in_proportion
from companion.results.effects import effects, interval_columns, observable_rows
from companion.results.intervals import between
from spectral.spectra import effective_rank

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


def scale_effects(rows: pd.DataFrame, shapes: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Length-matched changes at K = 50 beside width, depth and seeds: those of ``effects``.

    One row per model, component and observable, with ``change``, ``low``, ``high`` and ``n``.
    """
    table = effects(_matched(rows), condition)
    found = pd.concat([observable_rows(table, name) for name in SHOWN], ignore_index=True)
    numbers = ["change", "low", "high", "change_speakers", "n"]
    columns = ["parameters", "component", "observable", *numbers]
    joined = shapes.merge(found[["model", *columns]], on="model", validate="one_to_many")
    return joined.sort_values(["parameters", "model", "component", "observable"], ignore_index=True)


def in_proportion(rows: pd.DataFrame, shapes: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``MODES`` whose N_eff is of K in proportion to the width (``modes_in_proportion``).

    K = 50 is nearly all of a narrow model and a quarter of a wide one, two quantities. Models whose
    rows store fewer eigenvalues than that K are left out.
    """
    kept = rows[rows.modes == MODES]
    modes = shapes.set_index("model").width.map(modes_in_proportion)
    parts = []
    for model, own in kept.groupby("model", sort=False):
        spectra = torch.from_numpy(np.stack(own.eigenvalues.to_list()).astype(float))
        if (k := int(modes[model])) <= spectra.shape[-1]:
            parts.append(own.assign(n_eff=effective_rank(spectra, k).numpy()))
    return pd.concat(parts)


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


def contrasts(table: pd.DataFrame, shapes: pd.DataFrame) -> pd.DataFrame:
    """A size's length-matched change minus another's, from ``scale_effects``, by ``between``.

    A size's change is the mean over its seeds; the interval holds what seeds and speakers vary.
    ``seeds`` tells how many networks are on each side. One row per pair, component and observable.
    """
    members = shapes.groupby("size").model.agg(list)
    found = []
    for differs, larger, smaller in pairs(shapes):
        ones, others = members[larger], members[smaller]
        for (component, name), group in table.groupby(["component", "observable"], sort=False):
            sizes = group.groupby("size").change_speakers.agg(list)
            chosen = group[group.model.isin([*ones, *others])]
            found.append(
                {
                    "differs": differs,
                    "contrast": f"{larger} minus {smaller}",
                    "seeds": f"{len(ones)} against {len(others)}",
                    "component": component,
                    "observable": name,
                }
                | interval_columns("change", between(sizes.to_dict(), larger, smaller))
                | {"n": chosen.n.min()}
            )
    columns = ["differs", "contrast", "seeds", "component", "observable"]
    numbers = ["change", "change_low", "change_high", "change_speakers", "n"]
    return pd.DataFrame(found, columns=[*columns, *numbers])


def _matched(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows.modes == MODES) & (rows.matched_with != "")]
