"""Rivals that use a model, on a logistic regression with losses and gradients calculated by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import logistic_learner

from tmqc.rivals import CUT_OFFS, RIVALS, Case, Probe, ScoreError, score_scans
from tmqc.settings.schema import RivalsConfig

WEIGHTS, BIAS = [0.5, -0.25, 1.0], 0.1


def make_case(**changes):
    rng = np.random.default_rng(0)
    scans, verification = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
    settings = {
        "subjects": tuple(f"s{i}" for i in range(7)),
        "scans": scans,
        "groups": np.array([0, 1, 1, 0, 1, 0, 0]),
        "centers": ("a", "a", "a", "b", "b", "c", "c"),
        "verification_scans": verification,
        "verification_groups": np.array([1, 0, 1, 0, 1]),
        "learning_rate": 1e-2,
        "batch_size": 5,
        "settings": RivalsConfig(neighbors=2),
    } | changes
    for name in ("scans", "verification_scans"):
        settings[name] = np.asarray(settings[name], np.float32)[:, :, None, None, None]
    return Case(**settings)


@pytest.fixture(scope="module")
def learner():
    return logistic_learner(3, weights=WEIGHTS, bias=BIAS)


def score(name, case, learner):
    return score_scans(name, case, learner, batch_size=2)


def flat(scans):
    return scans[..., 0, 0, 0].astype(float)


def predict(scans, weights=WEIGHTS, bias=BIAS):
    return 1 / (1 + np.exp(-(flat(scans) @ np.asarray(weights) + bias)))


def loss(scans, groups, weights=WEIGHTS, bias=BIAS):
    p = predict(scans, weights, bias)
    return -np.log(np.where(groups == 1, p, 1 - p))


def gradients(scans, groups):
    """(p - y) x for the weights, p - y for the bias; one row per scan."""
    error = predict(scans) - groups
    return np.column_stack([error[:, None] * flat(scans), error])


def test_loss_by_hand(learner):
    case = make_case()
    np.testing.assert_allclose(score("loss", case, learner).scores, loss(case.scans, case.groups), rtol=1e-5)


def test_gradient_norm_by_hand(learner):
    case = make_case()
    by_hand = np.linalg.norm(gradients(case.scans, case.groups), axis=1)
    np.testing.assert_allclose(score("gradient_norm", case, learner).scores, by_hand, rtol=1e-5)


def test_tracin_by_hand(learner):
    """Five verification scans in batches of two: the smaller last batch must not have a larger weight."""
    case = make_case()
    toward = gradients(case.verification_scans, case.verification_groups).mean(axis=0)
    by_hand = -gradients(case.scans, case.groups) @ toward
    np.testing.assert_allclose(score("tracin", case, learner).scores, by_hand, rtol=1e-4, atol=1e-7)


def test_influence_by_hand(learner):
    """Adam's first step changes every weight by the learning rate, against the sign of the gradient."""
    case = make_case()
    judged = (case.verification_scans, case.verification_groups)
    steps = -case.learning_rate * np.sign(gradients(case.scans, case.groups))
    after = [loss(*judged, np.add(WEIGHTS, step[:3]), BIAS + step[3]).mean() for step in steps]
    got = score("influence", case, learner).scores
    np.testing.assert_allclose(got, np.array(after) - loss(*judged).mean(), rtol=1e-3, atol=1e-7)
    assert (got > 0).any()
    assert (got < 0).any()


def test_all_label_based_rivals_rank_a_wrong_label_first(learner):
    """The model is right about all scans except one with a wrong label."""
    signs = np.array([1, 1, 1, 1, -1, -1, -1, -1])
    scans = signs[:, None] * np.array([2.0, -1.0, 4.0]) * np.linspace(0.9, 1.1, 8)[:, None]
    groups = (signs > 0).astype(int)
    wrong = groups.copy()
    wrong[2] = 0
    changes = {"subjects": tuple("abcdefgh"), "scans": scans, "groups": wrong}
    case = make_case(**changes, verification_scans=scans, verification_groups=groups)
    for name in ("loss", "gradient_norm", "tracin", "influence", "knn_label"):
        assert score(name, case, learner).scores.argmax() == 2, name


def test_nearest_neighbor_scores_by_hand(learner):
    """Directions of 0, 1, 2, 3 and 90 degrees; lengths are ignored, and no scan is its own neighbor."""
    degrees = np.array([0, 1, 2, 3, 90])
    points = np.column_stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), np.zeros(5)])
    scans = points * np.array([1, 5, 2, 1, 3])[:, None]
    case = make_case(subjects=tuple("abcde"), scans=scans, groups=np.array([0, 1, 0, 0, 0]))
    chords = 2 * np.sin(np.radians([2, 1, 1, 2, 88]) / 2)
    np.testing.assert_allclose(score("knn_distance", case, learner).scores, chords, rtol=1e-5)
    # a: b c; b: a c; c: b d; d: c b; e: d c
    assert score("knn_label", case, learner).scores.tolist() == [0.5, 1.0, 0.5, 0.5, 0.0]


def test_passes_are_counted_and_the_model_is_unchanged(learner):
    case = make_case()
    before = learner.state()
    got = {name: score(name, case, learner) for name in RIVALS if name not in ("aled", "image_forest")}
    n, m = 7, 5
    assert {name: (each.forward_passes, each.backward_passes) for name, each in got.items()} == {
        "random": (0, 0),
        "template": (0, 0),
        "template_group": (0, 0),
        "loss": (n, 0),
        "gradient_norm": (n, n),
        "tracin": (n + m, n + m),
        "influence": (n + m + n * m, n),
        "knn_label": (n, 0),
        "knn_distance": (n, 0),
        "confident_learning": (n, 0),
        "clipfl": (n + 3 * m, n),
    }
    assert all(each.scores.shape == (n,) and each.scores.dtype == np.float64 for each in got.values())
    after = learner.state()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_gradient_of_several_scans_is_the_mean_of_their_gradients(learner):
    case = make_case()
    got = Probe(learner, batch_size=3).gradient(case.scans, case.groups)
    np.testing.assert_allclose(got, gradients(case.scans, case.groups).mean(axis=0), rtol=1e-5, atol=1e-7)


def test_non_finite_scores_raise(learner, monkeypatch):
    monkeypatch.setitem(RIVALS, "loss", lambda case, model: np.array([0, np.nan, 1, 2, np.inf, 3, 4.0]))
    with pytest.raises(ScoreError, match=r"rival loss: no finite score for s1, s4: inspect these scans"):
        score("loss", make_case(), learner)


def test_confident_learning_by_hand(learner):
    """Probability of the other class minus the mean probability of that class among scans with its label."""
    case = make_case()
    p = predict(case.scans)
    usual_hc, usual_pd = (1 - p)[case.groups == 0].mean(), p[case.groups == 1].mean()
    by_hand = np.where(case.groups == 1, (1 - p) - usual_hc, p - usual_pd)
    np.testing.assert_allclose(score("confident_learning", case, learner).scores, by_hand, atol=1e-6)


def make_clouds(rng, *, n=60, flipped=3):
    """Two classes separated along the first voxel, HC twice as wide; the first labels are flipped."""
    y = np.arange(n) % 2
    scans = rng.normal(size=(n, 3)) * np.where(y == 1, 1.0, 2.0)[:, None] + y[:, None] * np.array([12.0, 0.0, 0.0])
    groups = np.where(np.arange(n) < flipped, 1 - y, y)
    subjects = tuple(f"s{i}" for i in range(n))
    return make_case(subjects=subjects, scans=scans, groups=groups, centers=("a",) * n), y


def test_aled_names_exactly_the_scans_with_flipped_labels(learner):
    case, truth = make_clouds(np.random.default_rng(0))
    got = score("aled", case, learner)
    assert got.cut_off == pytest.approx(np.log(2))
    assert set(np.flatnonzero(got.scores > got.cut_off)) == set(np.flatnonzero(case.groups != truth))
    again = score("aled", case, learner)
    assert np.array_equal(got.scores, again.scores)


def test_aled_approximates_the_log_density_ratio_of_the_classes(learner):
    """One voxel differs between the classes: scores are about log N(x; m1, s1) - log N(x; m0, s0)."""
    rng = np.random.default_rng(1)
    case, _ = make_clouds(rng, n=300, flipped=0)
    x = flat(case.scans)[:, 0]
    log_hc, log_pd = -0.5 * (x / 2) ** 2 - np.log(2), -0.5 * (x - 12) ** 2
    expected = np.where(case.groups == 1, log_hc - log_pd, log_pd - log_hc)
    got = score("aled", case, learner).scores
    assert np.corrcoef(got, expected)[0, 1] > 0.95


def test_aled_needs_scans_of_both_classes(learner):
    with pytest.raises(ScoreError, match="needs 4 training scans of each class"):
        score("aled", make_case(), learner)


class Rows(np.ndarray):
    """Refuses masks, as `data.volumes.Block` does."""

    def __getitem__(self, key):
        assert np.asarray(key).dtype.kind != "b"
        return super().__getitem__(key)


def test_clipfl_gives_the_most_harmful_center_the_highest_score(learner):
    """Eleven centers with right labels and one with wrong labels, which moves all weights in the opposite direction."""
    signs = np.resize([1, -1, 1], 36)
    scans = signs[:, None] * np.array([2.0, -1.0, 4.0]) * np.linspace(0.9, 1.1, 36)[:, None]
    groups = (signs > 0).astype(int)
    centers = tuple(f"c{i // 3:02}" for i in range(36))
    wrong = np.array([center == "c07" for center in centers])
    case = make_case(
        subjects=tuple(f"s{i}" for i in range(36)),
        scans=scans,
        groups=np.where(wrong, 1 - groups, groups),
        centers=centers,
        verification_scans=scans,
        verification_groups=groups,
        learning_rate=2.0,
    )
    got = score("clipfl", replace(case, scans=case.scans.view(Rows)), learner)
    assert np.array_equal(got.scores == 1.0, wrong)
    assert sorted(set(got.scores)) == pytest.approx(np.arange(1, 13) / 12)
    named = {center for center, value in zip(centers, got.scores, strict=True) if value > got.cut_off}
    assert len(named) == 2  # more than nine tenths of the twelve centers have lower scores
    assert (got.forward_passes, got.backward_passes) == (36 + 12 * 36, 36)


def test_cut_offs_belong_to_known_rivals():
    assert set(CUT_OFFS) <= set(RIVALS)
