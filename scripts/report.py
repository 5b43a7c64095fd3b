"""Make figures and page (`figures/*.png`, `report.html`) of a finished or interrupted run again, from its files.

Examples:
    python scripts/report.py outputs/qc/NAME
    python scripts/report.py outputs/qc/NAME --gallery 200

No other file in the directory is changed, and nothing is sent to a tracking store.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tmqc.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Return exit code 0; 2 with one line per fault if a page cannot be written."""
    given = _parse(arguments)
    from tmqc.report.page import write_figures, write_report  # local import, as it takes seconds: --help must be fast

    code = 0
    for directory in given.runs:
        try:
            for path in (*write_figures(directory), write_report(directory, limit=given.gallery)):
                print(path)
        except InputError as error:
            print(f"report: {error}", file=sys.stderr)
            code = 2
        except OSError as error:
            print(f"report: {error.filename or directory}: {error.strerror}", file=sys.stderr)
            code = 2
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIRECTORY", help="such as outputs/qc/NAME")
    parser.add_argument("--gallery", type=_count, default=40, metavar="N", help="scans in the gallery; %(default)s")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not (text.isdigit() and text.isascii()):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
