"""GSASR: an image as a sum of 2D Gaussians predicted from its LR version (Chen et al., 2025, arXiv 2501.06838)."""

from methods.gsasr.model import GSASR

__all__ = ["GSASR"]
