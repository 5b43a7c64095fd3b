"""`python -m tmqc`."""

from tmqc.cli import main

if __name__ == "__main__":  # also keeps the children of a sweep from starting anew
    main()
