import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmqc.core.schedule import Visit, learning_rate_of, make_visits, next_screening
from tmqc.settings.schema import ScheduleConfig

SUBJECTS = {"alpha": tuple(f"a{i}" for i in range(7)), "beta": ("b0",), "gamma": ("g0", "g1", "g2")}


def published_order(subjects, seed, start, cycles, batch_size=5):
    """The published scripts' loop, with the global generator they use: seed once, shuffle, reseed every cycle."""
    state = np.random.get_state()
    studies = np.array(list(subjects), dtype=object)
    np.random.seed(seed)
    np.random.shuffle(studies)
    tours = []
    for c in range(start, cycles):
        np.random.seed(seed + c)
        np.random.shuffle(studies)
        visits = []
        for s in studies:
            ids = np.array(subjects[s], dtype=object)
            b = min(batch_size, len(ids))
            indexes = np.arange(len(ids))
            np.random.shuffle(indexes)
            visits.append((s, [[ids[k] for k in indexes[i * b : (i + 1) * b]] for i in range(len(ids) // b)]))
        tours.append(visits)
    np.random.set_state(state)
    return tours


def as_lists(visits):
    return [(v.center, [list(batch) for batch in v.batches]) for v in visits]


def test_visits_of_a_worked_example():
    """Seed 42, first cycle 10: `RandomState(42).shuffle([0, 1, 2])` leaves [0, 1, 2]; `RandomState(52)` makes it
    [2, 0, 1], so gamma, alpha, beta, and then shuffles each center's scans in that order."""
    order = np.arange(3)
    np.random.RandomState(42).shuffle(order)
    assert order.tolist() == [0, 1, 2]
    np.random.RandomState(52).shuffle(order)
    assert order.tolist() == [2, 0, 1]
    assert as_lists(make_visits(ScheduleConfig(seed=42, start=10), 10, SUBJECTS)) == [
        ("gamma", [["g0", "g2", "g1"]]),
        ("alpha", [["a5", "a3", "a2", "a1", "a0"]]),  # two of the seven are not used in this cycle
        ("beta", [["b0"]]),
    ]


@given(st.integers(0, 2**31), st.integers(0, 3), st.integers(1, 4), st.integers(1, 6))
def test_visits_are_identical_to_the_published_loop(seed, start, n_cycles, batch_size):
    schedule = ScheduleConfig(seed=seed, start=start, batch_size=batch_size)
    got = [as_lists(make_visits(schedule, c, SUBJECTS)) for c in range(start, start + n_cycles)]
    assert got == published_order(SUBJECTS, seed, start, start + n_cycles, batch_size)


def test_every_cycle_reshuffles_the_order_of_the_cycle_before():
    """The order in cycle 12 of a run that started at 10 differs from that of a run that starts at 12."""
    one_each = {str(i): (str(i),) for i in range(20)}
    early, late = ScheduleConfig(start=10), ScheduleConfig(start=12)
    assert make_visits(early, 12, one_each) != make_visits(late, 12, one_each)


def test_centers_without_eligible_subjects_are_skipped_without_drawing():
    [visit] = make_visits(ScheduleConfig(seed=1), 0, {"alpha": SUBJECTS["alpha"], "beta": (), "gamma": ()})
    assert visit in make_visits(ScheduleConfig(seed=1), 0, {**SUBJECTS, "gamma": ()})
    assert visit.center == "alpha"


def test_incomplete_batch_is_dropped_unless_keep_remainder_is_set():
    subjects = {"alpha": SUBJECTS["alpha"]}
    (visit,) = make_visits(ScheduleConfig(seed=3), 0, subjects)
    assert [len(b) for b in visit.batches] == [5]
    (kept,) = make_visits(ScheduleConfig(seed=3, keep_remainder=True), 0, subjects)
    assert [len(b) for b in kept.batches] == [5, 2]
    assert kept.batches[0] == visit.batches[0]
    assert sorted(s for b in kept.batches for s in b) == sorted(SUBJECTS["alpha"])


def test_local_epochs_reshuffle_with_the_same_generator():
    (visit,) = make_visits(ScheduleConfig(seed=3, local_epochs=2), 0, {"gamma": SUBJECTS["gamma"]})
    rng = np.random.RandomState(3)
    rng.shuffle(np.arange(1))
    i, k = np.arange(3), np.arange(3)
    rng.shuffle(i)
    rng.shuffle(k)
    assert visit == Visit("gamma", (tuple(f"g{x}" for x in i), tuple(f"g{x}" for x in k)))


def test_global_random_generator_is_not_changed():
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    make_visits(ScheduleConfig(), 2, SUBJECTS)
    assert (np.random.get_state()[1] == before).all()


def test_learning_rate_is_a_function_of_the_cycle():
    fair, restarted = ScheduleConfig(), ScheduleConfig(decay_start=10)
    assert learning_rate_of(fair, 0) == 1e-4
    assert learning_rate_of(fair, 10) == pytest.approx(1e-4 * math.exp(-1.0))
    assert learning_rate_of(restarted, 10) == 1e-4
    assert learning_rate_of(restarted, 13) == pytest.approx(1e-4 * math.exp(-0.3))


def test_next_screening_by_hand():
    """A run that starts at cycle 10 with a screening every 3 cycles: 10, 13, 16."""
    assert [next_screening(ScheduleConfig(start=10), 3, cycle) for cycle in range(10, 15)] == [10, 13, 13, 13, 16]
