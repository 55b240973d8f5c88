"""``python -m monitor``: the command line. What it needs beyond the function app is in requirements-cli.txt."""

from __future__ import annotations

import sys


def main() -> int:
    try:
        from monitor.cli.main import main as command_line
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print(f"error: the command line needs {error.name}: pip install -r requirements-cli.txt", file=sys.stderr)
        return 2
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
