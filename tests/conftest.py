"""Before anything loads OpenSSL: this process speaks suite KR1. One process, one TLS group; KR5 has processes of its own.

No test may depend on how fast the machine is. Property tests have no deadline, and Hypothesis does not count how long it
takes to make examples (`too_slow`): on a slow machine with an empty example database that alone failed whole files.
Where CI is set, the examples are the same in each run, so that a failure there is one of the change. `./dev nightly` makes new ones, and more.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

import worker_network
from effort import NIGHTLY, effort
from kairos.crypto.suites import KR1
from kairos_node.openssl_groups import fix_group

fix_group(KR1)
settings.register_profile(
    "kairos",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")) and not NIGHTLY,
    max_examples=effort(100, nightly=1000),
    print_blob=True,
)
settings.load_profile("kairos")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # one of several processes of pytest-xdist
        worker_network.enter()
