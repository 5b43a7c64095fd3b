"""Which directories count as runs."""

from report.made_runs import make_run

from tmqc.report.compare.gather import gather

CLOSED = ("checkpoints", "figures", "harmful", "mlartifacts", "phantom")


def test_a_run_may_have_the_name_of_a_folder_that_is_not_looked_into(tmp_path):
    for name in CLOSED:
        make_run(tmp_path, "clean", name)
    copied = tmp_path / "other" / "harmful"  # holds no settings itself
    make_run(tmp_path, "clean", "copy", folder=copied)
    assert [record.name for record in gather([tmp_path]).records] == list(CLOSED)
