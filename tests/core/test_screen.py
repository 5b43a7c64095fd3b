import math

import numpy as np
import pytest

from tmqc.core.rates import margins
from tmqc.core.screen import condemns, weigh
from tmqc.settings.schema import ScreenConfig

SD = 2 / 1.349  # of one to four, the outlier left out
LIMITS = ScreenConfig(loss_z=10.0, unusual_loss_z=2.0, margin_z=4.0, contradiction=0.5, least_loss=0.0)


def test_evidence_by_hand():
    """Changes: center 2.5, spread 2 / 1.349. Margins: 5.5 and the same spread; their median size is 6."""
    changes, margin = [1, 2, 3, 4, 100], [-14, 4, 5, 6, 7]
    found = weigh(changes, margin, LIMITS)
    assert [e.loss_z for e in found] == pytest.approx([(c - 2.5) / SD for c in changes])
    assert [e.margin_z for e in found] == pytest.approx([(5.5 - m) / SD for m in margin])
    assert [e.suspect for e in found] == [True, False, False, False, True]
    assert [e.contradiction for e in found] == pytest.approx([-m / 6 for m in margin])
    assert found[0].strength == pytest.approx(14 / 6 / 0.5)
    assert found[4].strength == pytest.approx(97.5 / SD / 10)


@pytest.mark.parametrize(("margin", "suspect"), [(-1.0, True), (-0.5, False)])
def test_a_contradicted_label_of_the_fainter_class_is_found_among_many(margin, suspect):
    """Two labels of nine are wrong. One class speaks with 6, the other with 2, so that the median size is 2.5."""
    margin = [6, 6, 6, 2, 2, 2, 2.5, -6, margin]
    found = weigh([0.0] * 9, margin, ScreenConfig(contradiction=0.25))
    assert [e.suspect for e in found] == [False] * 7 + [True, suspect]


def test_what_lowers_the_loss_is_unusual_and_not_harmful():
    assert not any(e.suspect for e in weigh([0, 1, 2, 3, -500], [5] * 5, LIMITS))


def test_a_label_the_model_agrees_with_is_never_suspected():
    """Far below the others, but still positive."""
    found = weigh([0.0] * 5, [0.1, 9.9, 10.0, 10.1, 10.2], LIMITS)
    assert found[0].margin_z > 4
    assert not found[0].suspect


@pytest.mark.parametrize(("margin", "suspect"), [(5.0, False), (30.0, True), (0.5, False)])
def test_from_a_scan_that_the_model_is_far_too_sure_about_less_is_enough(margin, suspect):
    """Change 4.5 of 1.48: 3.0 standard deviations, below 10 and beyond 2. Margins: about 5, spread at most 1.5.

    A good scan at the border of the classes, 0.5, is as far out as one of 30, and moves the loss more than most.
    """
    found = weigh([1, 2, 3, 4, 7], [4, 5, 6, 5, margin], LIMITS)
    assert found[4].loss_z == pytest.approx(4.5 / SD)
    assert found[4].suspect is suspect


def test_an_unusual_scan_that_does_no_harm_is_no_suspect():
    found = weigh([1, 2, 3, 4, -50], [4, 5, 6, 5, 90.0], LIMITS)
    assert abs(found[4].margin_z) > 4
    assert not found[4].suspect


@pytest.mark.parametrize(("image_z", "unlike", "suspect"), [(3.0, 9.0, True), (5.0, 9.0, False), (None, 9.0, False)])
def test_from_an_image_unlike_the_others_less_is_enough(image_z, unlike, suspect):
    """Change: 3.0 standard deviations, as above. Unlikeness: center 2.5, spread 2 / 1.349; 9 is 4.4 of them away."""
    limits = ScreenConfig(
        loss_z=10.0, unusual_loss_z=5.0, image_loss_z=2.0, margin_z=4.0, image_z=image_z, least_loss=0.0
    )
    found = weigh([1, 2, 3, 4, 7], [5] * 5, limits, [1, 2, 3, 4, unlike])
    assert found[4].suspect is suspect
    assert [e.image_z is None for e in found] == [image_z is None] * 5
    assert image_z is None or found[4].image_z == pytest.approx((unlike - 2.5) / SD)


def test_an_image_unlike_the_others_that_does_no_harm_is_no_suspect():
    """Nor is one that is more alike than the others, whatever it does below the ordinary limit."""
    limits = ScreenConfig(loss_z=10.0, image_loss_z=2.0, margin_z=4.0, image_z=3.0, least_loss=0.0)
    assert not weigh([1, 2, 3, 4, -50], [5] * 5, limits, [1, 2, 3, 4, 100])[4].suspect
    assert not weigh([1, 2, 3, 4, 7], [5] * 5, limits, [1, 2, 3, 4, -100])[4].suspect


@pytest.mark.parametrize(("image_z", "alone", "suspect"), [(3.0, 4.0, True), (3.0, None, False), (None, 4.0, False)])
def test_a_strange_image_alone_is_enough_only_if_asked_for(image_z, alone, suspect):
    """Unlikeness: 4.4 standard deviations, as above; the scan's step makes the model better."""
    limits = ScreenConfig(image_z=image_z, image_alone_z=alone, least_loss=0.0)
    found = weigh([1, 2, 3, 4, -50], [5] * 5, limits, [1, 2, 3, 4, 9])[4]
    assert found.suspect is suspect
    assert not suspect or found.strength == pytest.approx(6.5 / SD / 4)


def test_a_step_that_lowers_the_loss_is_no_evidence_even_if_others_lower_it_more():
    """All steps help, one less than most: far from the bulk by its z-score, and no harm, however odd its image is."""
    limits = ScreenConfig(loss_z=2.0, image_loss_z=0.1, margin_z=4.0, image_z=3.0, least_loss=0.0)
    odd = [1, 2, 3, 4, 100]
    helped, harmed = (weigh([c - shift for c in (1, 2, 3, 4, 7)], [5] * 5, limits, odd)[4] for shift in (8, 6))
    assert helped.loss_z == harmed.loss_z > 2
    assert (helped.suspect, harmed.suspect) == (False, True)


def test_a_tiny_spread_is_not_taken_at_face_value():
    changes = [0.0, 1e-6, -1e-6, 2e-6, 5e-4]
    assert weigh(changes, [5] * 5, ScreenConfig(least_loss=0.0))[4].suspect
    assert not weigh(changes, [5] * 5, ScreenConfig(least_loss=1e-4))[4].suspect


def test_margin_is_the_logit_of_the_label():
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
        ((9, 0.5), False),  # the last screening saw nothing
        ((0.2, 5), False),  # mean 2.6, standard error 2.4: 0.2 is left, not beyond the limit
    ],
)
def test_condemned_only_beyond_the_uncertainty(strengths, condemned):
    assert condemns(strengths) is condemned
