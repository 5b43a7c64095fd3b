"""Slow, opening and hanging sites under FLARE, and restarts of the job; without processes of FLARE."""

from __future__ import annotations

import json
import threading
import time
from multiprocessing.connection import Client
from types import SimpleNamespace

import pytest
from test_federation_faults import OPEN, _logistic_models, build_centers, files  # noqa: F401

from tmqc.federation.messages import NoAnswer, decode_message, encode_message
from tmqc.federation.site import Site
from tmqc.federation.site_settings import read_site_settings

pytest.importorskip("nvflare")
from nvflare.apis.shareable import Shareable

from tmqc.federation import flare
from tmqc.federation.flare_job import DATA, NOT_IN_JOB, OPENING, TOPIC, Agent

TIMEOUT_S = 600.0
PATIENCE_S = 600.0  # for these tests
ASK = {"site-1": b"a request", "site-2": b"a request"}


class Relayed:
    """Stub job: the relay is a thread of this process, and a function answers for the sites."""

    def __init__(self, job, answer):
        config = json.loads((job / "app" / "config" / "config_fed_server.json").read_text())
        self._address, self._answer = config["workflows"][0]["args"]["address"], answer
        threading.Thread(target=self._relay, daemon=True).start()

    def _relay(self):
        with Client(self._address, family="AF_UNIX") as connection:
            try:
                while True:
                    requests, _ = connection.recv()
                    connection.send({site: self._answer(site, data) for site, data in requests.items()})
            except (EOFError, ConnectionError):
                return

    def check(self):
        pass

    def connected(self):
        return {"site-1"}

    def end(self):
        pass


class Federation:
    """Two sites: the first answers until `silent` is set and reports its `state`; the second is absent."""

    def __init__(self, clock):
        self.clock, self.state, self.jobs, self.silent = clock, b"1", [], False
        self.transport = flare.FlareTransport(["site-1", "site-2"], self._launch)

    def _launch(self, job):
        self.jobs.append(job)
        return Relayed(job, self._answer)

    def _answer(self, site, data):
        if site == "site-2":
            return NoAnswer(NOT_IN_JOB)
        if not data:
            return self.state
        return NoAnswer("gave no answer") if self.silent else b"an answer"

    def exchange(self):
        return self.transport.exchange(ASK, TIMEOUT_S)

    def n_jobs_after(self, seconds):
        """Number of jobs after these seconds and another exchange, which first checks sites that were silent."""
        self.clock.now += seconds
        self.exchange()
        return len(self.jobs)


@pytest.fixture
def federation(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(flare, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=time.sleep))
    federation = Federation(clock)
    assert federation.exchange() == {"site-1": b"an answer", "site-2": NoAnswer(NOT_IN_JOB)}
    federation.silent = True
    federation.exchange()
    yield federation
    federation.transport.close()


def test_job_is_restarted_only_for_hanging_sites(federation):
    assert federation.n_jobs_after(TIMEOUT_S) == 1
    federation.state = b"2"
    assert federation.n_jobs_after(TIMEOUT_S) == 1  # slow: it has reached the next request
    assert federation.n_jobs_after(TIMEOUT_S) == 2


def test_two_checks_in_quick_succession_do_not_restart_the_job(federation):
    assert federation.n_jobs_after(TIMEOUT_S) == 1
    assert federation.n_jobs_after(1.0) == 1  # a connection error, reported immediately
    assert federation.n_jobs_after(TIMEOUT_S - 2.0) == 1
    assert federation.n_jobs_after(1.0) == 2


def test_slow_opening_of_a_site_is_logged_and_does_not_restart_the_job(federation, caplog):
    caplog.set_level("INFO", logger="tmqc")
    federation.state = OPENING
    for looks in range(1, 20):
        assert federation.n_jobs_after(TIMEOUT_S) == 1
        assert caplog.text.count("site site-1 is still decoding its scans") == looks
    federation.state = b"1"
    assert federation.n_jobs_after(TIMEOUT_S) == 1
    assert federation.n_jobs_after(TIMEOUT_S) == 2


def wait_until(condition):
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_site_reports_opening_and_concurrent_open_requests_share_it(files, monkeypatch):  # noqa: F811
    began, go_on, equipped = threading.Event(), threading.Event(), []

    def slowly(settings, cohort):
        began.set()
        assert go_on.wait(PATIENCE_S)
        equipped.append(cohort)
        return build_centers(settings, cohort)

    monkeypatch.setattr("tmqc.federation.site.build_centers", slowly)
    agent, replies = Agent(), []

    def ask(data):
        return agent._handle(TOPIC, Shareable({DATA: data}), None)[DATA]

    assert ask(b"") == OPENING  # it is reading its tables
    agent._site = Site(read_site_settings(files["site-1"]))
    agent._prepared.set()
    assert ask(b"") == b""
    asked = [
        threading.Thread(target=lambda: replies.append(decode_message(ask(encode_message(OPEN))))) for _ in range(2)
    ]
    asked[0].start()
    assert began.wait(PATIENCE_S)
    assert ask(b"") == OPENING
    asked[1].start()
    go_on.set()
    wait_until(lambda: len(replies) == 2)
    assert len(equipped) == 1
    assert [reply["centers"] for reply in replies] == [["A"], ["A"]]
    with agent._lock:  # held by a training step
        assert ask(b"") == b"2"
    assert ask(b"") == b""


def test_failed_open_leaves_the_site_closed(files, monkeypatch):  # noqa: F811
    site = Site(read_site_settings(files["site-1"]))
    assert decode_message(site.handle(encode_message(OPEN)))["centers"] == ["A"]
    with monkeypatch.context() as patch:
        patch.setattr("tmqc.federation.site.build_centers", lambda settings, cohort: 1 / 0)
        other = encode_message(OPEN | {"settings": '{"run": {}}'})
        assert decode_message(site.handle(other))["detail"] == ["ZeroDivisionError"]
    assert site.centers is None
    assert decode_message(site.handle(encode_message(OPEN)))["centers"] == ["A"]
    assert site.centers is not None
