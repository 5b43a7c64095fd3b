"""Names and paths of the command line mean what was typed, and nothing is given twice."""

from __future__ import annotations

from operator import attrgetter

import pytest
from tiny import compose_config

from tmqc.errors import SettingsError
from tmqc.settings.text import text_settings
from tmqc.sweep.command_line import read_command_line

TEXTS = [name for name, kind in text_settings().items() if kind != list[str]]
LISTS = [name for name, kind in text_settings().items() if kind == list[str]]
ODD = ["2024_01_15", "1.10", "1e5", "true", "nan", "inf", "-0", "0123", "0x1f", "1_000", "None", "on", "yes", "~", "@x"]
ODD += [
    "2024-01-15",
    "/a b/Köln",
    "a=b",
    "a(b",
    "(1)",
    "x#1",
    "it's",
    'a"b',
    "a;b",
    "C:\\x",
    "{a:1}",
    "!",
    "a:b",
    "%",
    "sort(a)",
    "str(3)",
]


def read(*arguments):
    return compose_config(*read_command_line(arguments))


def value_of(config, name):
    return config.init["from"] if name == "init.from" else attrgetter(name)(config)


@pytest.mark.parametrize("shift", range(-(-len(ODD) // len(TEXTS))))
def test_text_is_what_was_typed(shift):
    """Every odd value in some setting, every text setting with some odd value."""
    typed = {name: ODD[(shift * len(TEXTS) + i) % len(ODD)] for i, name in enumerate(TEXTS)}
    config = read(*(f"{name}={value}" for name, value in typed.items()))
    assert {name: value_of(config, name) for name in TEXTS} == typed


def test_all_names_and_paths_are_among_the_text_settings():
    wanted = {"run.name", "run.outputs", "sweep.name", "tracking.experiment", "tracking.uri", "cohort.test_csv"}
    wanted |= {"cohort.phantom.centers", "init.from", "inference.run", "inference.cycles", "cache.directory"}
    assert wanted <= set(TEXTS)
    assert {"harmful.ids", "federation.sites"} <= set(LISTS)


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("[007]", ["007"]),
        ("[10_2, 1.10,null]", ["10_2", "1.10", "null"]),
        ("['10_2',\"1.10\",10_2a]", ["10_2", "1.10", "10_2a"]),
        ("['it\\'s 1_0, 2',a=1,Köln]", ["it's 1_0, 2", "a=1", "Köln"]),
        ("[]", []),
    ],
)
def test_lists_of_names_are_what_was_typed(typed, names):
    config = read(*(f"{name}={typed}" for name in LISTS))
    assert all(value_of(config, name) == names for name in LISTS)


def test_what_hydra_means_by_null_quotes_and_interpolations_stays():
    config = read("run.name='1.10'", "sweep.name=null", "tracking.experiment=${run.name}", "inference.run=a\\,b")
    assert (config.run.name, config.sweep.name) == ("1.10", None)
    assert (config.tracking.experiment, config.inference.run) == ("1.10", "a,b")
    assert read("run.name=null").run.name == "null"  # a run has a name


def test_a_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert read("run.outputs=~/out").run.outputs == "/home/ada/out"


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("run.name=1.10,b,'c,d',e=f", "run.name='1.10',b,'c,d','e=f'"),
        ("run.name=choice(1e5,x)", "run.name=choice('1e5',x)"),
        ("inference.cycles=range(8,10)", "inference.cycles='8','9'"),
        ("harmful.ids=[10_2],[S001,7]", "harmful.ids=['10_2'],[S001,'7']"),
        ("cohort.test_csv=a(1,2).csv,b", "cohort.test_csv='a(1,2).csv',b"),
        ("qc.error=0.1,0.2", "qc.error=0.1,0.2"),
    ],
)
def test_values_of_a_sweep_are_taken_one_by_one(typed, taken):
    assert read_command_line(["-m", typed]) == ["-m", taken]


@pytest.mark.parametrize(
    "override", ["run={name:1.10}", "harmful={ids:[10_2]}", "init={from:1}", "tracking={uri:true}"]
)
def test_a_number_that_came_another_way_is_refused(override):
    """As by a YAML file of the user's, of which nothing but the number is left."""
    with pytest.raises(SettingsError, match="is not text, and may differ from what was typed: put it in quotes"):
        read(override)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "qc.error=0.1", "qc.error=0.1,0.2"],
        ["qc.error=0.1,0.2", "qc.error=0.1", "-m"],
        ["qc.error=0.1", "+qc.error=0.2"],
        ["pipeline=clean", "pipeline=qc"],
    ],
)
def test_what_is_given_twice_is_refused(arguments):
    with pytest.raises(SettingsError, match="is given twice, .* leave one of them out"):
        read_command_line(arguments)
    assert read_command_line(["qc.error=0.1", "qc.error=0.1", "-cn", "a=b"])  # no question which


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("hydra.sweep.dir=/a(b", "hydra.sweep.dir=/a(b: Hydra cannot read this value; .*'hydra.sweep.dir=\"/a(b\"'"),
        ("größe=1", "größe: there is no such setting"),
        ("clean", "clean: write group=option or group.setting=value"),
    ],
)
def test_what_hydra_cannot_read_is_named_with_its_quotes(argument, message):
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")):
        read_command_line([argument])
