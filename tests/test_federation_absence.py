"""A site that was skipped is left alone for longer every time it fails, and taken back when it answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from test_federation_faults import files, opened, remote, step  # noqa: F401

from tmqc.federation import absence
from tmqc.federation.absence import LONGEST_PAUSE_S, Absences, News
from tmqc.training.travel import AwayError

PAUSE_S = 10.0
N_A_SITE = 5  # verification scans


@pytest.fixture
def clock(monkeypatch):
    """Seconds on the clock that pauses are counted by: `clock.now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(absence, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def skipping(remote):  # noqa: F811
    """Makes centers that skip."""
    return lambda partial: remote(on_fault="skip", partial=partial, pause_s=PAUSE_S)


def was_asked(transport, site):
    found = [name for name, _, _ in transport.requests if name == site]
    transport.requests.clear()
    return bool(found)


def test_a_site_that_keeps_failing_is_looked_after_ever_more_seldom_until_it_answers(skipping, clock, caplog):
    transport, centers = skipping(partial=True)
    began, asked_at, revived_at = clock.now, [], []
    transport.faults["site-2"] = ["silent"] * 3
    for second in range(0, 90, 5):
        clock.now = began + second
        caplog.clear()
        n = centers.verify().counts.n
        if was_asked(transport, "site-2"):
            asked_at.append(second)
        if transport.revived:
            revived_at.append(second)
        transport.revived.clear()
        missing = centers.traffic().missing
        assert (n, missing) == ((3 * N_A_SITE, []) if second >= 70 else (2 * N_A_SITE, ["site-2"]))
        assert ("site site-2: gave no answer within 1 s" in caplog.text) == bool(missing)
    assert asked_at == [0, 10, 30, 70, 75, 80, 85]
    assert revived_at == [10, 30, 70]
    transport.faults["site-2"] = ["silent"]  # what it did before it answered counts no more
    centers.verify()
    clock.now += PAUSE_S
    assert centers.verify().counts.n == 3 * N_A_SITE


def test_a_visit_to_a_site_that_is_left_alone_ends_and_a_verification_without_leave_to_lack_it_asks(skipping, clock):
    transport, centers = skipping(partial=False)
    transport.faults["site-2"] = ["silent"]
    for asked in (True, False):
        with pytest.raises(AwayError, match="center B does not answer"):
            step(centers)
        assert was_asked(transport, "site-2") is asked
        assert centers.traffic().missing == ["site-2"]
    assert centers.verify().counts.n == 3 * N_A_SITE
    assert transport.revived == ["site-2"]
    step(centers)


def test_a_site_is_not_left_alone_if_there_is_no_verdict_without_it(skipping, clock):
    transport, centers = skipping(partial=True)
    transport.faults = {"site-2": ["silent"]}
    centers.verify()
    centers.traffic()
    clock.now += 1
    transport.faults = {"site-1": ["silent"], "site-3": ["silent"]}
    assert centers.verify().counts.n == N_A_SITE
    assert centers.traffic().missing == ["site-1", "site-3"]


def test_a_pause_ends_at_some_minutes_but_for_one_that_was_set_longer(clock):
    for pause_s, longest in ((1.0, LONGEST_PAUSE_S), (2 * LONGEST_PAUSE_S, 2 * LONGEST_PAUSE_S)):
        absences = Absences(pause_s)
        for _ in range(20):
            absences.note("site-1", "is gone")
        clock.now += longest - 1.0
        assert list(absences.resting(["site-1", "site-2"])) == ["site-1"]
        clock.now += 1.0
        assert not absences.resting(["site-1"])
        assert "site-1" in absences


def test_a_night_of_waiting_is_told_in_a_few_lines(clock):
    news, began, told = News(), clock.now, []
    for second in range(0, 8 * 3600, 2):
        clock.now = began + second
        told += [
            (second, *line.items()) for line in [news.of({"oslo": "is gone" if second < 10 else "is away"})] if line
        ]
    assert told[:3] == [
        (0, ("oslo", "is gone")),
        (10, ("oslo", "is away")),
        (60, ("oslo", "is away; waited for 60 s so far")),
    ]
    assert [second for second, _ in told[3:]] == [120, 240, 480, 960, 1920, 3840, *range(7440, 8 * 3600, 3600)]
