"""User names, passwords and tokens in URIs are redacted in output and restored for use."""

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
def test_credentials_are_redacted(uri):
    assert redact(uri) == HIDDEN[uri]
    assert redact(HIDDEN[uri]) == HIDDEN[uri]


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_are_not_changed(text):
    assert redact(text) == text


def test_credentials_within_texts_and_nested_data_are_redacted():
    said = "tracking.uri='http://a:b@one:5000': failed, as http://c:d@two, http://three did"
    assert redact(said) == "tracking.uri='http://***@one:5000': failed, as http://***@two, http://three did"
    assert redact("tracking.uri=http://a:b@h1,http://c:d@h2") == "tracking.uri=http://***@h1,http://***@h2"
    assert redact_all({"a": ["http://a:b@one", 1], "b": {"c": None}}) == {"a": ["http://***@one", 1], "b": {"c": None}}


def test_credentials_in_arguments_are_hidden_and_can_be_revealed(monkeypatch):
    monkeypatch.setenv("TMQC_URIS", "{}")
    uri = "postgresql://qc:hunter2@localhost:5432/mlflow"
    arguments = hide(["-m", f"'tracking.uri={uri}'", "run.name=x"])
    assert arguments == ["-m", "'tracking.uri=postgresql://***@localhost:5432/mlflow'", "run.name=x"]
    assert hide(arguments) == arguments  # arguments of a child process are redacted already
    assert reveal("postgresql://***@localhost:5432/mlflow") == uri
    assert reveal("http://host") == "http://host"


def test_passwords_with_special_characters_are_hidden(monkeypatch):
    monkeypatch.setenv("TMQC_URIS", "{}")
    uri, short = 'postgresql://qc:it\'s <a> "b"@host/db', "postgresql://***@host/db"
    assert hide([f"tracking.uri={uri}"]) == [f"tracking.uri={short}"]
    assert reveal(short) == uri
    assert redact(f"cannot parse {uri} as an address") == f"cannot parse {short} as an address"
    assert hide(['\'tracking.uri="http://a:\\"b c@host"\'']) == ["'tracking.uri=\"http://***@host\"'"]
    assert reveal("http://***@host") == 'http://a:"b c@host'


def test_command_line_is_redacted_before_hydra_reads_it():
    command = [sys.executable, "-m", "tmqc", "tracking.uri=postgresql://qc:hunter2@host/mlflow", "--cfg", "all"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "tracking.uri=postgresql://***@host/mlflow" in done.stdout and "hunter2" not in done.stdout
