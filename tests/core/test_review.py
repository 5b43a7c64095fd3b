import numpy as np
import pytest

from tmqc.core.review import margins_at_centers, predict_from_others


def test_predict_from_others_by_hand():
    """Means 1 and 5, mean squares 2 within and 16 between, variances 2 and (16 - 2) / 2 = 7: weight 1 / (1 + 2/7)."""
    predicted = predict_from_others(np.array([0.0, 2.0, 4.0, 6.0]), ["a", "a", "b", "b"])
    assert predicted == pytest.approx(
        [3 + (2 - 3) * 7 / 9, 3 + (0 - 3) * 7 / 9, 3 + (6 - 3) * 7 / 9, 3 + (4 - 3) * 7 / 9]
    )


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        ([1.0, 5.0, 1.0, 5.0], "aabb"),  # groups differ by less than expected by chance
        ([1.0, 2.0, 6.0], "abc"),  # every group has a single value
        ([1.0, 2.0, 6.0], "aaa"),
    ],
)
def test_uninformative_groups_predict_the_overall_mean(values, groups):
    assert predict_from_others(np.array(values), list(groups)) == pytest.approx([np.mean(values)] * len(values))


def test_margins_are_corrected_for_shift_and_class_share_of_a_center():
    """Simulation: 30 centers that differ in both, 1 % of the labels flipped; compared with ranks by logit."""
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        center = np.repeat(np.arange(30), 20)
        truth = (rng.random(600) < rng.beta(0.5, 0.5, 30)[center]).astype(int)
        z = 2.0 * truth - 1.0 + rng.normal(0, 1.0, 30)[center] + rng.normal(0, 1.0, 600)
        label, flipped = truth.copy(), rng.choice(600, 6, replace=False)
        label[flipped] = 1 - label[flipped]
        by_center = margins_at_centers(z, label, [str(c) for c in center])
        found.append([np.isin(np.argsort(m)[:12], flipped).sum() for m in (by_center, (2 * label - 1) * z)])
    ours, plain = np.mean(found, axis=0)
    assert ours > plain + 1.0


def test_margins_of_a_single_center_and_of_a_single_class():
    """A single center is the whole cohort: no center effect can be subtracted, the margins are the logits."""
    np.testing.assert_allclose(margins_at_centers([1.0, -2.0], [1, 0], ["a", "a"]), [1.0, 2.0])
    assert np.isfinite(margins_at_centers([1.0, 3.0], [1, 1], ["a", "b"])).all()
