"""Hypothesis as the tests of features use it: the same examples on every run, and no deadline on a busy machine.

``pytest tests/features --hypothesis-profile=search`` looks for new examples, and for many more of them.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

_busy = [HealthCheck.too_slow]
settings.register_profile(
    "repeatable", max_examples=100, derandomize=True, database=None, deadline=None, suppress_health_check=_busy
)
settings.register_profile("search", max_examples=3000, derandomize=False, deadline=None, suppress_health_check=_busy)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("repeatable")
