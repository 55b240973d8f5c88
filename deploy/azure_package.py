"""Writes build/azure, the function app's package with extras: `make azure-package EXTRAS="entra azure-monitor"`.

The platform's build reads requirements.txt and no other file, so the lines of each requirements-EXTRA.txt are merged into it.
What .funcignore leaves out is left out here too; without extras the folder is what `func azure functionapp publish` uploads from
the root.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pathspec

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "azure"
ALWAYS_LEFT_OUT = {".git", ".vscode", ".funcignore", ".gitignore", "local.settings.json", "project.lock.json"}
"""What func itself leaves out, whatever .funcignore says."""


class UnknownExtra(Exception):
    """There is no such file of requirements."""


def extras() -> list[str]:
    """The extras that there are, by their files' names."""
    return sorted(path.stem.partition("-")[2] for path in ROOT.glob("requirements-*.txt"))


def files() -> list[Path]:
    """What goes into the package, relative to the root."""
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".funcignore").read_text().splitlines())
    return sorted(_left_below(ROOT, ignored))


def _left_below(folder: Path, ignored: pathspec.GitIgnoreSpec) -> Iterator[Path]:
    for path in folder.iterdir():
        relative = path.relative_to(ROOT)
        if path.name in ALWAYS_LEFT_OUT or ignored.match_file(
            f"{relative.as_posix()}/" if path.is_dir() else relative.as_posix()
        ):
            continue
        if path.is_dir():
            yield from _left_below(path, ignored)
        else:
            yield relative


def requirements(names: Iterable[str]) -> str:
    """requirements.txt with the lines of each extra that it does not have yet.

    Raises:
        UnknownExtra: with those that there are.
    """
    text = (ROOT / "requirements.txt").read_text().rstrip() + "\n"
    have = set(_packages(text))
    for name in names:
        if name not in extras():
            raise UnknownExtra(f"there is no extra {name!r}; there are: {', '.join(extras())}")
        text += f"\n# {name}\n"
        for line in (ROOT / f"requirements-{name}.txt").read_text().splitlines():
            for package in set(_packages(line)) - have:
                text += f"{line}\n"
                have.add(package)
    return text


def _packages(text: str) -> list[str]:
    return [name.lower() for name in re.findall(r"^([A-Za-z0-9][\w.-]*)", text, re.MULTILINE)]


def write(names: Iterable[str], folder: Path = BUILD) -> None:
    """Make ``folder`` anew."""
    merged = requirements(names)
    shutil.rmtree(folder, ignore_errors=True)
    for path in files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    (folder / "requirements.txt").write_text(merged)


if __name__ == "__main__":
    try:
        write(sys.argv[1:])
    except UnknownExtra as error:
        sys.exit(f"error: {error}")
    print(f"{BUILD.relative_to(ROOT)} is written; extras: {' '.join(sys.argv[1:]) or 'none'}")
