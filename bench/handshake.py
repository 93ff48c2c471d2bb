"""Tunnel set-ups: how many a second one core of a gateway makes, and what they send.

A set-up is T3 to T6: mutual TLS with ML-DSA certificates, the signed KEM exchange and the configuration, nothing
resumed. Each suite and provider has a process of its own, for a process has one TLS group. The time is each end's own
CPU time, so a machine that does other work as well does not change it much.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from bench.rounds import Rounds
from kairos.crypto.suites import SUITES, suite_named

PROVIDERS = ("cryptography", "oqs")
_SECONDS, _QUICK_SECONDS = 3.0, 0.5
_WARM_UP = 3


def main() -> None:
    rounds = Rounds("handshake", __doc__)
    seconds = _QUICK_SECONDS if rounds.quick else _SECONDS
    for _ in rounds:
        for suite in SUITES:
            for provider in PROVIDERS:
                measured = _in_own_process(suite, provider, seconds)
                name = f"{suite.lower()}_{provider}"
                rounds.add(f"{name}_gateway_per_s_core", measured["gateway_per_s"], "set-ups/s")
                rounds.add(f"{name}_endpoint_per_s_core", measured["endpoint_per_s"], "set-ups/s")
                if provider == PROVIDERS[0]:  # the bytes are the protocol's, not the library's
                    rounds.add(f"{suite.lower()}_to_gateway_bytes", measured["to_gateway"], "B")
                    rounds.add(f"{suite.lower()}_to_endpoint_bytes", measured["to_endpoint"], "B")
                if (suite, provider) == ("KR1", PROVIDERS[0]):  # the default of both
                    rounds.add("handshakes_per_s_core", measured["gateway_per_s"], "set-ups/s")
    rounds.finish()


def _in_own_process(suite: str, provider: str, seconds: float) -> dict[str, float]:
    command = (sys.executable, "-m", "bench.handshake", "--one", suite, provider, str(seconds))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 60)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])  # libraries may have spoken before
    return measured


def _measure(suite_name: str, provider_name: str, seconds: float) -> dict[str, float]:
    from kairos_node.openssl_groups import fix_group

    suite = suite_named(suite_name)
    fix_group(suite)  # before anything below loads OpenSSL
    from bench.tunnel_pair import TunnelPair
    from kairos_node.crypto import provider_named

    pair = TunnelPair(suite, provider_named(provider_name))
    for _ in range(_WARM_UP):
        pair.set_up()
    pair.gateway.cpu_s = pair.endpoint.cpu_s = 0.0
    count, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        pair.set_up()
        count += 1
    return {
        "gateway_per_s": count / pair.gateway.cpu_s,
        "endpoint_per_s": count / pair.endpoint.cpu_s,
        "to_gateway": pair.endpoint.sent,
        "to_endpoint": pair.gateway.sent,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(_measure(sys.argv[2], sys.argv[3], float(sys.argv[4]))))
    else:
        main()
