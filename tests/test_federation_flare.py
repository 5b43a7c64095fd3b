"""Sites as processes under NVIDIA FLARE: identical runs despite faults, and refused certificates."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_federation import ALIKE, GATES, assert_same_run, outputs, same_control  # noqa: F401
from test_pipelines import START, harm_overrides, run_pipeline
from test_resume import SAVE_ALWAYS
from tiny import CENTERS, tiny_overrides

from tmqc.data.cohort import read_cohort
from tmqc.federation.caller import FederationError
from tmqc.federation.site_settings import write_sites
from tmqc.runs.checkpoint import checkpoint_path, load_checkpoint
from tmqc.settings.schema import FederationConfig

pytest.importorskip("nvflare")
from tmqc.federation import flare_system

pytestmark = pytest.mark.federation

PATIENCE_S = 600.0  # long, because the machine may be busy
SHUT_OUT = re.compile("certificate verify failed|CERTIFICATE_VERIFY_FAILED|alert unknown ca", re.IGNORECASE)
AWAY = "is not reachable|gave no answer|is not connected"
N_SCANS = 4 * len(CENTERS)  # of the verification split


@pytest.fixture(scope="module")
def here(outputs, cohort_csvs):  # noqa: F811
    """The run in one process, with rejected steps in all phases and eliminated scans."""
    run = run_pipeline(
        outputs, cohort_csvs, "pipeline=qc", *harm_overrides(outputs), *GATES["published"], *ALIKE, name="flare-here"
    )
    trace = pd.read_csv(run / "trace.csv", keep_default_na=False)
    assert set(trace[trace["Ignored"] == 1]["Phase"]) == {"batch", "retry", "revisit"}
    assert json.loads((run / "ledger.json").read_text())["eliminated"]
    return run


def test_run_under_the_simulator_equals_the_run_in_one_process(outputs, cohort_csvs, here):  # noqa: F811
    settings = ["pipeline=qc", *harm_overrides(outputs), *GATES["published"], *ALIKE]
    settings += ["federation=nvflare-sim", "federation.min_cell=1"]
    assert_same_run(here, run_pipeline(outputs, cohort_csvs, *settings, name="flare-sim"))


def test_run_with_flare_poc_equals_the_run_in_one_process(outputs, cohort_csvs):  # noqa: F811
    settings = ["pipeline=dirty", *ALIKE, *[s for s in harm_overrides(outputs) if "cycles" not in s]]
    settings.append(f"schedule.cycles={START + 1}")
    alone = run_pipeline(outputs, cohort_csvs, *settings, name="poc-here")
    remote = run_pipeline(
        outputs, cohort_csvs, *settings, "federation=nvflare-poc", "federation.n_sites=2", name="poc-sites"
    )
    one, other = (load_checkpoint(checkpoint_path(run, START)).state for run in (alone, remote))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    cycles = [pd.read_csv(run / "cycles.csv") for run in (alone, remote)]
    for name in ("verify/tp", "verify/fp", "verify/tn", "verify/fn", "train/steps"):
        assert list(cycles[0][name]) == list(cycles[1][name])


class Federation:
    """A running FLARE system as in production, with an admin kit and sites that fail on demand."""

    def __init__(self, folder, csvs, outputs):  # noqa: F811
        cohort = read_cohort(train_csv=csvs["train"], verification_csv=csvs["verification"], test_csv=None)
        rows = {"train": cohort.train, "verification": cohort.verification}
        self.sites, self.faults = folder / "sites", folder / "faults"
        files = write_sites(self.sites, FederationConfig(n_sites=2, min_cell=1), **rows)
        self.faults.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMQC_TEST_FAULTS", str(self.faults))
            unreliable = Path(__file__).parent / "unreliable"
            patch.setenv("PYTHONPATH", os.pathsep.join([str(unreliable), *os.environ.get("PYTHONPATH", "").split(":")]))
            self.environment = dict(os.environ)
            self.system = flare_system.System(folder / "flare", files)
            self.system.begin(["site-1"])
        self._outputs = outputs
        self.settings = [
            *(
                "pipeline=qc",
                *[s for s in harm_overrides(outputs) if not s.startswith("harmful")],
                *GATES["published"],
                *ALIKE,
            ),
            *(
                "federation=nvflare",
                f"federation.sites=[{','.join(files)}]",
                "federation.pause_s=1",
                "federation.timeout_s=30",
            ),
            *(f"federation.admin_kit={self.system.admin}", SAVE_ALWAYS),
        ]

    def spoil(self, *names):
        for name in names:
            (self.faults / name).touch()

    def restart(self, name):
        self.system.kill(name)
        self.start(name)

    def start(self, name):
        with pytest.MonkeyPatch.context() as patch:
            for variable in ("TMQC_TEST_FAULTS", "PYTHONPATH"):
                patch.setenv(variable, self.environment[variable])
            self.system.start(name)

    def run_pipeline(self, *overrides, name):
        return run_pipeline(self._outputs, {}, *self.settings, *overrides, name=name)

    def spawn(self, *overrides, name):
        """Start the same run in a separate process."""
        settings = (*tiny_overrides({}, self._outputs), f"run.name={name}", *self.settings, *overrides)
        command = {setting.partition("=")[0]: setting for setting in settings}.values()
        with (self._outputs / f"{name}.out").open("wb") as out:
            return subprocess.Popen([sys.executable, "-m", "tmqc", *command], stdout=out, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def federation(tmp_path_factory, cohort_csvs, outputs, here):  # noqa: F811
    csvs = cohort_csvs | {"train": here / "harmful" / "train.csv"}
    federation = Federation(tmp_path_factory.mktemp("real"), csvs, outputs)
    yield federation
    federation.system.stop()


class Script(logging.Handler):
    """Executes actions in order, each as soon as the run logs a matching message; independent of timing."""

    def __init__(self, *acts):
        super().__init__()
        self.acts, self.messages = list(acts), []

    def emit(self, record):
        self.messages.append(record.getMessage())
        if self.acts and re.search(self.acts[0][0], self.messages[-1]):
            self.acts.pop(0)[1]()

    def __enter__(self):
        logging.getLogger("tmqc").addHandler(self)
        return self

    def __exit__(self, *error):
        logging.getLogger("tmqc").removeHandler(self)

    def count(self, pattern):
        return sum(re.search(pattern, text) is not None for text in self.messages)


def wait_until(condition, process):
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, "the run ended"
        assert time.monotonic() < until
        time.sleep(0.2)


def lines_of(path):
    return path.read_text().splitlines() if path.exists() else []


def test_faults_of_sites_and_servers_do_not_change_the_result(here, federation):
    """Site absent at the start, invalid answers, hanging, dying; tmqc and FLARE's server killed: same results.

    The first part runs in a separate process, which is killed; the second stops at the first fault.
    """
    name = "whatever"
    run = here.parent / name
    process = federation.spawn(name=name)
    wait_until(lambda: any("site site-2: is not connected" in line for line in lines_of(run / "run.log")), process)
    federation.start("site-2")
    wait_until(lambda: len(lines_of(run / "trace.csv")) > 4, process)
    process.kill()
    process.wait()

    federation.spoil("site-1.verify.0-garbage")
    with pytest.raises(FederationError, match=r"site site-1: its answer to verify.*\n.*the same command resumes it"):
        federation.run_pipeline("federation.on_fault=stop", name=name)

    federation.spoil("site-1.verify.0-nan", "site-1.train.0-stop", "site-2.train.0-die")
    restart = ("site-1: its answer to verify is invalid", lambda: federation.restart(flare_system.SERVER))
    with Script(restart) as script:
        federation.run_pipeline(name=name)
    assert not script.acts
    assert not list(federation.faults.iterdir())
    assert all(script.count(f"{site}: ({AWAY})") for site in ("site-1", "site-2"))
    same_control(here, run, federation.sites)
    trace = pd.read_csv(run / "trace.csv", keep_default_na=False)
    assert (trace["WaitedSeconds"] > 0).sum() >= 3
    assert set(trace["Scored"]) == {N_SCANS}
    assert set(trace["Missing"]) == {""}


def test_visit_to_a_dead_site_is_skipped_and_verification_waits(federation):
    """The omitted visit has a row in the trace, and every verdict is based on all verification scans."""

    def come_back():
        federation.restart("site-2")
        federation.system.wait_for(["site-2"])

    federation.spoil("site-2.train.0-leave")
    settings = ["federation.on_fault=skip", f"schedule.cycles={START + 2}"]
    with Script((f"site-2: ({AWAY})", come_back)) as script:
        run = federation.run_pipeline(*settings, name="skip")
    assert not script.acts
    trace = pd.read_csv(run / "trace.csv", keep_default_na=False)
    away = trace[trace["Phase"] == "away"]
    assert len(away) >= 1
    assert set(away["Study"]) <= {"Gamma", "Delta"}
    assert set(away["Missing"]) == {"site-2"}
    judged = trace[trace["Phase"] != "away"]
    assert set(judged["Scored"].astype(int)) == {N_SCANS}
    assert set(judged["Missing"]) == {""}


def test_connection_made_while_a_session_closes_does_not_hold_it_forever():
    """FLARE's shutdown misses it, and waits for its thread."""
    made, ended = Event(), Event()
    connector = SimpleNamespace(stopped=made, driver=SimpleNamespace(shutdown=ended.set))
    communicator = SimpleNamespace(conn_manager=SimpleNamespace(connectors={"one": connector}))
    api = SimpleNamespace(cell=SimpleNamespace(core_cell=SimpleNamespace(communicator=communicator)))

    def close():
        made.set()
        assert ended.wait(PATIENCE_S)

    flare_system.close_session(SimpleNamespace(api=api, close=close))
    assert ended.is_set()


def test_certificates_of_another_authority_are_refused(federation, tmp_path):
    """A client and an administrator with kits from another certificate authority."""
    system = federation.system
    others = flare_system.provision(tmp_path / "other", ["site-9"])
    for name, file in (("site-9", "fed_client.json"), (flare_system.ADMIN, "fed_admin.json")):
        ours = system.kits / {"site-9": "site-1"}.get(name, name) / "startup" / file
        (others / name / "startup" / file).write_text(ours.read_text().replace("site-1", name))
    shutil.copytree(others / "site-9", system.kits / "site-9")
    system.start("site-9")
    log, until = system.kits / "site-9.log", time.monotonic() + PATIENCE_S
    while not SHUT_OUT.search(log.read_text()) and time.monotonic() < until:
        time.sleep(0.5)
    assert SHUT_OUT.search(log.read_text()), log.read_text()[-2000:]
    session = flare_system._log_in(system.admin, timeout_s=PATIENCE_S)
    assert "site-9" not in flare_system._connected(session)
    flare_system.close_session(session)
    with pytest.raises(flare_system.FlareError, match="no FLARE server accepts"):
        flare_system._log_in(others / flare_system.ADMIN, timeout_s=0)
