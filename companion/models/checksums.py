"""SHA-256 sums of files, and of all files of a model's folder, in the format of sha256sum."""

import hashlib
from pathlib import Path

SUMS = "SHA256SUMS"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed(folder: Path) -> str:
    """A line for each file of a folder but the sums themselves; hidden ones do not count."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    return "".join(
        f"{sha256(path)}  {path.name}\n"
        for path in paths
        if path.name != SUMS and not path.name.startswith(".")
    )


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of every other file of a folder."""
    (folder / SUMS).write_text(listed(folder))


def verify_checksums(folder: Path) -> None:
    """Raise ValueError for a file that is missing, differs, or is not listed in SHA256SUMS."""
    expected, actual = (
        {name: sha for sha, _, name in (line.partition("  ") for line in text.splitlines())}
        for text in ((folder / SUMS).read_text(), listed(folder))
    )
    for name, sha in expected.items():
        if actual.get(name) != sha:
            raise ValueError(
                f"{folder / name}: SHA-256 is {actual.get(name, 'no such file')}, expected {sha}; "
                f"restore it with `git checkout -- {folder}`, or remove the folder and run "
                "`make ladder`"
            )
    for name in actual.keys() - expected.keys():
        raise ValueError(f"{folder / name}: {SUMS} beside it does not list it; remove it")
