"""tmqc: quality control for a travelling model, finding and eliminating harmful scans across many hospitals.

The user's preferences for Keras and Matplotlib must not change a run. Importing tmqc therefore replaces the user's
keras.json and matplotlibrc by those in `settings/machine/` and selects Matplotlib's file backend, for this process and
its children. (`model.backend` and `report.style` handle libraries that were imported before tmqc.)
"""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_machine = Path(__file__).parent / "settings" / "machine"
os.environ["KERAS_HOME"] = str(_machine)
os.environ["MATPLOTLIBRC"] = str(_machine / "matplotlibrc")  # takes precedence over MPLCONFIGDIR and the home directory
os.environ["MPLBACKEND"] = "Agg"  # a shell opened from a notebook inherits the notebook's backend

try:
    __version__ = version("tmqc")
except PackageNotFoundError:  # run from a clone that is not installed
    __version__ = "0+unknown"
