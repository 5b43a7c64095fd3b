"""Entry point of `tmqc` and `python -m tmqc`."""

import sys

from tmqc.errors import SettingsError


def main() -> None:
    """Run the command; report a file of `conf/` that cannot be read as any other faulty setting."""
    try:
        from tmqc.cli import main as run
    except SettingsError as error:
        print(f"tmqc: {error}", file=sys.stderr)
        sys.exit(error.code)
    run()


if __name__ == "__main__":  # child processes of a sweep import this module and must not start another sweep
    main()
