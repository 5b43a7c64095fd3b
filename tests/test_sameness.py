"""Which settings make another run of a run, and which do not."""

from __future__ import annotations

from tmqc.config import Config
from tmqc.sameness import settings_digest


def digest_with(centers):
    config = Config()
    config.cohort.phantom.centers = str(centers)
    return settings_digest(config)


def test_the_content_of_a_center_table_counts(tmp_path):
    table = tmp_path / "my.csv"
    table.write_text("center,train_hc\na,1\n")
    first = digest_with(table)
    assert digest_with(table) == first
    table.write_text("center,train_hc\na,2\n")
    assert digest_with(table) != first


def test_a_file_called_like_a_packaged_table_does_not(tmp_path, monkeypatch):
    before = settings_digest(Config())
    (tmp_path / Config().cohort.phantom.centers).write_text("another table")
    monkeypatch.chdir(tmp_path)
    assert settings_digest(Config()) == before
