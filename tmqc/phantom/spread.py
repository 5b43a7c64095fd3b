"""Variation between the scans of a phantom cohort: one record per kind of cohort, written to phantom.json."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Standard deviations and shares. The defaults are those of the easy phantom, calibrated at 4 mm voxels."""

    version: int = 2  # of the generator; raise it when the same numbers give another image
    pd_mean: float = 0.30  # relative darkening of deep gray matter in PD at effect 1
    pd_sd: float = 0.04  # over patients
    pd_least: float = 0.08  # minimum over patients
    deep_sd: float = 0.035  # of deep gray matter signal between individuals, relative
    tissue_sd: float = 0.005  # of gray and of white matter signal between individuals, relative
    atrophy_per_year: float = 0.001  # relative loss of gray matter signal per year above 60
    warp_sd_mm: float = 1.0  # of the displacement along each axis
    warp_knots_mm: float = 32.0
    sex_scale: float = 0.0  # relative difference in length between men's and women's brains
    scale_sd: float = 0.0  # of brain size between individuals, relative
    scanner_sd: float = 0.005  # of gray and of white matter signal over scanner types, relative
    blur_high_mm: float = 0.0  # a scanner type's Gaussian blur is uniform between 0 and this
    scanner_share: float = 0.0  # share of the variance of the following fields that is between scanner types
    gamma_sd: float = 0.01
    gain_sd: float = 0.005
    bias_sd: float = 0.01  # of the bias field's logarithm
    bias_knots_mm: float = 80.0
    noise_low: float = 1.5  # sigma of the Gaussian noise is uniform between the two, on a 0..255 scale
    noise_high: float = 2.5


# Variation as in a multicenter study; measured in docs/field-cohort.md.
FIELD = Spread(
    # PD and HC overlap: 1.8 standard deviations apart, so the true deep gray signal of every scan would give an AUROC
    # of .90; published models of PD reach .80 to .83 (doi 10.3389/frai.2024.1301997).
    pd_mean=0.22,
    pd_sd=0.07,  # duration and subtype of the disease differ
    pd_least=0.0,
    deep_sd=0.11,  # iron and age also change deep gray matter in healthy people
    tissue_sd=0.015,  # T1 differs by 1 to 3 % between healthy people
    atrophy_per_year=0.002,  # after 60 the brain loses some 0.2 to 0.5 % a year
    warp_sd_mm=1.5,  # of anatomy, after an affine registration
    # Men's intracranial volume is 12 % larger, 3.8 % in length (doi 10.1016/j.neubiorev.2013.12.004); three quarters of
    # it represents the differences in size and shape that remain after an affine registration.
    sex_scale=0.028,
    scale_sd=0.015,  # the sexes overlap: 1.9 standard deviations apart
    # Grey to white matter contrast depends on field strength, TI and TR: tissue signal differs by several percent
    # between protocols of one vendor, quantitative T1 maps alone by up to 8 % (doi 10.3389/fnins.2013.00095).
    scanner_sd=0.08,
    blur_high_mm=4.0,  # voxels of 1 mm to slices of 5 mm, motion, interpolation; hardly seen at 8 mm
    scanner_share=0.6,  # coil and reconstruction come with the scanner, set-up and protocol with the center
    gamma_sd=0.08,  # vendors' reconstruction and the mapping of 12 or 16 bits to 0..255
    gain_sd=0.08,  # T1 images have no unit: a scale by the brightest voxels is off by several percent
    bias_sd=0.08,  # coils shade by 20 to 40 % at 3 tesla; this is the remainder after bias correction
    noise_low=2.0,  # a signal-to-noise ratio of 85 in white matter down to 21; coils, field strength, parallel imaging
    noise_high=8.0,
)
SPREADS = {"easy": Spread(), "field": FIELD}
