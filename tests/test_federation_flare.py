"""Sites as processes under NVIDIA FLARE: the same run, faults, and who is let in."""

from __future__ import annotations

import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_federation import ALIKE, GATES, outputs, same  # noqa: F401
from test_pipelines import START, go, harm

from tmqc.checkpoint import checkpoint_path, load_checkpoint
from tmqc.data.cohort import Subject, read_cohort
from tmqc.federation.simulated import lay_out

pytest.importorskip("nvflare")
from tmqc.federation import flare_system

pytestmark = pytest.mark.federation

SHUT_OUT = re.compile("certificate verify failed|CERTIFICATE_VERIFY_FAILED|alert unknown ca", re.IGNORECASE)
SIMULATED = ["federation=nvflare-sim", "federation.min_cell=1"]


def test_a_run_under_the_simulator_is_the_run_in_one_process(outputs, cohort_csvs):  # noqa: F811
    settings = ["pipeline=qc", *harm(outputs), *GATES["published"], *ALIKE]
    here = go(outputs, cohort_csvs, *settings, name="flare-here")
    remote = go(outputs, cohort_csvs, *settings, *SIMULATED, name="flare-sim")
    same(here, remote)


@pytest.fixture
def files_of_one(tmp_path):
    rows = {
        split: [
            Subject(f"{split}-{i}", Path(f"/nowhere/{split}-{i}.nii.gz"), "A", i % 2, None, None, None) for i in (0, 1)
        ]
        for split in ("train", "verification")
    }
    return lay_out(tmp_path / "sites", **rows, n_sites=1, min_cell=1, share_margins=False)


class Watched(flare_system.System):
    """Kills the process of one site, and with it all it started, as soon as the run has told of some steps."""

    trace, after, victim = None, 6, "site-2"

    def __init__(self, folder, files):
        super().__init__(folder, files)
        self.told = []
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        while not self.trace.exists() or len(self.trace.read_text().splitlines()) < self.after:
            time.sleep(0.05)
        self.kill(self.victim)
        self.told.append(len(self.trace.read_text().splitlines()))
        time.sleep(3.0)
        self.start(self.victim)
        self.told.append("back")


def test_a_site_that_dies_mid_visit_and_comes_back_changes_nothing(outputs, cohort_csvs, monkeypatch, caplog):  # noqa: F811
    """Separate processes, certificates, sockets: server, three sites; one is killed while the run is under way."""
    systems = []

    class Kept(Watched):
        trace = outputs / "qc" / "flare-poc" / "trace.csv"

        def __init__(self, folder, files):
            super().__init__(folder, files)
            systems.append(self)

    monkeypatch.setattr(flare_system, "System", Kept)
    settings = ["pipeline=qc", *harm(outputs), *GATES["published"], *ALIKE]
    here = outputs / "qc" / "flare-here"
    if not here.exists():
        go(outputs, cohort_csvs, *settings, name="flare-here")
    poc = ["federation=nvflare-poc", "federation.min_cell=1", "federation.timeout_s=120", "federation.pause_s=5"]
    remote = go(outputs, cohort_csvs, *settings, *poc, name="flare-poc")
    [system] = systems
    assert system.told[1:] == ["back"]
    same(here, remote)
    assert "site site-2: is gone" in caplog.text or "site site-2: gave no answer" in caplog.text
    waited = pd.read_csv(remote / "trace.csv")["WaitedSeconds"]
    assert (waited > 0).sum() >= 1


def test_a_real_federation_needs_no_table_on_the_server(outputs, cohort_csvs, tmp_path):  # noqa: F811
    """As in production: the system is there already, and tmqc has an administrator's kit and names, nothing else."""
    cohort = read_cohort(train_csv=cohort_csvs["train"], verification_csv=cohort_csvs["verification"], test_csv=None)
    rows = {"train": cohort.train, "verification": cohort.verification}
    files = lay_out(tmp_path / "sites", **rows, n_sites=2, min_cell=5, share_margins=False)
    system = flare_system.System(tmp_path / "flare", files)
    try:
        settings = ["pipeline=dirty", f"schedule.start={START}", f"schedule.cycles={START + 1}", *ALIKE]
        settings += [f"init.from={outputs}/clean/c"]
        here = go(outputs, cohort_csvs, *settings, name="real-here")
        real = ["federation=nvflare", f"federation.sites=[{','.join(files)}]", f"federation.admin_kit={system.admin}"]
        remote = go(outputs, {}, *settings, *real, name="real-sites")
    finally:
        system.stop()
    one, other = (load_checkpoint(checkpoint_path(run, START)).state for run in (here, remote))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    cycles = [pd.read_csv(run / "cycles.csv") for run in (here, remote)]
    for name in ("tp", "fp", "tn", "fn", "n_steps"):
        assert list(cycles[0][name]) == list(cycles[1][name])


def test_nobody_is_let_in_by_certificates_of_another_authority(tmp_path, files_of_one):
    """A client and an administrator with kits that somebody else's authority made."""
    system = flare_system.System(tmp_path / "flare", files_of_one)
    try:
        others = flare_system.provision(tmp_path / "other", ["site-9"])
        for name, file in (("site-9", "fed_client.json"), (flare_system.ADMIN, "fed_admin.json")):
            ours = system.kits / {"site-9": "site-1"}.get(name, name) / "startup" / file
            (others / name / "startup" / file).write_text(ours.read_text().replace("site-1", name))
        shutil.copytree(others / "site-9", system.kits / "site-9")
        system.start("site-9")
        log, until = system.kits / "site-9.log", time.monotonic() + 120
        while not SHUT_OUT.search(log.read_text()) and time.monotonic() < until:
            time.sleep(0.5)
        assert SHUT_OUT.search(log.read_text()), log.read_text()[-2000:]
        session = flare_system._log_in(system.admin, timeout_s=60)
        assert flare_system._connected(session) == {"site-1"}
        session.close()
        with pytest.raises(flare_system.FlareError, match="no FLARE server lets"):
            flare_system._log_in(others / flare_system.ADMIN, timeout_s=0)
    finally:
        system.stop()
