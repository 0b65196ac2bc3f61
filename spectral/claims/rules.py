"""When a claim holds: by 95 % intervals alone, the same rule for every claim.

A claim is a list of parts that must all be true, a part a statement about every model that it is
about. A statement says that a number lies above, or below, a bound:

supported   its interval lies wholly on that side
opposed     its interval lies wholly on the other side
open        the interval covers the bound, or there is none

part    holds if all its statements are supported, fails if all are opposed, else is undecided
claim   fails if a part fails, holds if all hold; not measured if no part was; else undecided
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spectral.claims.numbers import NotMeasured
from spectral.results.bootstrap import Interval

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
NOT_MEASURED = "not measured"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_MEASURED)
SUPPORTED, OPPOSED, OPEN = "supported", "opposed", "open"
ABOVE, BELOW = "above", "below"


@dataclass(frozen=True)
class Statement:
    """Of one model or pair of models: that a number is on one side of a bound."""

    about: str
    found: Interval
    side: str
    bound: float

    @property
    def decision(self) -> str:
        """Supported, opposed or open; a number without an interval is open."""
        if not self.found.low <= self.found.high:
            return OPEN
        above, below = self.found.low > self.bound, self.found.high < self.bound
        if above == below:
            return OPEN
        return SUPPORTED if above == (self.side == ABOVE) else OPPOSED


@dataclass(frozen=True)
class Part:
    """One thing that a claim says, with where its numbers are from; or why it is not measured."""

    says: str
    source: str
    statements: Sequence[Statement] = ()
    lacks: str = ""

    @property
    def verdict(self) -> str:
        """The verdict on this part alone."""
        if not self.statements:
            return NOT_MEASURED
        decisions = {statement.decision for statement in self.statements}
        return {frozenset({SUPPORTED}): HOLDS, frozenset({OPPOSED}): FAILS}.get(
            frozenset(decisions), UNDECIDED
        )


def part(says: str, source: str, statements: Iterable[Statement], without: str = "") -> Part:
    """A part of these statements; not measured where there is none, or making them says why.

    ``without`` is what there is not where no statement can be made.
    """
    try:
        made = list(statements)
    except NotMeasured as reason:
        return Part(says, source, lacks=str(reason))
    return Part(says, source, made, "" if made else without)


def claim_verdict(parts: Sequence[Part]) -> str:
    """The verdict on a claim, from those on its parts."""
    found = [part.verdict for part in parts]
    if FAILS in found:
        return FAILS
    if set(found) == {HOLDS}:
        return HOLDS
    return NOT_MEASURED if set(found) == {NOT_MEASURED} else UNDECIDED


def reason(parts: Sequence[Part]) -> str:
    """One line: which parts decided."""
    decided = claim_verdict(parts)
    if decided == HOLDS:
        return "every part holds: " + "; ".join(part.says for part in parts)
    named = [part for part in parts if part.verdict == decided]
    if decided == UNDECIDED:
        named = [part for part in parts if part.verdict != HOLDS]
    return "; ".join(f"{part.verdict}: {part.says}{_count(part)}" for part in named)


def _count(part: Part) -> str:
    if part.lacks:
        return f" ({part.lacks})"
    total = len(part.statements)
    counts = {
        decision: sum(statement.decision == decision for statement in part.statements)
        for decision in (SUPPORTED, OPPOSED, OPEN)
    }
    return f" ({', '.join(f'{n} of {total} {name}' for name, n in counts.items() if n)})"
