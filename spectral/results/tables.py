"""Tables as files: CSV with six digits, Markdown to read."""

import os
from pathlib import Path

import pandas as pd


def save_table(table: pd.DataFrame, readable: pd.DataFrame, folder: Path, name: str) -> None:
    """Write ``table`` to name.csv and its readable version to name.md, each whole or not at all."""
    write_text(
        folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    )
    write_text(folder / f"{name}.md", readable.to_markdown(index=False) + "\n")


def with_interval(table: pd.DataFrame, name: str, digits: int, sign: bool = False) -> list[str]:
    """``estimate [low, high]`` from the columns name, name_low and name_high; "n/a" for NaN."""
    style = f"{'+' if sign else ''}.{digits}f"
    columns = table[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
    return [
        "n/a" if pd.isna(value) else f"{value:{style}} [{low:{style}}, {high:{style}}]"
        for value, low, high in columns
    ]


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
