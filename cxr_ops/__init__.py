"""Retrains a chest X-ray classifier and promotes it only on evidence that an outsider can check."""

__version__ = "0.1.0"
