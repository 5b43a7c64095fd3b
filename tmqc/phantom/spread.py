"""How much a phantom's scans differ: one record a kind of cohort, written to phantom.json."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Standard deviations and shares. The defaults are the easy phantom's, calibrated at 4 mm voxels."""

    version: int = 2  # of the generator: raise it when the same numbers come to mean another image
    pd_mean: float = 0.30  # relative darkening of deep grey matter in PD at effect 1
    pd_sd: float = 0.04  # over patients
    pd_least: float = 0.08  # no patient has less
    deep_sd: float = 0.035  # of deep grey matter signal in everybody, relative
    tissue_sd: float = 0.005  # of grey and of white matter signal in everybody, relative
    atrophy_per_year: float = 0.001  # relative loss of grey matter signal per year above 60
    warp_sd_mm: float = 1.0  # of the displacement along each axis
    warp_knots_mm: float = 32.0
    sex_scale: float = 0.0  # relative difference in length between men's and women's brains
    scale_sd: float = 0.0  # of everybody's brain, relative
    scanner_sd: float = 0.005  # of grey and of white matter signal over scanner types, relative
    blur_high_mm: float = 0.0  # a scanner type's Gaussian blur is uniform between 0 and this
    gamma_sd: float = 0.01  # from here on over centers
    gain_sd: float = 0.005
    bias_sd: float = 0.01  # of the bias field's logarithm
    bias_knots_mm: float = 80.0
    noise_low: float = 1.5  # sigma of the Gaussian noise is uniform between the two, on a 0..255 scale
    noise_high: float = 2.5


SPREADS = {
    "easy": Spread(),
    "field": Spread(
        pd_mean=0.09,
        pd_sd=0.03,
        pd_least=0.0,
        deep_sd=0.05,
        tissue_sd=0.015,
        atrophy_per_year=0.002,
        warp_sd_mm=1.5,
        sex_scale=0.04,
        scale_sd=0.015,
        scanner_sd=0.04,
        blur_high_mm=4.0,
        gamma_sd=0.06,
        gain_sd=0.06,
        bias_sd=0.06,
        noise_low=2.0,
        noise_high=6.0,
    ),
}
