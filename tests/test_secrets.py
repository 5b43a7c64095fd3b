"""User names, passwords and tokens in URIs: redacted where they are written, found again where they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tmqc.settings.secrets import hide, redact, redact_all, reveal

HIDDEN = {
    "postgresql://qc:hunter2@localhost:5432/mlflow": "postgresql://***@localhost:5432/mlflow",
    "mysql+pymysql://user@host/db": "mysql+pymysql://***@host/db",
    "https://token@mlflow.example.org": "https://***@mlflow.example.org",
    "postgresql://qc:p@ss/w?rd#x@host/db": "postgresql://***@host/db",
    "postgresql://qc:it's,a\"b@host/db": "postgresql://***@host/db",
    "postgresql://qc:two words<'\">@host/db": "postgresql://***@host/db",
    "postgresql://host/db?user=qc&password=hunter2&sslmode=require": (
        "postgresql://host/db?user=***&password=***&sslmode=require"
    ),
    "https://host/?access_token=abc": "https://host/?access_token=***",
}
PLAIN = [
    "sqlite:////home/me@work/outputs/mlflow.db",
    "sqlite:///here.db?timeout=9",
    "http://host:5000",
    "http://host:5000/#/experiments/1",
    "no URI: me@example.org, a?b=c",
    "file:///a/b@c",
]


@pytest.mark.parametrize("uri", HIDDEN)
def test_what_gives_access_is_redacted(uri):
    assert redact(uri) == HIDDEN[uri]
    assert redact(HIDDEN[uri]) == HIDDEN[uri]


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_stay(text):
    assert redact(text) == text


def test_within_texts_and_nested_data():
    said = "tracking.uri='http://a:b@one:5000': failed, as http://c:d@two, http://three did"
    assert redact(said) == "tracking.uri='http://***@one:5000': failed, as http://***@two, http://three did"
    assert redact("tracking.uri=http://a:b@h1,http://c:d@h2") == "tracking.uri=http://***@h1,http://***@h2"
    assert redact_all({"a": ["http://a:b@one", 1], "b": {"c": None}}) == {"a": ["http://***@one", 1], "b": {"c": None}}


def test_arguments_are_hidden_and_their_uris_known_to_this_process_and_its_children(monkeypatch):
    monkeypatch.setenv("TMQC_URIS", "{}")
    uri = "postgresql://qc:hunter2@localhost:5432/mlflow"
    arguments = hide(["-m", f"'tracking.uri={uri}'", "run.name=x"])
    assert arguments == ["-m", "'tracking.uri=postgresql://***@localhost:5432/mlflow'", "run.name=x"]
    assert hide(arguments) == arguments  # a child's are redacted already
    assert reveal("postgresql://***@localhost:5432/mlflow") == uri
    assert reveal("http://host") == "http://host"


def test_a_password_of_any_letters_is_hidden_in_an_argument_and_in_what_others_say_of_it(monkeypatch):
    monkeypatch.setenv("TMQC_URIS", "{}")
    uri, short = 'postgresql://qc:it\'s <a> "b"@host/db', "postgresql://***@host/db"
    assert hide([f"tracking.uri={uri}"]) == [f"tracking.uri={short}"]
    assert reveal(short) == uri
    assert redact(f"cannot parse {uri} as an address") == f"cannot parse {short} as an address"
    assert hide(['\'tracking.uri="http://a:\\"b c@host"\'']) == ["'tracking.uri=\"http://***@host\"'"]
    assert reveal("http://***@host") == 'http://a:"b c@host'


def test_a_command_line_is_hidden_before_hydra_reads_it():
    command = [sys.executable, "-m", "tmqc", "tracking.uri=postgresql://qc:hunter2@host/mlflow", "--cfg", "all"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "tracking.uri=postgresql://***@host/mlflow" in done.stdout and "hunter2" not in done.stdout
