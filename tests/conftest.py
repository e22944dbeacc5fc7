"""What all tests share."""

from hypothesis import settings

settings.register_profile("assay", deadline=None)  # a timed test fails on a busy machine
settings.load_profile("assay")
