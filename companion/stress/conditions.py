"""Conditions: named, ordered perturbations."""

from dataclasses import dataclass
from itertools import permutations

from companion.stress.mixture import Mixture, Speakers, digest
from companion.stress.perturbations import (
    Clip,
    Gain,
    GaussianNoise,
    Perturbation,
    SpeakerMix,
    Substitute,
    Telephone,
    TimeStretch,
)
from companion.stress.stretching import RESAMPLED, WSOLA


@dataclass(frozen=True)
class Stress:
    """Perturbations applied one after the other, and what the condition is called."""

    name: str
    perturbations: tuple[Perturbation, ...]

    def apply(self, mixture: Mixture, speakers: Speakers, seed: int) -> Mixture:
        """The mixture under stress; the same seed gives the same samples, bit for bit."""
        for perturbation in self.perturbations:
            mixture = perturbation.apply(mixture, speakers, seed)
        return mixture

    def at_severity(self, severity: float) -> "Stress":
        """Every perturbation at one severity in [0, 1]; 1 is the condition itself, name and all."""
        milder = tuple(part.at_severity(severity) for part in self.perturbations)
        return self if severity == 1 else Stress(f"{self.name}-{severity:g}", milder)


# The paper's order, time stretch, then a mix of six speakers, then noise, is taken at its word:
# each step gets the result of the step before, so the target alone is stretched and the five
# interferers speak at their own speed. Everyone is stretched in another order: mix, stretch, noise.
_HELL: tuple[Perturbation, ...] = (TimeStretch(3.5), SpeakerMix(5, 0.0), GaussianNoise(0.0))
_OTHER_STRETCHES = {method: TimeStretch(3.5, method) for method in (WSOLA, RESAMPLED)}
CONDITIONS: dict[str, Stress] = {
    stress.name: stress
    for stress in (
        Stress("clean", ()),
        Stress("stretch", (TimeStretch(3.5),)),
        *(Stress(f"stretch-{name}", (stretch,)) for name, stretch in _OTHER_STRETCHES.items()),
        Stress("mix", (SpeakerMix(5, 0.0),)),
        Stress("noise", (GaussianNoise(0.0),)),
        Stress("swapped", (Substitute("speech"),)),
        Stress("silence", (Substitute("silence"),)),
        Stress("noise-alone", (Substitute("noise"),)),
        Stress("tones", (Substitute("tones"),)),
        Stress("stretch+mix", (TimeStretch(3.5), SpeakerMix(5, 0.0))),
        Stress("stretch+noise", (TimeStretch(3.5), GaussianNoise(0.0))),
        Stress("mix+noise", (SpeakerMix(5, 0.0), GaussianNoise(0.0))),
        Stress("hell", _HELL),
        *(Stress(f"hell-{name}", (other, *_HELL[1:])) for name, other in _OTHER_STRETCHES.items()),
        Stress("hell-slow", (TimeStretch(1 / 3.5), *_HELL[1:])),
        *(
            Stress("-".join(["hell", *(part.name for part in order)]), order)
            for order in tuple(permutations(_HELL))[1:]
        ),
    )
}

EVERYDAY: dict[str, Stress] = {
    "quiet": Stress("quiet", (Gain(-50.0),)),
    "clipped": Stress("clipped", (Clip(0.1),)),
    "telephone": Stress("telephone", (Telephone(),)),
}
"""What commonly happens to recordings: conditions without milder forms."""

OR = "|"
"""Stands between conditions of which each utterance is under one, as :func:`in_turn` draws it."""

GRADED = tuple(
    name
    for name, stress in CONDITIONS.items()
    if stress.perturbations and not any(isinstance(p, Substitute) for p in stress.perturbations)
)
"""The conditions that have milder forms: half of a substitution is none."""


def condition(name: str) -> Stress:
    """The condition of that name, or a milder form such as ``hell-0.25`` of one of ``GRADED``.

    Raises ValueError, saying which names there are, for any other name.
    """
    known = CONDITIONS | EVERYDAY
    if name in known:
        return known[name]
    base, severity = split_severity(name)
    if base not in GRADED or not 0 < severity < 1 or name != f"{base}-{severity:g}":
        raise ValueError(
            f"no condition {name!r}; choose from {', '.join(known)}, or a severity between "
            f"0 and 1 of {', '.join(GRADED)}, written hell-0.5"
        )
    return CONDITIONS[base].at_severity(severity)


def in_turn(names: str, utterance: str, seed: int) -> str:
    """The one of ``noise|hell`` and the like that an utterance is under, drawn by seed and id."""
    choices = names.split(OR)
    return choices[int.from_bytes(digest(seed, utterance, names)) % len(choices)]


def split_severity(name: str) -> tuple[str, float]:
    """A condition's name without its severity, and the severity, 1 where the name has none."""
    base, _, written = name.rpartition("-")
    try:
        return (base, float(written)) if base else (name, 1.0)
    except ValueError:
        return name, 1.0
