"""The C engine under noise, built with the compiler's sanitizers: no fault, no leak, no race, with either AEAD library.
Half of the noise comes through the engine's UDP socket in messages of many datagrams, and leaves in such messages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine_build import build_driver
from engine_rig import with_ipsec_mb

ROUNDS = 12_000
# Noise that is sealed must get past the tag, and meet the checks behind it.
REACHED = (
    "joined rx_datagrams rx_relay_datagrams rx_packets tx_packets flows_opened flows_denied rejects_sent drop_short drop_bad_header drop_auth drop_replay"
    " drop_bad_segment drop_bad_packet drop_spoofed_source drop_no_route drop_denied drop_unsolicited_icmp"
    " drop_icmp_type drop_unknown_fragment drop_pending crossed drop_no_mapping drop_hop_limit drop_too_large"
    " drop_expired_session drop_expired_lease drop_expired_verdict"
)

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the driver")


@pytest.fixture(scope="module", params=["address,undefined", "thread"])
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = f"-O1 -fsanitize={request.param} -fno-sanitize-recover=all"
    return build_driver("driver", tmp_path_factory.mktemp("sanitize"), flags)


@pytest.mark.parametrize("aead", ["openssl", pytest.param("ipsec-mb", marks=with_ipsec_mb)])
def test_noise_finds_no_fault(driver: Path, aead: str) -> None:
    options = {"ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1", "TSAN_OPTIONS": "halt_on_error=1"}
    run = subprocess.run(
        (str(driver), aead, "1", str(ROUNDS)),
        env={**os.environ, **options},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.returncode == 0, run.stderr[-6000:]
    counters = dict(line.split() for line in run.stdout.splitlines())
    assert not [name for name in REACHED.split() if counters[name] == "0"]


def test_a_request_that_is_refused_is_reported_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Memory, descriptors, threads, messages and what OpenSSL does: each refused once, and all from each one on."""
    driver = build_driver("starve", tmp_path, "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all")
    run = subprocess.run((str(driver), "openssl"), capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-6000:]
    assert int(run.stdout.split()[1]) > 50
