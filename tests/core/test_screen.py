import math

import numpy as np
import pytest

from tmqc.core.rates import margins
from tmqc.core.screen import condemns, weigh
from tmqc.settings.schema import ScreenConfig

SD = 2 / 1.349  # robust spread of the values 1 to 4 and an outlier
LIMITS = ScreenConfig(loss_z=10.0, unusual_loss_z=2.0, margin_z=4.0, contradiction=0.5, least_loss=0.0)


def test_weigh_by_hand():
    """Changes: center 2.5, spread 2 / 1.349. Margins: center 5.5, same spread; their median absolute value is 6."""
    changes, margin = [1, 2, 3, 4, 100], [-14, 4, 5, 6, 7]
    found = weigh(changes, margin, LIMITS)
    assert [e.loss_z for e in found] == pytest.approx([(c - 2.5) / SD for c in changes])
    assert [e.margin_z for e in found] == pytest.approx([(5.5 - m) / SD for m in margin])
    assert [e.suspect for e in found] == [True, False, False, False, True]
    assert [e.contradiction for e in found] == pytest.approx([-m / 6 for m in margin])
    assert found[0].strength == pytest.approx(14 / 6 / 0.5)
    assert found[4].strength == pytest.approx(97.5 / SD / 10)


@pytest.mark.parametrize(("margin", "suspect"), [(-1.0, True), (-0.5, False)])
def test_contradicted_label_of_the_class_with_smaller_margins_is_found(margin, suspect):
    """Two labels of nine are wrong. One class has margins of 6, the other of 2; the median absolute value is 2.5."""
    margin = [6, 6, 6, 2, 2, 2, 2.5, -6, margin]
    found = weigh([0.0] * 9, margin, ScreenConfig(contradiction=0.25))
    assert [e.suspect for e in found] == [False] * 7 + [True, suspect]


def test_scan_that_lowers_the_loss_is_not_suspect():
    assert not any(e.suspect for e in weigh([0, 1, 2, 3, -500], [5] * 5, LIMITS))


def test_scan_whose_label_the_model_confirms_is_not_suspect():
    """Its margin is far below the others, but still positive."""
    found = weigh([0.0] * 5, [0.1, 9.9, 10.0, 10.1, 10.2], LIMITS)
    assert found[0].margin_z > 4
    assert not found[0].suspect


@pytest.mark.parametrize(("margin", "suspect"), [(5.0, False), (30.0, True), (0.5, False)])
def test_lower_loss_limit_for_scans_with_an_unusually_high_margin(margin, suspect):
    """Change 4.5 of 1.48: 3.0 standard deviations, below 10 and beyond 2. Margins: about 5, spread at most 1.5.

    A good scan near the decision boundary, margin 0.5, is also far out and moves the loss more than most.
    """
    found = weigh([1, 2, 3, 4, 7], [4, 5, 6, 5, margin], LIMITS)
    assert found[4].loss_z == pytest.approx(4.5 / SD)
    assert found[4].suspect is suspect


def test_unusual_margin_without_harm_is_not_suspect():
    found = weigh([1, 2, 3, 4, -50], [4, 5, 6, 5, 90.0], LIMITS)
    assert abs(found[4].margin_z) > 4
    assert not found[4].suspect


@pytest.mark.parametrize(("image_z", "unlike", "suspect"), [(3.0, 9.0, True), (5.0, 9.0, False), (None, 9.0, False)])
def test_lower_loss_limit_for_unusual_images(image_z, unlike, suspect):
    """Change: 3.0 standard deviations, as above. Dissimilarity: center 2.5, spread 2 / 1.349; 9 is 4.4 spreads away."""
    limits = ScreenConfig(
        loss_z=10.0, unusual_loss_z=5.0, image_loss_z=2.0, margin_z=4.0, image_z=image_z, least_loss=0.0
    )
    found = weigh([1, 2, 3, 4, 7], [5] * 5, limits, [1, 2, 3, 4, unlike])
    assert found[4].suspect is suspect
    assert [e.image_z is None for e in found] == [image_z is None] * 5
    assert image_z is None or found[4].image_z == pytest.approx((unlike - 2.5) / SD)


def test_unusual_image_without_harm_is_not_suspect():
    """An image that is more typical than the others is not suspect either, below the ordinary loss limit."""
    limits = ScreenConfig(loss_z=10.0, image_loss_z=2.0, margin_z=4.0, image_z=3.0, least_loss=0.0)
    assert not weigh([1, 2, 3, 4, -50], [5] * 5, limits, [1, 2, 3, 4, 100])[4].suspect
    assert not weigh([1, 2, 3, 4, 7], [5] * 5, limits, [1, 2, 3, 4, -100])[4].suspect


@pytest.mark.parametrize(("image_z", "alone", "suspect"), [(3.0, 4.0, True), (3.0, None, False), (None, 4.0, False)])
def test_unusual_image_alone_is_suspect_only_if_image_alone_z_is_set(image_z, alone, suspect):
    """Dissimilarity: 4.4 standard deviations, as above; the scan's step makes the model better."""
    limits = ScreenConfig(image_z=image_z, image_alone_z=alone, least_loss=0.0)
    found = weigh([1, 2, 3, 4, -50], [5] * 5, limits, [1, 2, 3, 4, 9])[4]
    assert found.suspect is suspect
    assert not suspect or found.strength == pytest.approx(6.5 / SD / 4)


def test_step_that_lowers_the_loss_is_no_evidence_despite_a_high_z():
    """All steps lower the loss, one less than most: a high z-score, but no harm, however unusual its image is."""
    limits = ScreenConfig(loss_z=2.0, image_loss_z=0.1, margin_z=4.0, image_z=3.0, least_loss=0.0)
    odd = [1, 2, 3, 4, 100]
    helped, harmed = (weigh([c - shift for c in (1, 2, 3, 4, 7)], [5] * 5, limits, odd)[4] for shift in (8, 6))
    assert helped.loss_z == harmed.loss_z > 2
    assert (helped.suspect, harmed.suspect) == (False, True)


def test_least_loss_bounds_a_tiny_spread():
    changes = [0.0, 1e-6, -1e-6, 2e-6, 5e-4]
    assert weigh(changes, [5] * 5, ScreenConfig(least_loss=0.0))[4].suspect
    assert not weigh(changes, [5] * 5, ScreenConfig(least_loss=1e-4))[4].suspect


def test_margin_is_the_logit_of_the_labeled_class():
    """p = 0.8: logit log 4. The scan's loss is log(1 + exp(-margin))."""
    pd, hc = margins(np.array([0.8, 0.8]), np.array([1, 0]))
    assert (pd, hc) == pytest.approx((math.log(4), -math.log(4)))
    assert math.log1p(math.exp(-pd)) == pytest.approx(-math.log(0.8))


@pytest.mark.parametrize(
    ("strengths", "condemned"),
    [
        ((1.1,), True),
        ((0.9,), False),
        ((5, 4), True),
        ((1.5, 0.6), False),  # mean 1.05, standard error 0.45
        ((9, 0.5), False),  # the last screening found nothing
        ((0.2, 5), False),  # mean 2.6, standard error 2.4: 0.2 is left, not beyond the limit
    ],
)
def test_condemned_only_if_the_mean_exceeds_the_limit_by_its_error(strengths, condemned):
    assert condemns(strengths) is condemned
