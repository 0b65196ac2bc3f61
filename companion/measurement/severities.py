"""Severities at which a model fails on 10 to 90 % of utterances, found by bisection.

    python -m companion.measurement.severities --model tiny.en --conditions noise hell-wsola

writes data/severities/<model>.csv. Severities chosen beforehand may all lie above or below the
transition of a model; these lie in it.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from companion.measurement.run import spread
from companion.measurement.store import whole_or_absent
from companion.models.decoding import transcribe
from companion.models.loading import choose_device, load
from companion.models.rules import OPENAI, RULES, Rule, rule
from companion.models.view import SpeechModel
from companion.speech.corpus import UnusableUtterance, Utterance, find_utterances, read_wave
from companion.stress.conditions import CONDITIONS, GRADED, Stress
from companion.stress.mixture import Mixture, Speakers
from companion.stress.scoring import score

FRACTIONS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of transcripts that are hallucination candidates."""

LEAST = 1e-4  # severities in names are plain decimals, and fainter there is nothing to find
SEED, BATCH = 0, 32
_CLOSE = 0.02  # of transcripts
_NARROW = 1.02  # a factor of severity below which no transcript changes for a reason
_COLUMNS = ["model", "decoding", "condition", "fraction", "severity", "measured", "utterances"]


def transition(
    failing: Callable[[float], float], fractions: Sequence[float] = FRACTIONS, evaluations: int = 24
) -> dict[float, tuple[float, float]]:
    """For each fraction the severity in [LEAST, 1] that fails nearest to it, and how many fail.

    ``failing`` is called at most ``evaluations`` times: at both ends, then in the geometric middle
    of the bracket of the fraction that is least well met. A fraction that lies outside everything
    that was measured has severity NaN, and the nearest fraction.
    """
    known = {severity: failing(severity) for severity in (LEAST, 1.0)}
    while len(known) < evaluations and (wanted := _next(known, fractions)):
        known[wanted] = failing(wanted)
    nearest_of = {}
    for fraction in fractions:
        nearest = min(known, key=lambda s: _distance(s, known[s], fraction))
        reached = min(known.values()) - _CLOSE <= fraction <= max(known.values()) + _CLOSE
        nearest_of[fraction] = (nearest if reached else math.nan, known[nearest])
    return nearest_of


def _distance(severity: float, measured: float, fraction: float) -> tuple[float, float]:
    """How far a severity misses; of equals, the one beside the transition is nearer."""
    return abs(measured - fraction), severity if measured >= fraction else -severity


def _next(known: Mapping[float, float], fractions: Sequence[float]) -> float | None:
    """Where to look next: for the fraction that is least well met, if it can be met better."""
    guesses = []
    for fraction in fractions:
        low = max((s for s in known if known[s] < fraction), default=None)
        high = min((s for s in known if known[s] >= fraction and s > (low or 0.0)), default=None)
        miss = min(abs(value - fraction) for value in known.values())
        if low and high and miss > _CLOSE and high / low > _NARROW:
            guesses.append((miss, float(f"{math.sqrt(low * high):.3g}")))
    return max(((miss, s) for miss, s in guesses if s not in known), default=(0.0, None))[1]


def failing_fraction(
    model: SpeechModel, decoding: Rule, stress: Stress, clean: Sequence[Mixture], speakers: Speakers
) -> Callable[[float], float]:
    """How many of the utterances are hallucination candidates, by the severity of ``stress``."""

    def fraction(severity: float) -> float:
        milder, failed = stress.at_severity(severity), 0
        mixtures = [milder.apply(mixture, speakers, SEED) for mixture in clean]
        for start in range(0, len(mixtures), BATCH):
            together = mixtures[start : start + BATCH]
            transcripts = transcribe(model, [mixture.wave for mixture in together], decoding)
            for mixture, transcript in zip(together, transcripts, strict=True):
                failed += score(mixture.references, transcript.text).is_candidate
        return failed / len(mixtures)

    return fraction


def usable(utterances: Sequence[Utterance]) -> list[Mixture]:
    """The utterances whose audio can be read, alone and unperturbed."""
    mixtures = []
    for utterance in utterances:
        with suppress(UnusableUtterance):
            mixtures.append(Mixture.of(utterance, read_wave(utterance)))
    return mixtures


def conditions_of(path: Path) -> list[str]:
    """The names of the milder conditions in a file of ``main``, such as ``hell-wsola-0.0731``."""
    table = pd.read_csv(path).dropna(subset="severity").drop_duplicates(["condition", "severity"])
    pairs = zip(table.condition, table.severity, strict=True)
    return [CONDITIONS[name].at_severity(severity).name for name, severity in pairs]


def main() -> None:
    """Bisect the severities of the conditions named on the command line, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m companion.measurement.severities")
    parser.add_argument("--model", required=True)
    parser.add_argument("--conditions", nargs="+", required=True, choices=GRADED)
    parser.add_argument("--decoding", default=OPENAI.name, choices=list(RULES))
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--utterances", type=int, default=64, help="spread over the corpus")
    asked = parser.parse_args()
    model = load(asked.model, Path("data/ladder"), choose_device("auto"))
    utterances = find_utterances(asked.corpus).utterances
    clean, speakers = usable(spread(utterances, asked.utterances)), Speakers(utterances)
    decoding, rows = rule(asked.decoding), []
    for name in asked.conditions:
        failing = failing_fraction(model, decoding, CONDITIONS[name], clean, speakers)
        for fraction, (severity, measured) in transition(failing).items():
            reached = (fraction, severity, round(measured, 4), len(clean))
            rows.append((model.name, decoding.name, name, *reached))
            print(f"{name}: {fraction:.0%} of {len(clean)} fail at {severity:g} ({measured:.1%})")
    path = Path("data/severities") / f"{asked.model}.csv"
    with whole_or_absent(path) as unfinished:
        pd.DataFrame(rows, columns=_COLUMNS).to_csv(unfinished, index=False)
    print(f"conditions: [{', '.join(conditions_of(path))}]")


if __name__ == "__main__":
    main()
