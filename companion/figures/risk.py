"""Draw how the risk of ``spectral.Monitor`` runs over the words of texts."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import expit

from companion.contest.leads import step_values, weighed
from companion.figures.style import PAGE
from spectral.monitor import Score

_MOST = 40  # tokens


def risk_curves(rows: Sequence[pd.Series], score: Score) -> Figure:
    """A panel per text (a row of whole texts): the risk of the last tokens, and of all so far.

    The words stand where they begin; from the first that is wrong on the ground is shaded. Dashed
    is the threshold, which is of a whole text.
    """
    model = weighed(score)
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(PAGE, 2.0 * len(rows)), layout="constrained", squeeze=False
    )
    for ax, row in zip(axes[:, 0], rows, strict=True):
        risks, so_far = (
            expit(model.log_odds(step_values(row, window)))[:_MOST]
            for window in (score.window, None)
        )
        for curve, width, name in ((risks, 1.2, "of the last tokens"), (so_far, 0.6, "so far")):
            ax.step(
                np.arange(len(curve) + 1), [*curve, curve[-1]], where="post", color="black",
                linewidth=width, label=name,
            )  # fmt: skip
        ax.axhline(score.threshold, color="grey", linestyle="--", linewidth=0.6)
        if pd.notna(row.first_wrong) and row.first_wrong < len(risks):
            ax.axvspan(row.first_wrong, len(risks), color="grey", alpha=0.15, linewidth=0)
        words = row.transcript.split()[: len(row.word_starts)]
        pairs = [(at, word) for at, word in zip(row.word_starts, words, strict=True) if at < _MOST]
        ax.set_xticks(
            [at for at, _ in pairs], [word.replace("$", r"\$") for _, word in pairs],
            rotation=60, ha="right", fontsize=6,
        )  # fmt: skip
        ax.set(
            ylim=(0, 1),
            xlim=(0, len(risks)),
            ylabel="risk",
            title=f"{row.model}, {row.condition}: {row.kind}",
        )
    axes[0, 0].legend(loc="upper right", frameon=False)
    return figure


def references_and_texts(rows: Sequence[pd.Series]) -> pd.DataFrame:
    """What was said and what was written, with the kind of the text and its number of tokens."""
    table = pd.DataFrame(rows)[["condition", "reference", "transcript", "kind", "tokens"]]
    table["reference"] = table.reference.str.capitalize()
    return table.rename(columns={"reference": "said", "transcript": "written"})
