"""Faults of sites (absence, hanging, invalid answers, lost state): retried, skipped, or the run ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_travel import ScriptedCenters, controlled, plan
from tiny import logistic_learner

from tmqc.core.records import AWAY, BATCH, RETRY, REVISIT
from tmqc.data.cohort import Subject
from tmqc.data.volumes import Volumes
from tmqc.errors import RunError
from tmqc.federation.caller import Caller, FederationError
from tmqc.federation.messages import STATE, NoAnswer, decode_message, encode_message
from tmqc.federation.remote import RemoteCenters, open_sites
from tmqc.federation.site import Site
from tmqc.federation.site_settings import TOKENS, read_site_settings, read_tokens, write_sites
from tmqc.pipelines.setup import _check_unchanged
from tmqc.runs.trace import TRAFFIC_COLUMNS, TraceWriter
from tmqc.settings.schema import Config, FederationConfig, QcConfig
from tmqc.training.centers import LocalCenters
from tmqc.training.control import ControlledTravel
from tmqc.training.interfaces import AwayError

N_VOXELS = 4
OPEN = {"task": "open", "settings": "{}"}
SITES = ("site-1", "site-2", "site-3")


def rows(split, n):
    """Three centers, one per site, with `n` scans each."""
    return [
        Subject(f"{center}-{split}-{i}", Path(f"/nowhere/{center}-{split}-{i}.nii.gz"), center, i % 2, "F", 50.0, None)
        for center in "ABC"
        for i in range(n)
    ]


def build_centers(settings, cohort):
    """Replaces the run's model and scan files by a logistic regression on random scans."""
    subjects = [*cohort.verification, *cohort.train]
    seeds = [sum(s.subject.encode()) for s in subjects]
    voxels = [np.random.default_rng(seed).normal(size=(N_VOXELS, 1, 1, 1)) for seed in seeds]
    volumes = np.array([v + (s.group - 0.5) for v, s in zip(voxels, subjects, strict=True)], np.float32)[..., None]
    return LocalCenters(
        logistic_learner(N_VOXELS, weights=[0.3, -0.2, 0.1, 0.4]),
        train=cohort.train,
        verification=cohort.verification,
        volumes=Volumes(volumes[..., 0], [s.subject for s in subjects]),
        verify_batch_size=1,
    )


@pytest.fixture(scope="module", autouse=True)
def _logistic_models():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tmqc.federation.site.build_centers", build_centers)
        yield


class Unreliable:
    """Transport with scripted faults: each answer of a site consumes the first entry of `faults[site]`."""

    def __init__(self, files):
        self.sites = {name: Site(read_site_settings(path)) for name, path in files.items()}
        self.faults, self.requests = {}, []

    def __call__(self, requests, timeout_s):
        return {site: self.ask(site, data) for site, data in requests.items()}

    def ask(self, site, data):
        self.requests.append((site, decode_message(data)["task"], data))
        spoil = self.faults[site].pop(0) if self.faults.get(site) else None
        if spoil == "silent":
            return NoAnswer("gave no answer within 1 s")
        answer = self.sites[site].handle(data)
        return spoil(answer) if callable(spoil) else answer

    def asked(self, site):
        """Tasks of the site's requests so far."""
        return [task for name, task, _ in self.requests if name == site]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    return write_sites(
        folder,
        FederationConfig(n_sites=3, min_cell=1),
        train=rows("train", 4),
        verification=rows("verify", 5),
    )


@pytest.fixture(scope="module")
def opened(files):
    transport = Unreliable(files)
    sites = open_sites(Caller(transport, FederationConfig(), check_stop=lambda: None), SITES, Config())
    return transport, sites, transport.sites["site-1"].centers.learner.state()


@pytest.fixture
def remote(opened):
    """Returns a function that makes centers with the given rules, from the same state and sites."""
    transport, sites, state = opened
    transport.faults, transport.requests = {}, []

    def make(*, check_stop=lambda: None, **rules):
        caller = Caller(transport, FederationConfig(**{"pause_s": 0.0} | rules), check_stop=check_stop)
        caller.ask(dict.fromkeys(SITES, OPEN), lambda site, reply: None, parts={})
        transport.requests.clear()
        return transport, RemoteCenters(caller, sites, state, n_moments=2)

    return make


def step(centers, center="B"):
    tokens = {c: t for one in centers._sites.values() for c, t in one.subjects.items()}
    return centers.train(center, tokens[center][:2], learning_rate=0.1)


def with_fields(**fields):
    return lambda data: encode_message(decode_message(data) | fields)


def test_tokens_are_drawn_once_and_stored_with_private_permissions(files, opened):
    for path in files.values():
        tokens = read_tokens(path.with_name(TOKENS))
        again = Site(read_site_settings(path)).tokens
        assert all(tokens[subject] == token for subject, token in again.of.items())
        assert path.with_name(TOKENS).stat().st_mode & 0o077 == 0
        assert all(len(token) == 16 for token in again.of.values())


def test_states_are_sent_once_and_restoring_sends_nothing(remote):
    transport, centers = remote()
    before = centers.snapshot()
    first = centers.verify()
    step(centers)
    second = centers.verify()
    centers.restore(before)
    transport.requests.clear()
    assert centers.verify() == first
    assert step(centers).loss > 0
    assert not [name for *_, data in transport.requests for name in decode_message(data) if name.startswith(STATE)]
    assert centers.verify() == second


@pytest.mark.parametrize(
    "faults",
    [
        ["silent", "silent"],
        [lambda data: b"garbage", lambda data: data[:40]],
        [with_fields(loss_sums=np.array([np.nan])), with_fields(counts=np.array([[1.0, 2.0, 3.0, 4.0]]))],
        [with_fields(counts=np.array([[9, 0, 0, 0]])), with_fields(flips=np.array([[9, 0, 0, 0]]))],
        [with_fields(predictions=np.zeros(5)), with_fields(counts=np.array([[-1, 3, 3, 0]]))],
        [lambda data: encode_message({"error": "failed", "detail": ["MemoryError"]})],
    ],
    ids=["silent", "garbage", "nan", "impossible", "forbidden", "failed"],
)
def test_site_with_a_missing_or_invalid_answer_is_asked_again(remote, caplog, faults):
    transport, centers = remote()
    expected = centers.verify()
    transport.faults["site-2"] = list(faults)
    assert centers.verify() == expected
    asked = [len(transport.asked(site)) for site in SITES]
    assert asked == [2, 2 + len(faults), 2]  # a site that has answered is not asked again
    assert caplog.text.count("site site-2:") == (1 if faults == ["silent", "silent"] else len(faults))
    traffic = centers.traffic()
    assert traffic.waited_s > 0
    assert traffic.missing == []


def test_state_that_changed_in_transit_is_requested_again(remote):
    transport, centers = remote()
    name = "classifier/pd/kernel"

    def change(data):
        reply = decode_message(data)
        field = next(field for field in reply if field.endswith(name) and "optimizer" not in field)
        return encode_message(reply | {field: reply[field] + 1})

    transport.faults["site-2"] = [change]
    step(centers)
    assert transport.asked("site-2") == ["train", "train"]
    assert centers.state()[name].shape == (N_VOXELS, 1)


def test_restarted_site_is_sent_the_states_again(remote, files):
    transport, centers = remote()
    centers.verify()
    centers.hold_reference()
    step(centers)
    expected = centers.verify()
    transport.sites["site-2"] = Site(read_site_settings(files["site-2"]))
    transport.requests.clear()
    assert centers.verify() == expected
    assert transport.asked("site-2") == ["verify", "open", "verify"]


OTHERS = [{"min_cell": 3}, {"share_margins": True}, {"share_scores": True}, {"verification_csv": None}]


@pytest.mark.parametrize("other", OTHERS, ids=["min_cell", "share_margins", "share_scores", "tables"])
def test_site_restarted_with_other_settings_ends_the_run(remote, files, monkeypatch, other):
    transport, centers = remote()
    centers.verify()
    settings = replace(read_site_settings(files["site-2"]), **other)
    monkeypatch.setitem(transport.sites, "site-2", Site(settings))
    with pytest.raises(
        FederationError, match="site site-2: its tables, min_cell, share_margins or share_scores have changed"
    ):
        centers.verify()


def test_open_reply_of_a_restarted_site_is_validated(opened, files, monkeypatch):
    transport, _, state = opened
    caller = Caller(transport, FederationConfig(on_fault="stop"), check_stop=lambda: None)
    centers = RemoteCenters(caller, open_sites(caller, SITES, Config()), state, n_moments=2)
    monkeypatch.setitem(transport.sites, "site-2", Site(read_site_settings(files["site-2"])))
    transport.faults = {"site-2": [None, with_fields(n_hc=[-3])]}
    with pytest.raises(FederationError, match="site site-2: its answer to open is invalid: negative counts"):
        centers.verify()


def test_run_with_changed_site_settings_is_not_resumed(opened, tmp_path):
    _, sites, _ = opened
    _check_unchanged(sites, SimpleNamespace(directory=tmp_path, point=None))
    going_on = SimpleNamespace(directory=tmp_path, point=object())
    _check_unchanged(sites, going_on)
    with pytest.raises(RunError, match="the tables, min_cell, share_margins or share_scores of site site-1 have"):
        _check_unchanged([replace(sites[0], digest="another"), *sites[1:]], going_on)


def test_run_stops_with_on_fault_stop_or_when_patience_ends(remote):
    transport, centers = remote(on_fault="stop")
    transport.faults["site-3"] = ["silent"]
    with pytest.raises(FederationError, match=r"site site-3: gave no answer within 1 s\n.*on_fault=stop"):
        centers.verify()
    transport, centers = remote(patience_s=0.0)
    transport.faults["site-3"] = ["silent"] * 3
    with pytest.raises(FederationError, match="longer than federation.patience_s=0"):
        centers.verify()


def test_waiting_run_can_be_stopped(remote):
    def stop():
        raise KeyboardInterrupt

    transport, centers = remote(check_stop=stop)
    transport.faults["site-1"] = ["silent"] * 9
    with pytest.raises(KeyboardInterrupt):
        centers.verify()


def test_skip_omits_a_visit_but_verification_waits(remote):
    transport, centers = remote(on_fault="skip")
    transport.faults["site-2"] = ["silent"]
    before = centers.snapshot()
    with pytest.raises(AwayError, match="center B does not respond"):
        step(centers)
    assert centers.snapshot() is before
    whole = centers.verify()
    transport.faults["site-2"] = ["silent"]
    assert centers.verify() == whole  # waited for the site


def test_skipped_site_is_not_asked_again_before_the_pause_is_over(remote):
    transport, centers = remote(on_fault="skip", pause_s=1e6)
    transport.faults["site-2"] = ["silent"]
    for _ in range(2):  # it would answer the second time
        with pytest.raises(AwayError, match="center B does not respond"):
            step(centers)
    assert centers.traffic().missing == ["site-2", "site-2"]
    centers.verify()  # asks all sites, and site-2 answers
    step(centers)


def test_sites_refuse_small_groups_and_unshared_values(files, remote, tmp_path):
    _, centers = remote()
    with pytest.raises(FederationError, match="share_margins"):
        centers.margins("A", ["x"])
    with pytest.raises(FederationError, match="share_scores"):
        centers.score_verification()
    laid = write_sites(
        tmp_path,
        FederationConfig(n_sites=2, min_cell=6, share_margins=True),
        train=rows("train", 4),
        verification=rows("verify", 5),
    )
    caller = Caller(Unreliable(laid), FederationConfig(pause_s=0.0), check_stop=lambda: None)
    sites = open_sites(caller, list(laid), Config())
    assert [(one.groups, one.left_out) for one in sites] == [({}, True), ({"B+C": (6, 4)}, False)]
    centers = RemoteCenters(caller, sites, centers.state(), n_moments=2)
    assert centers.verify().counts.n == 10
    assert step(centers).loss is None
    tokens = sites[1].subjects["B"]
    assert len(centers.margins("B", tokens)) == 4
    with pytest.raises(FederationError, match="site site-2 refuses: a token that occurs more than once"):
        # min_cell is 6: the loss of a single scan would be revealed
        centers.train("B", tokens[:1] * 6, learning_rate=0.1)
    with pytest.raises(FederationError, match="more than once"):
        centers.margins("B", tokens[:1] * 2)


def verification_of(sizes):
    return [
        Subject(f"{center}-{i}", Path(f"/nowhere/{center}-{i}.nii.gz"), center, i % 2, "F", 50.0, None)
        for center, n in sizes.items()
        for i in range(n)
    ]


def test_center_named_like_a_combined_group_loses_no_scan(remote, tmp_path):
    _, centers = remote()
    table = verification_of({"A+B": 10, "A": 3, "B": 3})
    laid = write_sites(tmp_path, FederationConfig(n_sites=1, min_cell=5), train=[], verification=table)
    caller = Caller(Unreliable(laid), FederationConfig(pause_s=0.0), check_stop=lambda: None)
    sites = open_sites(caller, list(laid), Config())
    assert sites[0].groups == {"A+B": (5, 5), "A+B (together)": (4, 2)}
    assert RemoteCenters(caller, sites, centers.state(), n_moments=2).verify().counts.n == 16


@pytest.mark.parametrize(
    "twice",
    [
        {"centers": ["A", "A"], "tokens": [["1"], ["2"]]},
        {"groups": ["A", "A"], "n_hc": [3, 3], "n_pd": [2, 2]},
    ],
    ids=["centers", "groups"],
)
def test_duplicate_center_or_group_in_a_reply_raises(opened, twice):
    transport, _, _ = opened
    transport.faults = {"site-1": [with_fields(**twice)]}
    caller = Caller(transport, FederationConfig(on_fault="stop"), check_stop=lambda: None)
    with pytest.raises(FederationError, match="site site-1: .* a center or a group occurs twice"):
        open_sites(caller, SITES, Config())


class Leaving(ScriptedCenters):
    """Centers of which one is absent at the given training requests, counted from 0."""

    def __init__(self, harm, center, away):
        super().__init__(harm)
        self._center, self._away, self._n = center, set(away), -1

    def train(self, center, subjects, *, learning_rate):
        self._n += center == self._center
        if center == self._center and self._n in self._away:
            raise AwayError(center)
        return super().train(center, subjects, learning_rate=learning_rate)


SUBJECTS = {"A": ("a1", "a2"), "B": ("b1", "b2", "b3", "b4")}


def harm_of_b1(state):
    return 50 if any("b1" in batch for batch in state) else 0


def test_visit_ends_with_an_away_row_when_its_center_is_absent():
    # the batch is rejected; the center is absent at the second of its four scans
    centers = Leaving(harm_of_b1, "B", away=[2])
    run, reports, steps = controlled(SUBJECTS, centers, cycles=1, batch_size=4, error=0.0)
    of_b = [(s.phase, len(s.subjects)) for s in steps if s.center == "B"]
    assert of_b == [(BATCH, 4), (RETRY, 1), (AWAY, 1)]
    assert (reports[0].n_batches, reports[0].n_batches_rejected) == (2, 1)
    assert all(s.accepted or s.subjects == ("b1",) for s in steps if s.phase == RETRY)
    assert set(run.ledger.waiting(0)) <= {"b1"}


def test_revisit_of_an_absent_center_is_postponed_without_a_strike():
    # batch and retry are rejected; the center is absent at the first revisit
    centers = Leaving(harm_of_b1, "B", away=[2])
    run, reports, steps = controlled({"B": ("b1",)}, centers, cycles=3, batch_size=1, error=0.0, revisit=1)
    phases = [(s.cycle, s.phase) for s in steps if s.center == "B"]
    assert phases == [(0, BATCH), (0, RETRY), (1, AWAY), (2, REVISIT)]
    assert [report.n_waiting for report in reports] == [1, 1, 0]
    assert run.ledger.eliminated == ("b1",)


def test_trace_has_rows_for_omitted_visits(tmp_path):
    cells = dict(zip(TRAFFIC_COLUMNS, (10, 20, 0.5, 1.5, "site-2"), strict=True))
    trace = TraceWriter(tmp_path / "trace.csv", traffic=lambda: cells)
    centers = Leaving(lambda state: 0, "B", away=[0])
    list(ControlledTravel(plan(SUBJECTS, cycles=1, batch_size=2, qc=QcConfig()), centers, trace).cycles())
    table = pd.read_csv(tmp_path / "trace.csv", keep_default_na=False)
    away = table[table["Phase"] == AWAY].iloc[0]
    assert (away["Study"], away["Subject"], away["TP"], away["Ignored"]) == ("B", "batch", "", "")
    assert set(table["Missing"]) == {"site-2"}
