import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmqc.core.ledger import Ledger

ALL_SUBJECTS = ("a", "b", "c", "d", "e")


def test_scan_flagged_in_cycle_10_is_due_in_cycle_12():
    """Flagged in cycle c: not trained in c+1 .. c+R, revisited at the end of c+R, eligible from c+R+1."""
    ledger = Ledger().flag(["b", "d"], due=12)
    assert ledger.eligible(ALL_SUBJECTS, 11) == ("a", "c", "e")
    assert ledger.eligible(ALL_SUBJECTS, 12) == ("a", "c", "e")
    assert ledger.due(11) == ()
    assert ledger.due(12) == ("b", "d")
    assert ledger.eligible(ALL_SUBJECTS, 13) == ALL_SUBJECTS  # both readmitted
    assert ledger.eliminate("d").eligible(ALL_SUBJECTS, 13) == ("a", "b", "c", "e")
    assert ledger.eliminate("d").eliminated == ("d",)


def test_undecided_scans_are_those_never_revisited():
    ledger = Ledger().flag(["a"], due=12).flag(["b"], due=13).flag([], due=14).eliminate("a")
    assert ledger.waiting(13) == ("b",)  # the run ended before cycle 13
    assert ledger.waiting(14) == ()


def test_json():
    ledger = Ledger().flag(["a", "c"], due=12).flag([], due=13).eliminate("a")
    content = json.loads(json.dumps(ledger.to_json(13)))
    assert content == {"eliminated": ["a"], "revisit": {"12": ["a", "c"], "13": []}, "undecided": []}


def test_flagging_keeps_the_order_and_drops_duplicates():
    assert Ledger().flag(["d", "a", "d"], due=3).due(3) == ("d", "a")


def test_eliminating_or_flagging_twice_raises():
    ledger = Ledger().flag(["a"], due=3).eliminate("a")
    with pytest.raises(ValueError, match="already eliminated: a"):
        ledger.eliminate("a")
    with pytest.raises(ValueError, match="already eliminated, or due in cycle 4: a"):
        ledger.flag(["a"], due=4)
    with pytest.raises(ValueError, match="due in cycle 3: a"):
        Ledger().flag(["a"], due=3).flag(["a"], due=3)
    with pytest.raises(ValueError, match="a is eliminated, or already due in cycle 5"):
        ledger.postpone("a", due=5, strike=True)


def test_ledger_is_immutable():
    before = Ledger()
    before.flag(["a"], due=2).eliminate("a")
    assert before == Ledger()


@given(st.data(), st.integers(1, 3), st.integers(1, 8))
def test_every_subject_is_eligible_waiting_or_eliminated(data, revisit, n_cycles):
    """At the start of every cycle each subject is in exactly one of the three states."""
    subjects = tuple("abcdefgh")
    ledger = Ledger()
    for cycle in range(n_cycles + 1):
        eligible, waiting = ledger.eligible(subjects, cycle), ledger.waiting(cycle)
        assert sorted([*eligible, *waiting, *ledger.eliminated]) == sorted(subjects)
        flagged = data.draw(st.lists(st.sampled_from(eligible), unique=True)) if eligible else []
        ledger = ledger.flag(flagged, due=cycle + revisit)
        for subject in ledger.due(cycle):
            if data.draw(st.booleans()):
                ledger = ledger.eliminate(subject)
