"""Say what committed rows depend on, beside them: ``python scripts/stamp.py ladder nulls xs-0``.

data/results/<kind>/<model>.json holds a hash of the rows and of everything that decided them. It
is written when they have been measured, and only if nothing of it changed meanwhile.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml
from dependencies import DIGITS, Section, defaults, digests, of_file

SHOWN = 3  # of what has changed since rows were measured

Key = Mapping[str, str]


def main() -> None:
    """Stamp the rows that were just measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("profile", "kind", "model", "rows"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    build, kind, model = Path("build") / arguments.profile, arguments.kind, arguments.model
    text = (build / "params" / f"{kind}.yml").read_text(encoding="utf-8")
    section = yaml.safe_load(text)[kind]
    key = key_of(kind, model, section, {**defaults(kind), **section})
    rows = Path(arguments.rows)
    begun = json.loads(begun_path(build, kind, model).read_text(encoding="utf-8"))
    if changed := changes(begun, key):
        rows.unlink()
        sys.exit(f"error: {rows}: {changed} while it was measured; run the same command again")
    write(stamp_path(rows), {"rows": of_file(rows)[:DIGITS], "depends": key})


def key_of(kind: str, model: str, section: Section, values: Section) -> Key:
    """Hashes of everything that decides the rows of one kind and model."""
    return digests(kind, section, {**values, "model": model})


def begun_path(build: Path, kind: str, model: str) -> Path:
    """Where the hashes are kept that a measurement began with."""
    return build / "keys" / f"{kind}-{model}.json"


def stamp_path(rows: Path) -> Path:
    """Where the hashes of finished rows are kept."""
    return rows.with_suffix(".json")


def difference(rows: Path, key: Key) -> str | None:
    """Why rows are not what measuring would give now; None where they are."""
    if not rows.exists():
        return "not measured yet"
    try:
        stamp = json.loads(stamp_path(rows).read_text(encoding="utf-8"))
        if stamp["rows"] != of_file(rows)[:DIGITS]:
            return f"other rows than those of {stamp_path(rows).name}"
        return changes(stamp["depends"], key)
    except (OSError, ValueError, KeyError):
        return f"{stamp_path(rows).name} does not say what they were measured with"


def changes(before: Key, after: Key) -> str | None:
    """What differs between two sets of hashes, in words; None where nothing does."""
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if not changed:
        return None
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return f"{', '.join(changed[:SHOWN])}{more} changed"


def write(path: Path, content: Mapping[str, object]) -> None:
    """Write a file of JSON that is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
