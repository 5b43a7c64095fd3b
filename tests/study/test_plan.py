from pathlib import Path

import pytest
from tiny import compose_config

from tmqc.errors import SettingsError
from tmqc.settings.validate import validate
from tmqc.study.plan import make_jobs, read_study

STUDIES = sorted((Path(__file__).parents[2] / "scripts" / "studies").glob("*.yaml"))

STUDY = """
seeds: [3, 4]
common: [tracking=none]
experiments: {clean: demo_clean, dirty: demo_dirty, qc: demo_qc, rivals: demo_rivals}
scenarios:
  centers: [harmful=centers]
  samples: [harmful=samples]
gates:
  published: {sweep: {qc.error: [0.01, 0.02], qc.revisit: [1, 2]}}
  screen: {settings: [qc=screen], scenarios: [samples]}
harms:
  blur: [harmful=centers, harmful.kind=blur]
rivals: [samples]
"""


def write(tmp_path, text=STUDY):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_all_combinations_each_after_what_it_starts_from(tmp_path):
    jobs = make_jobs(read_study(write(tmp_path)))
    of_a_seed = ["clean", "dirty", *["qc"] * 4, "dirty", *["qc"] * 5, "rivals", "dirty"]
    assert [job.pipeline for job in jobs] == of_a_seed * 2
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for at, job in enumerate(jobs):
        assert (job.start is None) is (job.pipeline == "clean")
        assert job.start is None or job.start in names[:at]
    screen = next(job for job in jobs if job.labels["gate"] == "screen")
    assert screen.overrides == (
        "experiment=demo_qc",
        "tracking=none",
        *("cohort.phantom.seed=3", "run.seed=3", "harmful.seed=3"),
        *("harmful=samples", "qc=screen"),
    )
    swept = [job.labels for job in jobs if job.labels["gate"] == "published"][:4]
    assert [(s["qc.error"], s["qc.revisit"]) for s in swept] == [(0.01, 1), (0.01, 2), (0.02, 1), (0.02, 2)]


def test_other_settings_are_another_run_and_the_same_the_same(tmp_path):
    path = write(tmp_path)
    before = {job.name for job in make_jobs(read_study(path))}
    assert before == {job.name for job in make_jobs(read_study(path))}
    assert before > {job.name for job in make_jobs(read_study(path, ["seeds=[3]"]))}
    other = make_jobs(read_study(path, ["common=[tracking=none,schedule.cycles=9]"]))
    assert before.isdisjoint(job.name for job in other)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("seeds: [3, 4]", "seeds: [3, 3]", "seeds"),
        ("seeds: [3, 4]", "seeds: []", "seeds"),
        ("seeds: [3, 4]", "seeds: many", "seeds"),
        ("rivals: [samples]", "rivals: [nobody]", "there is no scenario nobody"),
        ("scenarios: [samples]", "scenarios: [nobody]", "gates.screen.scenarios: there is no scenario nobody"),
        ("blur: [harmful", "centers: [harmful", "centers is the name of a scenario too"),
        (", qc: demo_qc", "", "no experiment for qc"),
        ("common:", "comon:", "comon"),
        ("seeds: [3, 4]", "seeds: [3, 4", "study.yaml"),
    ],
)
def test_faults_of_the_file(tmp_path, old, new, told):
    assert old in STUDY
    with pytest.raises(SettingsError) as caught:
        read_study(write(tmp_path, STUDY.replace(old, new)))
    assert told in str(caught.value)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_that_stand_ready(path):
    assert make_jobs(read_study(path))


def test_the_study_of_federations_asks_for_nothing_that_is_refused():
    of_a_seed = make_jobs(read_study(STUDIES[0].with_name("federation.yaml"), ["seeds=[0]"]))
    controlled = [job for job in of_a_seed if job.pipeline == "qc"]
    assert len(controlled) == len({job.overrides for job in controlled}) == 8
    for job in controlled:
        validate(compose_config(*job.overrides, "run.name=x", "init.from=x"))


def test_no_file(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        read_study(tmp_path / "nothing.yaml")
