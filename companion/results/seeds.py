"""Effects of a size, over the seeds that it was trained with."""

import numpy as np
import pandas as pd

from companion.results.effects import GROUP, OBSERVABLES, interval_columns
from companion.results.intervals import joint
from companion.results.scale import size_of


def pooled_effects(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``effects`` put together over the seeds of each size (``size_of``), by ``joint``.

    ``model`` is the size, ``seeds`` their number; sizes of one seed have no row. With few seeds
    intervals are wide: that is what few seeds say. No p-value: networks are not exchangeable pairs.
    """
    sized = table.assign(model=table.model.map(size_of))
    keys = [*GROUP, "length"]
    found = []
    for key, group in sized.groupby(keys, sort=True):
        if len(group) == 1:
            continue
        row = dict(zip(keys, key, strict=True)) | {"seeds": len(group)}
        row |= {side: group[side].mean() for side in ("tokens_clean", "tokens_stressed")}
        for name in OBSERVABLES:
            column = f"delta_{name}"
            if column in group:
                row |= interval_columns(column, joint(group[f"{column}_speakers"].tolist()).found)
                row |= {f"{column}_p": np.nan, f"{column}_n": group[f"{column}_n"].max()}
        found.append(row)
    return pd.DataFrame(found)
