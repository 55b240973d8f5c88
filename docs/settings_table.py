"""Writes the settings tables of README.md and docs/configuration.md from the rows in shared/settings.py.

python docs/settings_table.py            # rewrite what stands between the markers
python docs/settings_table.py --check    # exit 1 if that would change anything
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.setting_rows import REQUIRED, Row
from shared.setting_rules import NOT_SUPPORTED
from shared.settings import ROWS

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = (ROOT / "README.md", ROOT / "docs" / "configuration.md")


def settings_table() -> Iterator[str]:
    """The required settings first, then the others in the order of their fields."""
    yield "| variable | default | unit | key in STREAMS | effect |"
    yield "|---|---|---|---|---|"
    for row in sorted(ROWS.values(), key=lambda row: row.default is not REQUIRED):
        yield _line(row)


def _line(row: Row) -> str:
    default = "required" if row.default is REQUIRED else f"`{row.default}`"
    key = f"`{row.item_key}`" if row.item_key else ""
    cells = (f"`{row.variable}`", default, row.unit, key, row.effect)
    return "".join(f"| {cell} ".replace("|  ", "| ") for cell in cells) + "|"


def not_supported_table() -> Iterator[str]:
    yield "| variable | what to do instead |"
    yield "|---|---|"
    for variable, reason in NOT_SUPPORTED.items():
        yield f"| `{variable}` | {reason} |"


TABLES: Final = {"settings": settings_table, "not supported": not_supported_table}


def rewritten(page: str) -> str:
    """``page`` with each table of ours made anew between its markers."""
    for name, lines in TABLES.items():
        begin, end = f"<!-- {name}: written by docs/settings_table.py -->", f"<!-- end of {name} -->"
        before, has_begin, rest = page.partition(begin)
        _, has_end, after = rest.partition(end)
        if has_begin and has_end:
            page = "\n".join((f"{before}{begin}", "", *lines(), "", f"{end}{after}"))
    return page


def main(arguments: list[str]) -> int:
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
    stale = {path: made for path, page in pages.items() if (made := rewritten(page)) != page}
    for path, made in stale.items():
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is out of date: run python docs/settings_table.py", file=sys.stderr)
        else:
            path.write_text(made, encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
