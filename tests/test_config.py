"""Settings: all experiments compose and validate; invalid values are reported with the allowed ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tiny import compose_config

from tmqc.core.rates import RATES
from tmqc.errors import SettingsError
from tmqc.harm.corruptions import KINDS
from tmqc.harm.scenarios import SCENARIOS
from tmqc.phantom.center_tables import TABLES
from tmqc.pipelines import PIPELINES
from tmqc.rivals import RIVALS
from tmqc.settings import defaults, schema
from tmqc.settings.defaults import conf_dir
from tmqc.settings.explain import explain
from tmqc.settings.ranges import within
from tmqc.settings.schema import Config, ModelConfig, flatten
from tmqc.settings.validate import validate

EXPERIMENTS = sorted(p.stem for p in (conf_dir() / "experiment").glob("*.yaml"))
OWN_DATA = ["cohort.train_csv=a.csv", "cohort.test_csv=b.csv", "inference.run=somewhere"]


def composed(*overrides):
    return compose_config("run.name=test", *overrides)


def faults(*overrides):
    with pytest.raises(SettingsError) as caught:
        validate(composed(*overrides))
    return caught.value.faults


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_validates(name):
    config = composed(f"experiment={name}", *OWN_DATA)
    validate(config)
    pipeline = next(p for p in ("clean", "dirty", "qc", "inference", "rivals") if p in name.split("_"))
    assert config.pipeline.name == pipeline


def test_every_published_run_has_an_experiment():
    wanted = {
        f"paper_{p}_{s}_{k}" for p in ("dirty", "qc") for s in ("centers", "samples") for k in ("inverted", "noise")
    }
    assert wanted | {"paper_clean", "paper_inference"} <= set(EXPERIMENTS)


def test_paper_experiments_have_the_published_settings():
    config = composed("experiment=paper_qc_centers_inverted", *OWN_DATA)
    assert config.cohort.shape == [160, 192, 160]
    assert config.model.filters == [32, 64, 128, 256, 256, 64]
    assert (config.schedule.start, config.schedule.cycles, config.schedule.seed) == (10, 30, 42)
    assert (config.schedule.batch_size, config.schedule.learning_rate) == (5, 1e-4)
    assert config.schedule.decay_start == 10  # the published restart of the learning rate
    assert (config.qc.error, config.qc.revisit) == (0.02, 2)
    clean = composed("experiment=paper_clean", *OWN_DATA)
    assert (clean.schedule.seed, clean.schedule.start, clean.schedule.decay_start) == (40, 0, 0)


@pytest.mark.parametrize("pipeline", ["clean", "dirty", "qc"])
def test_default_schedule_is_the_same_for_clean_dirty_and_qc(pipeline):
    schedule = composed(f"pipeline={pipeline}").schedule
    assert (schedule.seed, schedule.learning_rate, schedule.decay, schedule.decay_start) == (42, 1e-4, 0.1, 0)


@pytest.mark.parametrize(("prefix", "n"), [("demo_", 6), ("field_", 4)])
def test_experiments_of_one_set_share_cohort_and_model(prefix, n):
    """Otherwise its closing table would score models on scans that differ from their training data."""
    configs = [composed(f"experiment={name}") for name in EXPERIMENTS if name.startswith(prefix)]
    assert len(configs) == n
    assert all(config.cohort == configs[0].cohort and config.model == configs[0].model for config in configs)


def test_field_experiments_use_the_published_training_settings():
    published, field = (composed(f"experiment={name}_clean", *OWN_DATA) for name in ("paper", "field"))
    assert field.schedule == published.schedule
    assert (field.model.batchnorm_momentum, field.model.dropout) == (
        published.model.batchnorm_momentum,
        published.model.dropout,
    )


def test_precedence_of_command_line_over_experiment_over_defaults():
    assert composed("experiment=demo_clean").schedule.cycles == 28
    assert composed("experiment=demo_clean", "schedule.cycles=3").schedule.cycles == 3


def test_defaults_in_python_are_those_of_the_composed_settings():
    assert flatten(composed("cohort=csv")) | {"run.name": None} == flatten(Config()) | {
        "run.name": None,
        "schedule.start": 10,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("qc.error=-0.1", "qc.error=-0.1: must be a number from 0 to 1"),
        ("qc.error=nan", "qc.error=nan: must be a number from 0 to 1"),
        ("qc.revisit=0", "qc.revisit=0: must be a number from 1"),
        ("qc.rates=other", "qc.rates=other: must be one of standard, published"),
        ("qc.verify=scan", "qc.verify=scan: must be one of batch, visit"),
        ("schedule.cycles=10", "schedule.cycles=10: must exceed schedule.start=10"),
        ("schedule.learning_rate=0", "schedule.learning_rate=0.0: must be"),
        ("cohort.shape=[160,192]", "cohort.shape=[160, 192]: must be three sizes"),
        ("cohort.shape=[160,192,16]", "of 33 voxels or more"),
        ("cohort.orientation=RAX", "cohort.orientation=RAX: must be three letters"),
        ("cohort.spacing_mm=[1,1,0]", "cohort.spacing_mm=[1.0, 1.0, 0.0]"),
        ("model.filters=[8]", "model.filters=[8]: must be two or more"),
        ("run.precision=float8", "run.precision=float8: must be one of float32"),
        ("run.verify_batch_size=0", "run.verify_batch_size=0: must be auto, or a whole number from 1"),
        ("run.verify_batch_size=fast", "run.verify_batch_size=fast: must be auto, or"),
        ("init.cycle=first", "init.cycle=first: must be the number"),
        ("inference.cycles=some", "inference.cycles=some: must be all, last"),
        ("inference.age_bins=[60,50]", "inference.age_bins=[60.0, 50.0]: must be"),
        ("rivals.names=[loss,lost]", "rivals.names has lost: must be one of random, template"),
        ("rivals.names=[loss,loss]", "rivals.names has loss 2 times: must be once"),
        ("rivals.neighbors=0", "rivals.neighbors=0: must be a number from 1"),
        ("rivals.seed=-1", "rivals.seed=-1: must be a number from 0"),
        ("+qc.foo=1", "qc.foo: there is no such setting"),
        ("+init.foo=1", "init.foo: there is no such setting"),
    ],
)
def test_invalid_value_is_reported_with_the_allowed_values(override, message):
    assert any(message in fault for fault in faults(*OWN_DATA, "init.from=x", override))


@pytest.mark.parametrize("name", ["''", "' '", "..", "a/../../evil", "/evil", "a//b"])
def test_run_name_cannot_lead_outside_of_its_folder(name):
    assert any(f.startswith("run.name=") and "only dots" in f for f in faults(*OWN_DATA, f"run.name={name}"))


@pytest.mark.parametrize("name", ["study/qc-s0", ".hidden", "v1..2"])
def test_run_names_may_be_nested(name):
    validate(composed(*OWN_DATA, "init.from=x", f"run.name={name}"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["qc=screen", "qc.calibrate=true"], "qc.control=screen has none: set it to false"),
        (["qc=screen", "qc.early_stop=true"], "qc.early_stop applies"),
        (["qc=screen", "qc.verify=visit"], "qc.control=screen has none: use batch"),
        (["qc.early_stop=true", "qc.calibrate=true"], "set qc.early_stop=off"),
        (["qc.early_stop=confident", "run.verify_workers=1"], "workers"),
        (["pipeline=qc", "schedule.ema=0.9"], "schedule.ema=0.9: qc.control=steps judges single steps"),
        (["qc.batchnorm=frozen", "schedule.start=0"], "no statistics to keep; set init.from"),
    ],
)
def test_incompatible_settings_are_refused(overrides, message):
    assert any(message in fault for fault in faults(*OWN_DATA, "init.from=x", *overrides))


def test_early_stop_still_accepts_a_boolean():
    validate(composed(*OWN_DATA, "init.from=x", "qc.early_stop=true", "run.verify_batch_size=auto"))
    assert [composed(f"qc.early_stop={word}").qc.early_stop for word in ("true", "false")] == ["certain", "off"]


@pytest.mark.parametrize("gate", ["default", "loss"])
def test_settings_compatible_with_verification_by_visit(gate):
    more = ["qc.early_stop=true", "qc.strikes=2", "run.verify_workers=1", "schedule.local_epochs=2"]
    validate(composed(*OWN_DATA, "init.from=x", "qc.verify=visit", f"qc={gate}", *more))


def test_all_faults_are_reported_at_once():
    found = faults("qc.error=2", "qc.revisit=0", "model.dropout=1.5")
    assert {f.split("=")[0].split(" ")[0] for f in found} >= {
        "qc.error",
        "qc.revisit",
        "model.dropout",
        "init.from",
        "cohort.train_csv",
        "cohort.verification_csv",
    }


def test_clean_run_refuses_harmful_data():
    assert any("pipeline=clean trains without" in f for f in faults(*OWN_DATA, "pipeline=clean", "harmful=centers"))


@pytest.mark.parametrize("start", [0, 10])
def test_rivals_require_a_pretrained_model(start):
    found = faults(*OWN_DATA, "pipeline=rivals", f"schedule.start={start}")
    assert [f for f in found if "init.from" in f] == [f for f in found if "scores scans with a pre-trained model" in f]
    validate(composed(*OWN_DATA, "pipeline=rivals", "init.from=x"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("qc.eror=1", "qc.eror: there is no such setting; did you mean qc.error? qc has control, error, revisit"),
        ("modell=sfcn", "modell: there is no such setting; did you mean model?"),
        ("model=resnet", "model=resnet: must be one of sfcn, sfcn_field, sfcn_small"),
        ("experiment=feild_qc", "experiment=feild_qc: did you mean field_qc? It must be one of demo_clean, "),
        ("qc=null", "a group, such as qc or experiment, needs the name of an option"),
        ("qc.error=high", "qc.error=high: must be a number"),
        ("qc.revisit=1.5", "qc.revisit=1.5: must be a whole number"),
        ("run.overwrite=perhaps", "run.overwrite=perhaps: must be true or false"),
        ("cohort.shape=40", "cohort.shape=40: must be a list"),
        ("schedule.cycles=null", "schedule.cycles=null: must be a value, not null"),
        ("~schedule.cycles", "schedule.cycles: a setting cannot be removed"),
        ("cycles=2", "cycles: there is no such setting; did you mean schedule.cycles?"),
    ],
)
def test_hydra_errors_are_explained(override, message):
    with pytest.raises(Exception, match=".") as caught:
        composed(override)
    assert explain(caught.value) == [message] or message in explain(caught.value)[0]


@pytest.mark.parametrize(
    ("group", "text", "message"),
    [
        (
            "qc",
            "defaults: [default]\nreviset: 3\n",
            "qc/mine.yaml: qc.reviset: there is no such setting; did you mean qc.r",
        ),
        ("qc", "defaults: [default]\nerror: high\n", "qc/mine.yaml: qc.error: must be a number"),
        ("experiment", "qc:\n  error: 0.1\n", "experiment/mine.yaml: its first line must be `# @package _global_`"),
        ("qc", "error:\t[1\n", "mine.yaml"),
    ],
)
def test_faults_of_own_files_are_explained(tmp_path, group, text, message):
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(text)
    with pytest.raises(Exception, match=".") as caught, initialize_config_dir(str(conf_dir()), version_base="1.3"):
        compose("config", [f"{group}=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert message in explain(caught.value)[0]


def test_options_in_the_schema_equal_the_registered_ones():
    assert (tuple(RATES), tuple(KINDS), tuple(SCENARIOS)) == (schema.RATES, schema.KINDS, schema.SCENARIOS)
    assert (tuple(RIVALS), tuple(TABLES)) == (schema.RIVALS, schema.CENTER_TABLES)
    assert set(schema.PIPELINES) == set(PIPELINES)


def test_flatten_gives_every_setting_by_name():
    flat = flatten(Config())
    assert flat["qc.error"] == 0.02
    assert flat["model.filters"] == "[32, 64, 128, 256, 256, 64]"
    assert flat["init.from"] is None
    assert flat["cohort.phantom.centers"] == "demo"


def test_conf_is_next_to_the_package_in_a_clone():
    assert conf_dir() == Path(__file__).resolve().parents[1] / "conf"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("error: 0.02\n", "default.yaml: revisit is missing; its default stands there"),
        ("error: [0.02\n", "default.yaml: while parsing"),
        ("0.02\n", "default.yaml: Invalid loaded object type: float"),
        (None, "No such file"),
    ],
)
def test_default_that_cannot_be_read_names_its_file(tmp_path, monkeypatch, text, fault):
    monkeypatch.setattr(defaults, "conf_dir", lambda: tmp_path)
    if text is not None:
        (tmp_path / "default.yaml").write_text(text)

    class Gate:
        error: float = within(0.0, 1.0)
        revisit: int = within(1, 9)

    with pytest.raises(SettingsError, match=fault):
        defaults.defaults_from("default")(Gate)


def test_lists_among_the_defaults_are_not_shared():
    ModelConfig().filters.append(1)
    assert ModelConfig().filters == [32, 64, 128, 256, 256, 64]
