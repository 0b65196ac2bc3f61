"""Fit the thresholds of ``spectral.Monitor`` and write them where it reads them.

    python -m companion.contest.thresholds

takes the rows of every model in data/results/whisper/fitting, of the development sets alone, and
writes spectral/thresholds.json. What the fits are worth on other speakers, and on stresses that
they never saw, is said by the contest.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from companion.contest.contest import fitted_elsewhere, quiet_threshold, texts
from companion.contest.contestants import CHOSEN, Logistic, monitor
from companion.measurement.schemas import CONTEST
from companion.measurement.store import read, read_meta
from companion.models.loading import choose_device, load
from companion.models.view import SpeechModel
from companion.results.tables import write_text
from spectral.monitor import THRESHOLDS

_DIGITS = 6
DOUBTED = 0.9
"""The fraction of the inventions of the fit, by fits on other speakers, that are to be doubted."""


def fitted(path: Path, model: SpeechModel) -> dict[str, object]:
    """The score of the model whose rows these are, its size, and what it was fitted on."""
    rows = texts(read([path], CONTEST))
    target = rows.target.to_numpy()
    score = Logistic.fit(monitor().values(rows), target)
    risks = fitted_elsewhere(monitor(), rows, rows).risks.to_numpy()
    threshold = quiet_threshold(rows)
    alarms = risks > threshold
    doubt = min(float(np.quantile(risks[target], 1 - DOUBTED)), threshold)
    doubts = risks >= doubt
    key = read_meta(path)["key"]
    return {
        **size_of(model),
        "window": key["parameters"]["window"],
        "bias": round(score.bias, _DIGITS),
        "weights": _named(score.weights),
        "means": _named(score.means),
        "threshold": round(threshold, _DIGITS),
        "doubt": round(doubt, _DIGITS),
        "fitted_on": {
            "weights_sha256": key["weights"],
            "decoding": key["parameters"]["decoding"],
            "conditions": [str(name) for name in pd.unique(rows.condition)],
            "speakers_and_clips": int(rows.speaker.nunique()),
            "texts": len(rows),
            "invented": int(target.sum()),
            "false_alarms_of_other_speakers": round(float(alarms[~target].mean()), 3),
            "recall_of_other_speakers": round(float(alarms[target].mean()), 3),
            "false_doubts_of_other_speakers": round(float(doubts[~target].mean()), 3),
        },
    }


def size_of(model: SpeechModel) -> dict[str, int]:
    """By what a model is known again."""
    rows = model.logits(next(model.final_norm.parameters())[None]).shape[-1]
    return {"layers": len(model.layers), "width": model.width, "vocabulary": int(rows)}


def _named(values: np.ndarray) -> dict[str, float]:
    return {name: round(float(v), _DIGITS) for name, v in zip(CHOSEN, values, strict=True)}


def main() -> None:
    """Fit those of every model that was measured."""
    models = {
        path.stem: fitted(path, load(path.stem, Path("models"), choose_device("cpu")))
        for path in sorted(Path("data/results/whisper/fitting").glob("*.parquet"))
    }
    write_text(THRESHOLDS, json.dumps({"models": models}, indent=2) + "\n")
    print(THRESHOLDS)


if __name__ == "__main__":
    main()
