"""What to measure: the parameters of a kind of measurement, checked."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from companion.measurement.keys import parameters, unpaired_with
from companion.measurement.schemas import REFERENCE_CONDITION
from companion.models.rules import Rule, rule
from companion.speech.corpus import Corpus, find_clips
from companion.stress.conditions import OR, condition
from spectral._validation import whole_number


@dataclass(frozen=True)
class Settings:
    """Parameters of any measurement: which model, on what speech, and where its rows go.

    ``decoding``: the name of the rule by which texts are written. ``shard``: which of how many
    shards of the utterances, from 0; the first of one are all of them. ``parts``: a folder where
    finished batches stay, for every run that goes on with them; without it they are kept beside
    ``output`` until that is written.
    """

    model: str
    ladder: Path
    corpus: Path
    output: Path
    conditions: tuple[str, ...]
    decoding: str
    seed: int
    batch: int
    device: str
    utterances: int | None
    shard: Sequence[int] = field(default=(0, 1), kw_only=True)
    parts: Path | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("ladder", "corpus", "output"):
            object.__setattr__(self, name, Path(getattr(self, name)))
        if self.parts is not None:
            object.__setattr__(self, "parts", Path(self.parts))
        object.__setattr__(self, "conditions", tuple(self.conditions))  # notebooks have lists
        for names in self.conditions:
            for name in names.split(OR):
                condition(name)
        rule(self.decoding)
        if self.conditions[:1] != (REFERENCE_CONDITION,):
            raise ValueError(
                f"conditions is {list(self.conditions)}; put {REFERENCE_CONDITION!r} first, every "
                "other one is compared with it"
            )
        whole_number(self.batch, "batch", least=1)
        whole_number(self.seed, "seed", least=0)
        if self.utterances is not None:
            whole_number(self.utterances, "utterances", least=1)
        if len(self.shard) != 2 or not 0 <= self.shard[0] < self.shard[1]:
            raise ValueError(f"shard is {self.shard}; give which of how many, from [0, 1]")

    @property
    def rule(self) -> Rule:
        """The decoding rule."""
        return rule(self.decoding)

    def clips(self) -> Corpus:
        """Clips without speech, measured as they are beside the corpus: none."""
        return Corpus((), {})

    def plain(self) -> dict[str, object]:
        """What of the settings decides the numbers: rows are keyed by it."""
        return parameters(asdict(self))


@dataclass(frozen=True)
class ListeningSettings(Settings):
    """Parameters of listening: ``nonspeech`` is a folder of clips in which nobody speaks."""

    nonspeech: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nonspeech is not None:
            object.__setattr__(self, "nonspeech", Path(self.nonspeech))

    def clips(self) -> Corpus:
        """Those of the folder."""
        return super().clips() if self.nonspeech is None else find_clips(self.nonspeech)


@dataclass(frozen=True)
class SpectralSettings(Settings):
    """Parameters of the spectra: ``modes`` are the K to report, ``epsilon`` that of Kf."""

    modes: tuple[int, ...]
    epsilon: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "modes", tuple(self.modes))
        if not self.modes:
            raise ValueError("modes is empty; give the numbers of modes to report, such as 10, 50")
        for k in self.modes:
            whole_number(k, "modes", least=2)  # alpha is a slope over modes 1..k
        if not isinstance(self.epsilon, int | float) or not 0 < self.epsilon < math.inf:
            raise ValueError(
                f"epsilon is {self.epsilon!r}; give a number above 0 (YAML reads 1e-9 as text, "
                "write 1.0e-9)"
            )


@dataclass(frozen=True)
class NullSettings(SpectralSettings):
    """Parameters of the nulls: ``orders`` random orders of the rows, of whose cuts the mean counts.

    Of every random network ``draws`` are made, on ``draw_utterances`` spread evenly over those that
    are measured, or on all. With 0 draws there is one of plain random weights, and no other.
    ``unpaired`` names models of the ladder that were trained on pairs of audio and text that do not
    belong together; those of the model's own size are its controls, and others do not count.
    """

    orders: int = 1
    draws: int = 0
    draw_utterances: int | None = None
    unpaired: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number(self.orders, "orders", least=1)
        whole_number(self.draws, "draws", least=0)
        if self.draw_utterances is not None:
            whole_number(self.draw_utterances, "draw_utterances", least=1)
        object.__setattr__(self, "unpaired", unpaired_with(self.model, self.unpaired))


@dataclass(frozen=True)
class JacobianSettings(Settings):
    """Parameters of the Jacobians: ``tokens`` of every text, spread evenly, are linearised at.

    ``probes`` random directions compare fixed-past sensitivity and total.
    """

    tokens: int
    probes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number(self.tokens, "tokens", least=1)
        whole_number(self.probes, "probes", least=1)


@dataclass(frozen=True)
class DynamicsSettings(Settings):
    """Parameters of the dynamics: utterances are compared within a batch, so all go into one.

    ``steps`` are the tokens, from 1, whose states are compared; ``folds`` those of the linear
    probes.
    """

    steps: tuple[int, ...]
    folds: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "steps", tuple(self.steps))
        for step in self.steps:
            whole_number(step, "steps", least=1)
        whole_number(self.folds, "folds", least=2)
        if self.utterances is None or self.utterances > self.batch:
            raise ValueError(
                f"utterances is {self.utterances} and batch {self.batch}; utterances are compared "
                "within a batch, so give a number of utterances and a batch that holds them all"
            )


@dataclass(frozen=True)
class SubtleSettings(Settings):
    """Parameters of small changes: ``levels_db`` below the signal, ``draws`` random directions.

    ``tokens`` are those of the text, from 1, whose Jacobians give the singular directions.
    """

    levels_db: tuple[float, ...]
    draws: int
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("levels_db", "tokens"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for level in self.levels_db:
            if not 0 < level < math.inf:
                raise ValueError(f"levels_db has {level!r}; give dB below the signal, such as 20")
        whole_number(self.draws, "draws", least=1)
        for token in self.tokens:
            whole_number(token, "tokens", least=1)
