"""What to measure: the parameters of every kind of measurement, checked.

`make` reads their names at every call, so that torch is loaded where values are checked alone.
"""

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from companion.measurement.keys import parameters, unpaired_with
from companion.speech.corpus import Corpus, find_clips

if TYPE_CHECKING:
    from companion.models.rules import Rule

MODES = 50
"""Eigenvalues of a pooled spectrum that are stored."""

Positive = Annotated[int, 1]
"""A whole number, and the least that makes sense."""

Above0 = Annotated[float, "a number above 0 (YAML reads 1e-9 as text, write 1.0e-9)"]
"""A finite number above zero, and what to give in place of another."""


@dataclass(frozen=True)
class Settings:
    """Parameters of any measurement: which model, on what speech, and where its rows go.

    ``decoding``: the name of the rule by which texts are written. ``shard``: which of how many
    shards of the utterances, from 0. ``parts``: a folder where finished batches stay, for every run
    that goes on with them; without it they are kept beside ``output`` until that is written.

    Lists and texts, as notebooks and YAML have them, become tuples and paths. Raises ValueError
    for a value that makes no sense, by its name: ``Annotated[int, 2]`` says that two is the least,
    ``Annotated[float, "a number above 0"]`` what to give in place of one that is not above zero.
    """

    model: str
    ladder: Path
    corpus: Path
    output: Path
    conditions: tuple[str, ...]
    decoding: str
    seed: Annotated[int, 0]
    batch: Positive
    device: str
    utterances: Annotated[int | None, 1]
    shard: Sequence[int] = field(default=(0, 1), kw_only=True)
    parts: Path | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        from companion.measurement.schemas import REFERENCE_CONDITION
        from companion.stress.conditions import OR, condition

        for name, hint in get_type_hints(type(self), include_extras=True).items():
            object.__setattr__(self, name, _checked(getattr(self, name), name, hint))
        for names in self.conditions:
            for name in names.split(OR):
                condition(name)
        _ = self.rule  # raises for a name that is none
        if self.conditions[:1] != (REFERENCE_CONDITION,):
            raise ValueError(
                f"conditions is {list(self.conditions)}; put {REFERENCE_CONDITION!r} first, every "
                "other one is compared with it"
            )
        if len(self.shard) != 2 or not 0 <= self.shard[0] < self.shard[1]:
            raise ValueError(f"shard is {self.shard}; give which of how many, from [0, 1]")

    @property
    def rule(self) -> "Rule":
        """The decoding rule."""
        from companion.models.rules import rule

        return rule(self.decoding)

    def clips(self) -> Corpus:
        """Clips without speech, measured as they are beside the corpus: none."""
        return Corpus((), {})

    def plain(self) -> dict[str, object]:
        """What of the settings decides the numbers: rows are keyed by it."""
        return parameters(asdict(self))


def _checked(value: Any, name: str, hint: Any) -> Any:
    """A value as the annotation of its field says."""
    from spectral._validation import whole_number

    plain, *limits = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(plain) is tuple or isinstance(value, list):
        value = tuple(value)
    several = isinstance(value, tuple)
    for number, limit in product(value if several else (value,), limits):
        if isinstance(limit, int):
            if number is not None:
                whole_number(number, name, least=limit)
        elif not isinstance(number, int | float) or not 0 < number < math.inf:
            raise ValueError(f"{name} {'has' if several else 'is'} {number!r}; give {limit}")
    return Path(value) if Path in (plain, *get_args(plain)) and value is not None else value


@dataclass(frozen=True)
class ListeningSettings(Settings):
    """Parameters of listening: ``nonspeech`` is a folder of clips in which nobody speaks."""

    nonspeech: Path | None = None

    def clips(self) -> Corpus:
        return super().clips() if self.nonspeech is None else find_clips(self.nonspeech)


@dataclass(frozen=True)
class SpectralSettings(Settings):
    """Parameters of the spectra: ``modes`` are the K to report, ``epsilon`` that of Kf."""

    modes: Annotated[tuple[int, ...], 2]  # alpha is a slope over modes 1..k
    epsilon: Above0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.modes:
            raise ValueError("modes is empty; give the numbers of modes to report, such as 10, 50")


@dataclass(frozen=True)
class NullSettings(SpectralSettings):
    """Parameters of the nulls: ``orders`` random orders of the rows, of whose cuts the mean counts.

    Of every random network ``draws`` are made, on ``draw_utterances`` of those measured, or on
    all; with 0 there is one of plain random weights alone. ``unpaired`` names models that were
    trained on pairs of audio and text that do not belong together; those of the model's own size
    are its controls, and others do not count.
    """

    orders: Positive = 1
    draws: Annotated[int, 0] = 0
    draw_utterances: Annotated[int | None, 1] = None
    unpaired: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "unpaired", unpaired_with(self.model, self.unpaired))


@dataclass(frozen=True)
class JacobianSettings(Settings):
    """Parameters of the Jacobians: at ``tokens`` of a text, compared by ``probes`` directions."""

    tokens: Positive
    probes: Positive


@dataclass(frozen=True)
class DynamicsSettings(Settings):
    """Parameters of the dynamics: ``steps``, tokens from 1, and ``folds`` of the linear probes."""

    steps: Annotated[tuple[int, ...], 1]
    folds: Annotated[int, 2]

    def __post_init__(self) -> None:
        super().__post_init__()
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

    levels_db: Annotated[tuple[float, ...], "dB below the signal, such as 20"]
    draws: Positive
    tokens: Annotated[tuple[int, ...], 1]


@dataclass(frozen=True)
class WarningSettings(Settings):
    """Parameters of the warnings: ``prefixes`` are numbers of tokens, ``epsilon`` that of Kf."""

    prefixes: Annotated[tuple[int, ...], 3]  # n tokens have n - 1 modes, and a slope needs two
    epsilon: Above0


@dataclass(frozen=True)
class PoolingSettings(Settings):
    """Parameters of the pooled table, by every rule of decoding of ``decodings``.

    ``activations``: a folder where the rows themselves are kept meanwhile, gigabytes. ``seen``: a
    list of utterances, one id a line, on which the convention was searched; rows are not keyed by
    it. ``modes`` are the K to report, ``halves`` how often clean speech is halved, ``controls`` how
    many random networks that keep the weights' spectra are fed the same texts and audio of
    ``control_utterances`` spread evenly, by the rule ``decoding`` alone.
    """

    decodings: tuple[str, ...]
    activations: Path
    seen: Path
    modes: Annotated[tuple[int, ...], 2]
    halves: Annotated[int, 0]
    controls: Annotated[int, 0]
    control_utterances: Annotated[int | None, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard[1] > 1:
            raise ValueError(f"shard is {self.shard}; utterances are pooled, so give [0, 1]")
        if max(self.modes, default=0) > MODES:
            raise ValueError(
                f"modes has {max(self.modes)}; {MODES} eigenvalues are kept, give no more"
            )


@dataclass(frozen=True, kw_only=True)
class ContestSettings(ListeningSettings):
    """Parameters: ``prefixes`` are numbers of tokens, ``window`` rows slide, ``epsilon`` is Kf's.

    Beside the ``conditions``: the clean utterance with room tone to ``room_tone`` seconds, or to
    one of several such lengths in turn, and the utterance said as often as fits into the model's
    window, or into ``windows`` of these where that is drawn, ``repeats`` times at most. Without
    lengths there is no room tone, and with one repeat no repetition.
    """

    prefixes: Annotated[tuple[int, ...], 3]  # as of the warnings
    window: Annotated[int, 2]
    room_tone: float | tuple[float, ...]
    repeats: Positive
    epsilon: Above0
    windows: Positive = 1


@dataclass(frozen=True, kw_only=True)
class AlarmSettings(ListeningSettings):
    """Parameters of the ways to decode by which a guard confirms a text.

    window: outputs that slide in what is weighed. shift: seconds of silence before the sound.
    """

    window: Annotated[int, 2]
    shift: float


@dataclass(frozen=True, kw_only=True)
class TalkSettings(AlarmSettings):
    """Parameters of talks: ``pause``, seconds of silence between utterances."""

    pause: float

    def __post_init__(self) -> None:
        from companion.stress.conditions import OR

        super().__post_init__()
        if OR in "".join(self.conditions):
            raise ValueError(
                f"conditions is {list(self.conditions)}; a talk is under one at a time"
            )


@dataclass(frozen=True, kw_only=True)
class GuardSettings(AlarmSettings):
    """Parameters of all the ways to decode; rank is restored in the same ``window``.

    temperatures: of samples. no_repeat: tokens of a run that may not come
    again. power: of the singular values that are restored. tokens: of a text, at which its aligned
    direction is measured. silence_threshold: hallucination_silence_threshold, in seconds.
    """

    temperatures: Annotated[tuple[float, ...], "numbers above 0"]
    no_repeat: Annotated[int, 2]
    power: float
    tokens: Positive
    silence_threshold: float


SETTINGS: dict[str, type[Settings]] = {
    "measure": SpectralSettings,
    "pooling": PoolingSettings,
    "listening": ListeningSettings,
    "nulls": NullSettings,
    "stresses": SpectralSettings,
    "choices": Settings,
    "jacobians": JacobianSettings,
    "dynamics": DynamicsSettings,
    "subtle": SubtleSettings,
    "warnings": WarningSettings,
    **dict.fromkeys(("contest", "fitting", "recordings"), ContestSettings),
    "guards": GuardSettings,
    **dict.fromkeys(("alarms", "doubts"), AlarmSettings),
    "talks": TalkSettings,
}
"""By kind of measurement."""


def section_of(kind: str) -> tuple[list[str], list[str]]:
    """What a section of params/ must say of a kind, and all that it may."""
    elsewhere = ("model", "output", "shard", "parts")
    known = [field for field in fields(SETTINGS[kind]) if field.name not in elsewhere]
    needed = [field.name for field in known if field.default is MISSING]
    return needed, [field.name for field in known]
