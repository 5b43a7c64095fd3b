"""Federation within one process: bit-identical runs, and only counts leave the sites."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
from test_pipelines import START, harm_overrides, run_pipeline
from test_resume import SAVE_ALWAYS, Death, die_after  # noqa: F401

from tmqc.federation.messages import STATE, check_reply, check_request, decode_message
from tmqc.federation.site import Site
from tmqc.runs.checkpoint import checkpoint_path, load_checkpoint, saved_cycles
from tmqc.runs.trace import TRAFFIC_COLUMNS

# One scan at a time, because the last bit of a prediction depends on the other scans in the batch.
ALIKE = ["run.verify_batch_size=1", "tracking=none"]
LOCAL = ["federation=local", "federation.min_cell=1"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, cohort_csvs):
    outputs = tmp_path_factory.mktemp("federation")
    run_pipeline(outputs, cohort_csvs, "pipeline=clean", f"schedule.cycles={START}", "tracking=none", name="c")
    return outputs


@pytest.fixture(scope="module")
def exchanged_messages():
    """All messages of this module's runs: (request, reply) as bytes."""
    kept = []
    handle = Site.handle

    def record(self, data):
        kept.append((data, answer := handle(self, data)))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Site, "handle", record)
        yield kept


def ids_of(sites):
    """Token -> id, from the tables stored at the sites."""
    table = {}
    for path in sorted(sites.glob("*/tokens.csv")):
        with path.open(newline="") as file:
            table |= {row["Token"]: row["Subject"] for row in csv.DictReader(file)}
    return table


def replace_tokens(text, table):
    for token, subject in table.items():
        text = text.replace(token, subject)
    return text


def assert_same_run(here, remote):
    """Compare all results of two finished runs, with tokens replaced, without seconds and traffic."""
    same_control(here, remote, remote / "sites")
    assert (here / "detection.csv").read_text() == (remote / "detection.csv").read_text()
    assert (here / "good_lost.csv").read_text() == (remote / "good_lost.csv").read_text()
    summaries = [json.loads((run / "summary.json").read_text()) for run in (here, remote)]
    names = ("verify/auroc", "verify/calibrated_loss", "verify/slope", "verify/offset", "verify/calibrated_accuracy")
    of_scans = {*names, "test/calibrated_accuracy", "test/calibrated_loss"}  # most sites send counts only
    for summary in summaries:
        for name in [name for name in summary if "/seconds" in name or name in of_scans]:
            del summary[name]
    assert summaries[0] == summaries[1]


def same_control(here, remote, sites):
    """Compare trace, ledger and weights; for runs in which the server does not know the scans."""
    table = ids_of(sites)
    (remote / "translated.csv").write_text(replace_tokens((remote / "trace.csv").read_text(), table))
    one, other = (pd.read_csv(path, keep_default_na=False) for path in (here / "trace.csv", remote / "translated.csv"))
    assert tuple(other.columns)[-len(TRAFFIC_COLUMNS) :] == TRAFFIC_COLUMNS
    other = other.drop(columns=list(TRAFFIC_COLUMNS))
    pd.testing.assert_frame_equal(one.drop(columns="Seconds"), other.drop(columns="Seconds"), check_exact=True)
    assert (here / "ledger.json").read_text() == replace_tokens((remote / "ledger.json").read_text(), table)
    assert saved_cycles(here) == saved_cycles(remote)
    for cycle in saved_cycles(here):
        first, second = (load_checkpoint(checkpoint_path(run, cycle)).state for run in (here, remote))
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)


GATES = {
    "published": ["qc.error=0.0", "schedule.learning_rate=1e-1"],
    "visit": ["qc.verify=visit", "schedule.batch_size=2", "qc=loss", "qc.loss_error=0.0"],
    "calibrated": [
        "qc=calibrated",
        "qc.loss_error=0.0",
        "federation.share_margins=true",
    ],
    "screen": [
        "qc=screen",
        "qc.screen.loss_z=1.5",
        "federation.share_margins=true",
        "qc.screen.image_z=null",
        "qc.screen.exact=true",
    ],
    "evidence": ["qc=evidence", "qc.evidence.every=1", "qc.fdr=0.5", "federation.share_scores=true"],
}


@pytest.mark.federation
@pytest.mark.parametrize("gate", GATES)
def test_federated_run_equals_the_run_in_one_process(outputs, cohort_csvs, exchanged_messages, gate):
    settings = ["pipeline=qc", *harm_overrides(outputs), *GATES[gate], *ALIKE]
    here = run_pipeline(outputs, cohort_csvs, *settings, name=f"{gate}-here")
    remote = run_pipeline(outputs, cohort_csvs, *settings, *LOCAL, name=f"{gate}-sites")
    assert_same_run(here, remote)
    trace = pd.read_csv(remote / "trace.csv", keep_default_na=False)
    assert trace["BytesSent"].astype(int).sum() > 0
    assert trace["Ignored"].any(), "a run that undoes nothing proves little"
    assert len(list((remote / "sites").iterdir())) == 3


@pytest.mark.federation
def test_killed_server_resumes(outputs, cohort_csvs, die_after):  # noqa: F811
    settings = ["pipeline=qc", *harm_overrides(outputs), *GATES["published"], *ALIKE]
    here = outputs / "qc" / "published-here"
    if not here.exists():
        run_pipeline(outputs, cohort_csvs, *settings, name=here.name)
    undo = die_after(9)
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, *LOCAL, SAVE_ALWAYS, name="killed")
    undo()
    assert_same_run(here, run_pipeline(outputs, cohort_csvs, *settings, *LOCAL, SAVE_ALWAYS, name="killed"))


@pytest.mark.federation
def test_messages_contain_no_protected_data(outputs, cohort_csvs, exchanged_messages):
    """All messages of a run with strict settings: no ids or paths in their bytes, only allowed fields."""
    exchanged_messages.clear()
    settings = [
        "pipeline=qc",
        *harm_overrides(outputs),
        *GATES["published"],
        *ALIKE,
        "federation=local",
        "federation.min_cell=5",
    ]
    directory = run_pipeline(outputs, cohort_csvs, *settings, name="strict")
    ids = [row.split(",")[0] for csv_ in cohort_csvs.values() for row in csv_.read_text().splitlines()[1:]]
    forbidden = [*ids, "scans/", ".nii", str(outputs), str(cohort_csvs["train"].parent), "site.yaml", "tokens.csv"]
    replies = 0
    for request, answer in exchanged_messages:
        for data in (request, answer):
            assert not [text for text in forbidden if text.encode() in data]
        asked, reply = decode_message(request), decode_message(answer)
        check_request(asked)
        check_reply(asked["task"], reply)
        for name, value in reply.items():
            if isinstance(value, np.ndarray) and not name.startswith(STATE):
                assert len(value) <= 2, "an array with more rows than the site has groups"
        if asked["task"] == "train":
            assert ("loss" in reply) == ("n_correct" in reply) == (len(asked["tokens"]) >= 5)
        replies += "error" not in reply
    assert replies > 20
    opened = [
        decode_message(answer) for request, answer in exchanged_messages if decode_message(request)["task"] == "open"
    ]
    assert all(hc + pd >= 5 for one in opened for hc, pd in zip(one["n_hc"], one["n_pd"], strict=True))
    trace = pd.read_csv(directory / "trace.csv", keep_default_na=False)
    assert set(trace["Subjects"].str.split("|").explode()) <= {*ids_of(directory / "sites"), ""}
    assert not [text for text in ids if text in (directory / "ledger.json").read_text()]
