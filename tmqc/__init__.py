"""tmqc: quality control for a travelling model, finding and eliminating harmful scans across many hospitals."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tmqc")
except PackageNotFoundError:  # run from a clone that was never installed
    __version__ = "0+unknown"
