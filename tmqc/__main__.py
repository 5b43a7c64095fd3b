"""Entry point of `tmqc` and `python -m tmqc`."""

import sys

from tmqc.errors import SettingsError


def main() -> None:
    """Run the command; a default in `conf/` that cannot be read is an error of the user's, too."""
    try:
        from tmqc.cli import main as run
    except SettingsError as error:
        print(f"tmqc: {error}", file=sys.stderr)
        sys.exit(error.code)
    run()


if __name__ == "__main__":  # child processes of a sweep import this module and must not start another sweep
    main()
