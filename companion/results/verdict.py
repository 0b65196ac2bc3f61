"""What intervals say of an effect: it survives, length explains it, or neither can be said.

Only 95 % intervals decide. A side is + or - where an interval excludes zero, and none where it
does not. Of an effect whose raw interval has a side:

survives             every length control has that side, and the effect at equal length lies beyond
                     that of every control network and of other speech: its whole interval is
                     farther out
survives in part     so too, but the whole interval at equal length is less than half the raw effect
explained by length  no length control has that side, the interval at equal length leaves the raw
                     effect out, and Gaussian rows of the same lengths move to that side
undecided            all else, and effects without a raw side; the reason says what failed

At equal length is with random rows of each text, the headline. Control networks (at random weights,
or trained on unpaired audio and text) and other speech were cut to their first rows, so they are
compared with the model's own first rows. A length control on the opposite side counts against the
raw effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from companion.results.intervals import Interval

SURVIVES, IN_PART = "survives", "survives in part"
EXPLAINED, UNDECIDED = "explained by length", "undecided"


@dataclass(frozen=True)
class Verdict:
    """One of the four verdicts, and why."""

    name: str
    reason: str


def verdict(
    raw: Interval,
    controls: Mapping[str, Interval],
    nulls: Mapping[str, Interval],
    pure_length: Interval,
    like: str,
) -> Verdict:
    """The verdict on one effect.

    ``controls`` hold the effect at equal length by the name of the control, the first of them the
    headline, and that named ``like`` cut as the ``nulls`` were, which are compared with it;
    ``pure_length`` is what the lengths alone make of Gaussian rows.
    """
    everything = {"raw": raw, **controls, **nulls, "Gaussian": pure_length}
    missing = [name for name, found in everything.items() if not found.low <= found.high]
    if missing:
        return Verdict(UNDECIDED, f"no interval: {', '.join(missing)}")
    sides = {name: side(found) for name, found in controls.items()}
    own = side(raw)
    if own == 0:
        seen = [name for name, found in sides.items() if found]
        reason = f"none raw, but one at equal length: {', '.join(seen)}"
        return Verdict(UNDECIDED, reason if seen else "no change seen")
    agreeing = [name for name, found in sides.items() if found == own]
    matched = next(iter(controls.values()))
    if len(agreeing) == len(sides):
        short = [name for name, found in nulls.items() if not beyond(controls[like], found)]
        if short:
            return Verdict(UNDECIDED, f"not beyond: {', '.join(short)}")
        if max(abs(matched.low), abs(matched.high)) < abs(raw.estimate) / 2:
            return Verdict(IN_PART, "every length control agrees, on less than half of it")
        return Verdict(SURVIVES, "every length control agrees, no null does as much")
    if agreeing:
        return Verdict(UNDECIDED, f"only some length controls agree: {', '.join(agreeing)}")
    if matched.low <= raw.estimate <= matched.high:
        return Verdict(UNDECIDED, "equal length leaves it possible")
    if side(pure_length) != own:
        return Verdict(UNDECIDED, "gone at equal length, yet Gaussian rows do not move so")
    return Verdict(EXPLAINED, "gone at equal length, and Gaussian rows of these lengths move so")


def side(found: Interval) -> int:
    """1 above zero, -1 below, 0 where the interval covers it."""
    return int(found.low > 0) - int(found.high < 0)


def beyond(found: Interval, null: Interval) -> bool:
    """Whether an interval lies wholly farther out, on its own side, than a null's."""
    return found.low > null.high if side(found) > 0 else found.high < null.low
