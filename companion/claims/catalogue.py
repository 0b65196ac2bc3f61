"""The sixteen claims, in our words, each with the function that weighs it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from companion.claims import answers, changes, layers, scale, sweeps
from companion.claims.numbers import Tables
from companion.claims.rules import Part, claim_verdict, reason

PAPER, ARTICLE, BOTH = "paper", "article", "paper, article"


@dataclass(frozen=True)
class Claim:
    """What is claimed, by whom, and how it is weighed."""

    number: int
    source: str
    text: str
    weigh: Callable[[Tables], list[Part]]


CLAIMS = (
    Claim(1, BOTH, "Stress lowers the effective rank of cross-attention, most in small models: "
          "they lose the signal.", changes.signal_loss),
    Claim(2, BOTH, "Large models compress: the effective rank of self-attention falls and its "
          "slope rises.", changes.compression),
    Claim(3, PAPER, "In models of intermediate size the FFN loses effective rank.",
          changes.collapse),
    Claim(4, BOTH, "Stress raises the Kirchhoff index in both regimes, by 2.9 decades or more.",
          changes.resistance),
    Claim(5, ARTICLE, "Effective rank falls on entering either regime.", changes.either_regime),
    Claim(6, BOTH, "In large models the slope exceeds nine, and tail eigenvalues the clean ones.",
          changes.hardening),
    Claim(7, ARTICLE, "A high slope goes with failures, and comes before them.",
          sweeps.early_warning),
    Claim(8, ARTICLE, "The more unstable dimensions the Jacobian has, the more is hallucinated.",
          layers.unstable),
    Claim(9, BOTH, "The passage into hallucination is a distinct step, not a gradual drift.",
          sweeps.transition),
    Claim(10, PAPER, "In small models gains are below one, and what early layers inject decays.",
          layers.decay),
    Claim(11, PAPER, "In large models the sensitivity to the audio is of rank one, and gaps "
          "are small.",
          layers.rank_one),
    Claim(12, ARTICLE, "Large models are drawn to a few states, whatever they hear.",
          sweeps.attraction),
    Claim(13, ARTICLE, "Even subtle perturbations make models hallucinate.", sweeps.subtle),
    Claim(14, ARTICLE, "Spectra forecast how prone a model is; its size alone does not.",
          scale.forecast),
    Claim(15, BOTH, "Small models answer incoherently, large ones with fluent inventions.",
          answers.fluency),
    Claim(16, PAPER, "Log-probabilities stay high in hallucinations: confidence does not warn.",
          answers.confidence),
)  # fmt: skip


@dataclass(frozen=True)
class Weighed:
    """A claim with its parts."""

    claim: Claim
    parts: Sequence[Part]

    @property
    def verdict(self) -> str:
        """The verdict on the claim."""
        return claim_verdict([part.verdict for part in self.parts])

    @property
    def by_votes(self) -> str:
        """What it would be if the intervals of all models had to agree."""
        return claim_verdict([part.by_votes for part in self.parts])

    @property
    def reason(self) -> str:
        """Which parts decided."""
        return reason(self.parts)


def weigh(tables: Tables) -> list[Weighed]:
    """All claims by the tables of a group; parts whose table is not there are not measured."""
    return [Weighed(claim, claim.weigh(tables)) for claim in CLAIMS]


def as_table(groups: Mapping[str, Sequence[Weighed]]) -> pd.DataFrame:
    """One row per statement about a group of models: every number of the page, with all digits."""
    rows = []
    for group, found in groups.items():
        for one in found:
            for part in one.parts:
                head = {
                    "claim": one.claim.number, "group": group, "verdict": one.verdict,
                    "part": part.says, "part_verdict": part.verdict, "table": part.source,
                    "lacks": part.lacks,
                } | _together(part)  # fmt: skip
                rows += [
                    head | {
                        "about": s.about, "estimate": s.found.estimate, "low": s.found.low,
                        "high": s.found.high, "side": s.side, "bound": s.bound,
                        "decision": s.decision,
                    }
                    for s in part.statements
                ] or [head]  # fmt: skip
    return pd.DataFrame(rows).sort_values("claim", kind="stable", ignore_index=True)


def _together(part: Part) -> dict[str, float | str]:
    """The joint estimate of a part, as columns."""
    if not part.statements:
        return {}
    whole = part.joint
    return {
        "part_estimate": whole.found.estimate, "part_low": whole.found.low,
        "part_high": whole.found.high, "sizes": whole.networks, "tau": whole.tau,
        "next_low": whole.predicted.low, "next_high": whole.predicted.high,
        "expected": part.expected, "power": part.power, "by_votes": part.by_votes,
    }  # fmt: skip


def published_numbers(known: pd.DataFrame) -> dict[int, str]:
    """The paper's numbers on a claim, where they are known, from the rows of its table."""
    rank, slope = ("delta_n_eff", "{:+.2f} %"), ("delta_alpha", "{:+.3g}")
    cross, own, ffn = ("cross_attention", "self_attention", "ffn")
    kirchhoff = known.delta_log10_kf
    return {
        1: f"effective rank: {_cells(known, cross, *rank)}",
        2: f"effective rank: {_cells(known, own, *rank)}; slope: {_cells(known, own, *slope)}",
        3: f"effective rank: {_cells(known, ffn, *rank)}",
        4: f"log10 Kf: {kirchhoff.min():+.2f} to {kirchhoff.max():+.2f}",
        6: "large-v3-turbo: above 9; tail eigenvalues up to 1.05 of the clean ones",
    }


def _cells(known: pd.DataFrame, component: str, column: str, style: str) -> str:
    rows = known[known.component == component]
    return ", ".join(
        f"{model} {style.format(value)}"
        for model, value in zip(rows.model, rows[column], strict=True)
    )
