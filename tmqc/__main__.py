"""Entry point of `python -m tmqc`."""

from tmqc.cli import main

if __name__ == "__main__":  # child processes of a sweep import this module and must not start another sweep
    main()
