"""Draw what decides about an effect: its change under every control, and verdicts side by side."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from companion.figures import style
from companion.results.evidence import CONTROLS, blocks

PUBLISHED_MODES = 50
"""The K of the paper's table."""

_NULL_BLOCKS = 2
"""The last of ``blocks``: nulls as they are, and cut to first rows."""


def draw_controls(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """The change of one observable under each of its ``CONTROLS``, a panel per component.

    ``table`` holds the rows of ``evidence`` for one observable and one K; ``published`` holds the
    paper's changes, delta_<observable> by component, which are crosses where K is the paper's.
    """
    observable, groups = table.observable.iloc[0], blocks(table)
    nulls = [CONTROLS[key] for group in groups[-_NULL_BLOCKS:] for key in group]
    lines = [CONTROLS[key] for key in zip(table.source, table.length, strict=True)]
    shown = table.assign(
        line=pd.Categorical(lines, [CONTROLS[key] for group in groups for key in group]),
        control=[line in nulls for line in lines],
    )
    number = f"change of {style.OBSERVABLE_NAMES[observable]}"
    shown = style.tidy(shown, {"change": number})
    figure, axes = style.draw_panels(
        shown, "line", across=True, spread=0.6, chance=0, control="null", sharex=False,
        blocks=list(map(len, groups)),
    )  # fmt: skip
    for component, name in style.COMPONENT_NAMES.items():
        if f"delta_{observable}" in published and (table.modes == PUBLISHED_MODES).all():
            changes = published.loc[published.component == component, f"delta_{observable}"]
            axes[number, name].plot(changes, [0] * len(changes), "kx")
    return figure


def draw_verdicts(
    table: pd.DataFrame, panel: str, titles: str = "{col_name}", **look: object
) -> Figure:
    """A mark per verdict: models side by side, a line per component and observable.

    There is a panel for every value of the column ``panel``; ``titles`` and ``look`` are
    seaborn's, of a grid of panels.
    """
    lines = (table.component + ": " + table.observable).str.replace("_", " ")
    kinds = dict.fromkeys(["hue", "style"], "verdict")
    grid = sns.relplot(table.assign(line=lines), x="model", y="line", col=panel, **kinds, **look)
    grid.tick_params(axis="x", rotation=90).set_titles(titles).set_axis_labels("", "")
    sns.move_legend(grid.tight_layout(rect=(0, 0.08, 0.86, 1)), "lower center", ncols=4, title="")
    return grid.figure
