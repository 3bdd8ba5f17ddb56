"""How two pictures differ. Images are uint8 [height, width, 3], regions bool [height, width]."""

import numpy as np
from skimage.metrics import structural_similarity


def psnr(one, other, region=None):
    """In decibels over the region's pixels; None where they are equal or there are none."""
    square = (one.astype(np.float64) - other) ** 2
    if region is not None:
        square = square[region]
    if square.size == 0:
        return None
    mean = square.mean()
    return float(10 * np.log10(255**2 / mean)) if mean else None


def ssim(one, other, region=None):
    """As in Wang et al. 2004: Gaussian window, sigma 1.5; the mean over the region's pixels of the map."""
    mean, values = structural_similarity(
        one, other, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    if region is None:
        return float(mean)
    return float(values[region].mean()) if region.any() else None


def changed_share(one, other, region):
    """Share of the region's pixels of which at least one byte differs; None where there are none."""
    return float((one != other).any(-1)[region].mean()) if region.any() else None
