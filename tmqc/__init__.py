"""tmqc: quality control for a travelling model, finding and eliminating harmful scans across many hospitals.

The user's preferences for Keras and Matplotlib belong to other work and must not change a run: every process that
imports tmqc, and its children, find `settings/machine/` in place of the user's keras.json and matplotlibrc, and
Matplotlib's backend for files. (`model.backend` and `report.style` see to what was loaded before.)
"""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_machine = Path(__file__).parent / "settings" / "machine"
os.environ["KERAS_HOME"] = str(_machine)
os.environ["MATPLOTLIBRC"] = str(_machine / "matplotlibrc")  # read before the one in MPLCONFIGDIR or the home directory
os.environ["MPLBACKEND"] = "Agg"  # in place of a notebook's, which a shell opened from there inherits

try:
    __version__ = version("tmqc")
except PackageNotFoundError:  # run from a clone that was never installed
    __version__ = "0+unknown"
