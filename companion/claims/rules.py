"""When a claim holds: the same rule for every claim, described in docs/verdicts.md.

A claim is a list of parts that must all be true; a part says that a number lies above, or below, a
bound, and is judged by the joint estimate over its models, seeds of one size averaged first:

part    holds if the joint 95 % interval lies wholly on that side, fails if wholly on the other,
        else is undecided
claim   fails if a part fails, holds if all hold; not measured if no part was; else undecided
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from scipy import stats

from companion.claims.numbers import EVERY, NotMeasured, Number, Tables
from companion.results.effects import size_of
from companion.results.intervals import Interval, Joint, joint, mean

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
NOT_MEASURED = "not measured"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_MEASURED)
SUPPORTED, OPPOSED, OPEN = "supported", "opposed", "open"
ABOVE, BELOW = "above", "below"
_DECIDED = {SUPPORTED: HOLDS, OPPOSED: FAILS, OPEN: UNDECIDED}


@dataclass(frozen=True)
class Statement:
    """Of one model or pair of models: that a number is on one side of a bound."""

    about: str
    interval: Interval
    side: str
    bound: float

    @property
    def decision(self) -> str:
        """Supported, opposed or open; a number without an interval is open."""
        if not self.interval.low <= self.interval.high:
            return OPEN
        above, below = self.interval.low > self.bound, self.interval.high < self.bound
        if above == below:
            return OPEN
        return SUPPORTED if above == (self.side == ABOVE) else OPPOSED


@dataclass(frozen=True)
class Part:
    """One thing that a claim says, with where its numbers are from; or why it is not measured.

    ``expected`` is the number that was published, or the smallest that would matter.
    """

    says: str
    source: str
    statements: Sequence[Statement] = ()
    expected: float = math.nan
    lacks: str = ""

    @cached_property
    def joint(self) -> Joint:
        """The joint estimate over sizes, or over the seeds of one; models without interval apart.

        Raises ValueError where there is no number.
        """
        return joint_over_sizes({made.about: made.interval for made in self.statements})

    @property
    def verdict(self) -> str:
        """The verdict on this part alone, by its joint estimate."""
        if not self.statements:
            return NOT_MEASURED
        first = self.statements[0]
        return _DECIDED[Statement("", self.joint.interval, first.side, first.bound).decision]

    @property
    def by_votes(self) -> str:
        """The verdict if the intervals of all models had to agree, which decides nothing either."""
        decisions = {statement.decision for statement in self.statements}
        if len(decisions) > 1:
            return UNDECIDED
        return _DECIDED[decisions.pop()] if decisions else NOT_MEASURED

    @property
    def on_side(self) -> int:
        """How many models' estimates are on the claimed side, which decides nothing."""
        sign = 1 if self.statements[0].side == ABOVE else -1
        return sum(sign * (made.interval.estimate - made.bound) > 0 for made in self.statements)

    @property
    def power(self) -> float:
        """The chance that an interval as wide as this one holds what is claimed, of ``expected``.

        That is Phi((distance from the bound - half the interval) / standard error).
        """
        first, interval, error = self.statements[0], self.joint.interval, self.joint.error
        up = first.side == ABOVE
        half = interval.estimate - interval.low if up else interval.high - interval.estimate
        spare = (1 if up else -1) * (self.expected - first.bound) - half
        return float(stats.norm.cdf(spare / error)) if error else float(spare > 0)


def joint_over_sizes(numbers: dict[str, Interval]) -> Joint:
    """``joint`` of models by name: over the means of sizes, or over the seeds of a single one."""
    known = {model: number for model, number in numbers.items() if number.low <= number.high}
    sizes: dict[str, list[Interval]] = {}
    for model, number in (known or numbers).items():
        sizes.setdefault(size_of(model), []).append(number)
    if len(sizes) == 1:
        return joint(next(iter(sizes.values())))
    return joint([mean(seeds) for seeds in sizes.values()])


@dataclass(frozen=True)
class Row:
    """One thing that a claim says: that a number lies on one side of a bound, in models of a role.

    That side is where ``expected`` lies, the number that was published, or the smallest that would
    matter. ``without`` says what there is not where no model has the number. ``beside`` the others
    it may be left out, where nothing of the kind was measured.
    """

    says: str
    number: Number
    bound: float
    expected: float
    role: str = EVERY
    without: str = ""
    beside: bool = False

    def weigh(self, tables: Tables) -> Part:
        """The part, by the tables of a group; not measured where reading them says why."""
        lacks, side = self.without, ABOVE if self.expected > self.bound else BELOW
        try:
            numbers = [*self.number.by_model(tables, self.role)]
        except NotMeasured as reason:
            numbers, lacks = [], str(reason)
        statements = [Statement(about, number, side, self.bound) for about, number in numbers]
        source = tables.path(self.number.table).stem
        return Part(self.says, source, statements, self.expected, "" if statements else lacks)


def claim_verdict(verdicts: Sequence[str]) -> str:
    """The verdict on a claim, from those on its parts."""
    if FAILS in verdicts:
        return FAILS
    if set(verdicts) == {HOLDS}:
        return HOLDS
    return NOT_MEASURED if set(verdicts) == {NOT_MEASURED} else UNDECIDED


def reason(parts: Sequence[Part]) -> str:
    """One line: which parts decided the claim, and the power of those that could not."""
    decided = claim_verdict([part.verdict for part in parts])
    if decided == HOLDS:
        return "every part holds: " + "; ".join(part.says for part in parts)
    texts = []
    for part in parts:
        if part.verdict == HOLDS or (decided != UNDECIDED and part.verdict != decided):
            continue
        counted = "{} of {} models on the claimed side"
        why = part.lacks or counted.format(part.on_side, len(part.statements))
        if part.verdict == UNDECIDED:
            why += f", power {part.power:.2f} at {part.expected:g}"
        texts.append(f"{part.verdict}: {part.says} ({why})")
    return "; ".join(texts)
