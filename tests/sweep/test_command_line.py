"""Names and paths are taken literally from the command line, and duplicates are refused."""

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
def test_text_settings_are_taken_literally(shift):
    """Every odd value is used in some setting, and every text setting gets some odd value."""
    typed = {name: ODD[(shift * len(TEXTS) + i) % len(ODD)] for i, name in enumerate(TEXTS)}
    config = read(*(f"{name}={value}" for name, value in typed.items()))
    assert {name: value_of(config, name) for name in TEXTS} == typed


def test_shares_of_kinds_replace_the_list_of_an_experiment():
    config = read("experiment=demo_qc", "harmful.kind={noise:0.5,mirrored: 0.5}")
    assert config.harmful.kind == {"noise": 0.5, "mirrored": 0.5}
    assert read("experiment=demo_qc", "harmful.kind=[noise,blur]").harmful.kind == ["noise", "blur"]


def test_text_settings_include_all_names_and_paths():
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
def test_lists_of_names_are_taken_literally(typed, names):
    config = read(*(f"{name}={typed}" for name in LISTS))
    assert all(value_of(config, name) == names for name in LISTS)


def test_null_quotes_and_interpolations_keep_their_hydra_meaning():
    config = read("run.name='1.10'", "sweep.name=null", "tracking.experiment=${run.name}", "inference.run=a\\,b")
    assert (config.run.name, config.sweep.name) == ("1.10", None)
    assert (config.tracking.experiment, config.inference.run) == ("1.10", "a,b")
    assert read("run.name=null").run.name == "null"  # run.name cannot be null


def test_home_directory_is_expanded_in_paths(monkeypatch):
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
def test_each_value_of_a_sweep_is_taken_literally(typed, taken):
    assert read_command_line(["-m", typed]) == ["-m", taken]


@pytest.mark.parametrize(
    "override", ["run={name:1.10}", "harmful={ids:[10_2]}", "init={from:1}", "tracking={uri:true}"]
)
def test_number_in_a_text_setting_from_another_source_is_refused(override):
    """For example from a user's YAML file, where the original text is lost."""
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
def test_duplicate_settings_are_refused(arguments):
    with pytest.raises(SettingsError, match="is given twice, .* leave one of them out"):
        read_command_line(arguments)
    assert read_command_line(["qc.error=0.1", "qc.error=0.1", "-cn", "a=b"])  # identical duplicates are allowed


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("hydra.sweep.dir=/a(b", "hydra.sweep.dir=/a(b: Hydra cannot read this value; .*'hydra.sweep.dir=\"/a(b\"'"),
        ("größe=1", "größe: there is no such setting"),
        ("clean", "clean: write group=option or group.setting=value"),
    ],
)
def test_unreadable_arguments_are_refused_with_an_explanation(argument, message):
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")):
        read_command_line([argument])
