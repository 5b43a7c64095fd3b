"""`federation.half_precision`: the model travels to verifications as float16; what is trained is never rounded."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_federation_faults import SITES, Unreliable, rows, step
from test_pipelines import go
from tiny import CENTERS, logistic_learner

from tmqc.core.rates import score
from tmqc.data.volumes import Volumes
from tmqc.federation.caller import Caller, FaultRules, FederationError
from tmqc.federation.half import to_half
from tmqc.federation.messages import STATE, encode, pack_part, split
from tmqc.federation.remote import RemoteCenters, open_sites
from tmqc.federation.simulated import lay_out
from tmqc.federation.site import Equipment, Site
from tmqc.federation.site_settings import read_site_settings

N_VOXELS = 4096  # weights enough for headers to be of no weight


def equip(settings, cohort):
    subjects = [*cohort.verification, *cohort.train]
    seeds = [sum(s.subject.encode()) for s in subjects]
    voxels = [np.random.default_rng(seed).normal(size=(N_VOXELS, 1, 1, 1)) for seed in seeds]
    volumes = np.array([v + 0.05 * s.group for v, s in zip(voxels, subjects, strict=True)], np.float32)
    return Equipment(logistic_learner(N_VOXELS), Volumes(volumes, [s.subject for s in subjects]), 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    return lay_out(
        folder, train=rows("train", 4), verification=rows("verify", 5), n_sites=3, min_cell=1, share_margins=False
    )


@pytest.fixture
def make(files):
    """Sites newly started, and centers there."""

    def made(*, half_precision, state=None):
        transport = Unreliable({name: Site(read_site_settings(path), equip) for name, path in files.items()})
        caller = Caller(transport, FaultRules(pause_s=0.0), check_stop=lambda: None)
        sites = open_sites(caller, SITES, "{}")
        state = state or transport.sites["site-1"]._open.learner.state()
        transport.requests.clear()
        return transport, RemoteCenters(caller, sites, state, half_precision=half_precision)

    return made


def bytes_of(centers, action):
    centers.traffic()
    action()
    return centers.traffic().sent


def states_sent(transport):
    return {site: any(name.startswith(STATE) for name in request) for site, request, _ in transport.requests}


def test_rounding_is_to_nearest_and_of_floats_only():
    part = {"w": np.array([1 + 2**-11, 65504, 1e-9, np.nan], np.float32), "seed": np.array([7, 2**31], np.uint32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rounded = to_half(part)
        with pytest.raises(OverflowError, match=r"norm/var holds 70000, and half precision holds no more than 65504"):
            to_half({"norm/var": np.array([1.0, 7e4, np.inf], np.float32)})
    assert rounded["w"].dtype == np.float16
    np.testing.assert_array_equal(rounded["w"], np.array([1, 65504, 0, np.nan], np.float16))
    assert rounded["seed"] is part["seed"]


def test_a_verification_scores_the_rounded_weights_exactly(make):
    """The counts and the sum of losses are those of a model into which the rounded weights were put here."""
    transport, centers = make(half_precision=True)
    step(centers)
    found = centers.verify()
    learner = logistic_learner(N_VOXELS)
    model = {name: array for name, array in centers.state().items() if name in learner.variables}
    learner.load_state(learner.state() | {n: a.astype(np.float32) for n, a in to_half(model).items() if "/pd/" in n})
    totals = []
    for site in transport.sites.values():
        opened, subjects = site._open, site.cohort.verification
        p = learner.predict(opened.volumes.block([s.subject for s in subjects]), batch_size=1)
        totals.append(score(p, np.array([s.group for s in subjects]), None))
    assert found == sum(totals[1:], totals[0])
    _, exact = make(half_precision=False, state=centers.state())
    assert exact.verify().loss != found.loss
    assert exact.verify().loss == pytest.approx(found.loss, rel=1e-3)


def test_it_sends_half_as_much_and_nothing_to_who_can_round(make):
    _, exact = make(half_precision=False)
    transport, half = make(half_precision=True)
    sent = [bytes_of(centers, centers.verify) for centers in (exact, half)]
    assert 0.5 < sent[1] / sent[0] < 0.55
    for centers in (exact, half):
        step(centers)
    transport.requests.clear()
    sent = [bytes_of(centers, centers.verify) for centers in (exact, half)]
    assert 0.5 < sent[1] / sent[0] < 0.55
    assert states_sent(transport) == {"site-1": True, "site-2": False, "site-3": True}
    assert exact.state().keys() == half.state().keys()
    assert all(np.array_equal(array, half.state()[name]) for name, array in exact.state().items())


def test_going_back_sends_nothing_and_a_restarted_site_is_sent_what_it_lacks(make, files):
    transport, centers = make(half_precision=True)
    before = centers.snapshot()
    first = centers.verify()
    centers.hold_reference()
    step(centers)
    second = centers.verify()
    centers.restore(before)
    transport.requests.clear()
    assert centers.verify() == first
    assert not any(states_sent(transport).values())
    step(centers)
    assert centers.verify() == second
    transport.sites["site-2"] = Site(read_site_settings(files["site-2"]), equip)  # which could round, and now cannot
    assert centers.verify() == second
    assert {request["task"] for site, request, _ in transport.requests if site == "site-2"} >= {"open"}


def test_a_resumed_run_counts_flips_against_the_same_rounded_model(make):
    _, centers = make(half_precision=True)
    centers.verify()
    centers.hold_reference()
    step(centers)
    _, resumed = make(half_precision=True)
    resumed.load_state(centers.state())
    assert resumed.verify() == centers.verify()


def test_weights_beyond_half_precision_stop_the_run(make):
    _, centers = make(half_precision=True)
    state = centers.state()
    name = next(name for name in state if name.endswith("pd/kernel"))
    centers.load_state(state | {name: np.full_like(state[name], 1e5)})
    with pytest.raises(FederationError, match=rf"{name} holds 100000.*set federation.half_precision=false"):
        centers.verify()


@pytest.mark.federation
def test_a_run_in_half_precision_says_what_it_saved(tmp_path, cohort_csvs):
    """One cycle from random weights, two sites: verdicts on every step, and bytes of verifications in the trace."""
    settings = ["pipeline=qc", "schedule.start=0", "schedule.cycles=1", "model.filters=[16,32,16]", "tracking=none"]
    settings += ["federation=local", "federation.min_cell=1", "federation.n_sites=2"]
    traces = []
    for half in ("false", "true"):
        run = go(tmp_path, cohort_csvs, *settings, f"federation.half_precision={half}", name=half)
        traces.append(pd.read_csv(Path(run) / "trace.csv", keep_default_na=False))
    exact, half = traces
    assert set(half["Scored"]) == {4 * len(CENTERS)}
    assert half["VerifyLoss"].iloc[0] == pytest.approx(exact["VerifyLoss"].iloc[0], rel=1e-2)
    assert half["VerifyLoss"].iloc[0] != exact["VerifyLoss"].iloc[0]
    assert 0.5 < half["BytesSent"].iloc[0] / exact["BytesSent"].iloc[0] < 0.6
    assert half["BytesSent"].sum() < exact["BytesSent"].sum()


@pytest.mark.parametrize("half_precision", [False, True])
@pytest.mark.parametrize("verify", ["batch", "visit"])
def test_what_is_computed_of_traffic_is_what_is_sent(make, verify, half_precision):
    """A cycle over three sites, two batches each, in the steady state: the second of two."""
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "federation_traffic.py"))
    _, centers = make(half_precision=half_precision)

    def cycle():
        for center in "ABC":
            for i in range(2):
                step(centers, center)
                if verify == "batch" or i == 1:
                    centers.verify()

    cycle()
    sent = bytes_of(centers, cycle)
    model, optimizer = split(centers._state.arrays)
    sizes = script["Sizes"](*(len(encode(pack_part("0" * 64, part))) for part in (model, to_half(model), optimizer)))
    told = script["count_sent"](dict.fromkeys("ABC", 2), "ABC", sizes, verify=verify, half_precision=half_precision)
    assert sent == pytest.approx(told, rel=0.06)
