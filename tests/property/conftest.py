"""Profiles of the property tests: `HYPOTHESIS_PROFILE=search` looks further, by chance."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# What runs unattended draws the same examples each time, and prints how to draw a failure again.
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=(HealthCheck.too_slow,),
)
settings.register_profile(
    "search",
    settings.get_profile("ci"),
    derandomize=False,
    max_examples=2_000,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
