"""Which models a claim about small, intermediate or large ones is about.

OpenAI's models have fixed roles, so that no model stands in for another that was not measured.
Those of the ladder are a family of their own: the smallest size, the largest, and those between.
"""

import pandas as pd

from companion.claims.numbers import NotMeasured
from companion.results.effects import size_of

SMALLEST, INTERMEDIATE, LARGEST = "smallest", "intermediate", "largest"

_OPENAI = {"tiny": SMALLEST} | dict.fromkeys(["base", "small", "medium"], INTERMEDIATE)
_LARGE = ("large", "large-v1", "large-v2", "large-v3", "large-v3-turbo", "turbo")
_OPENAI |= dict.fromkeys(_LARGE, LARGEST)

UNAVAILABLE = (
    "these weights could not be had; "
    '`make evidence PROFILE=whisper MODELS="small large-v3-turbo"` measures them, on any GPU'
)
LACKING = {
    SMALLEST: "tiny.en is not measured yet; `make evidence PROFILE=whisper` does it",
    INTERMEDIATE: "base is not measured yet; `make evidence PROFILE=whisper` does it",
    LARGEST: UNAVAILABLE,
}
"""Why nothing is known of OpenAI's models of a role, and the remedy."""

_KEYS = ["parameters", "model"]


def is_openai(model: str) -> bool:
    """Whether a name is one of OpenAI's, with or without ``.en``; the ladder's end in a seed."""
    return model.removesuffix(".en") in _OPENAI


def sizes(table: pd.DataFrame) -> list[list[str]]:
    """The models of a table by size, from the smallest; seeds of one size are together."""
    models = table[_KEYS].drop_duplicates().sort_values(_KEYS)
    groups = models.groupby(models.model.map(size_of), sort=False).model
    return [list(group) for _, group in groups]


def every_model(table: pd.DataFrame) -> list[str]:
    """The models of a table, from the smallest."""
    return [model for group in sizes(table) for model in group]


def models_of(table: pd.DataFrame, role: str) -> list[str]:
    """The models of a role; NotMeasured, with the reason, where the table has none."""
    models = every_model(table)
    if any(map(is_openai, models)):
        found = [model for model in models if _OPENAI.get(model.removesuffix(".en")) == role]
        if not found:
            raise NotMeasured(LACKING[role])
        return found
    groups = sizes(table)
    if len(groups) < 2:
        raise NotMeasured("models of one size were measured")
    smallest, *between, largest = groups
    middle = [model for group in between for model in group]
    found = {SMALLEST: smallest, INTERMEDIATE: middle, LARGEST: largest}[role]
    if not found:
        raise NotMeasured(f"no model of {role} size was measured")
    return found
