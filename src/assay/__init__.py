"""Assay: from raw preference pairs to a reward model that you can trust."""

__version__ = "0.1.0"
