"""Names of scans and centers mean what was typed, or are refused."""

from __future__ import annotations

import subprocess
import sys
from operator import attrgetter

import pytest
from test_multirun import TABLES, composing, made

from tmqc.errors import SettingsError
from tmqc.sweep.spelling import NAMES

__all__ = ["composing"]
RUN = [*TABLES, "pipeline=dirty", "schedule.start=0", "harmful=samples"]


@pytest.mark.parametrize("setting", NAMES)
@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("[007]", ["007"]),
        ("[102]", ["102"]),
        ("[S001]", ["S001"]),
        ("[1.5,-3]", ["1.5", "-3"]),
        ("['10_2',\"1.10\",10_2a]", ["10_2", "1.10", "10_2a"]),
        ("['it\\'s 1_0, 2',a_1]", ["it's 1_0, 2", "a_1"]),
        ("[]", []),
    ],
)
def test_names_are_kept_as_typed(composing, setting, typed, names):
    config, _ = made(*RUN, f"{setting}={typed}")
    group, _, name = setting.rpartition(".")
    assert attrgetter(group)(config).__dict__[name] == names


@pytest.mark.parametrize("setting", NAMES)
@pytest.mark.parametrize("name", ["10_2", "1_000", "1.10", "1e5", "+7", "true", "NaN"])
def test_a_name_that_is_read_as_another_is_refused(composing, setting, name):
    with pytest.raises(SettingsError) as caught:
        made(*RUN, f"{setting}=[S001,{name}]")
    (fault,) = caught.value.faults
    assert fault.startswith(f"{setting} has {name}, which is read as ")
    assert fault.endswith(f"\"{setting}=['{name}']\"")


@pytest.mark.parametrize("override", ["+harmful.ids=[10_2]", "qc.calibrated={centers:[10_2]}"])
def test_other_ways_to_set_names_are_looked_at_too(composing, override):
    with pytest.raises(SettingsError, match="has 10_2, which is read as 102"):
        made(*RUN, override)


def test_a_number_that_was_not_typed_here_is_refused(composing, monkeypatch):
    """As in a YAML file of the user's, of which nothing but the number is left."""
    monkeypatch.setattr("tmqc.sweep.spelling._split", lambda override: [])
    with pytest.raises(SettingsError, match="harmful.ids has 102, which is no text: put names in quotes"):
        made(*RUN, "harmful.ids=[102]")


@pytest.mark.parametrize("arguments", [["harmful.ids=[10_2]"], ["-m", "harmful.ids=[10_2],[S001]"]])
def test_the_command_line_ends_with_2_and_the_hint(tmp_path, arguments):
    command = [sys.executable, "-m", "tmqc", *arguments, *RUN, "init.from=x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "harmful.ids has 10_2, which is read as 102: put names in quotes" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
