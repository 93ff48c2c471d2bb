"""Many sessions: what a packet costs a gateway among 1, 100 and 1,000 of them, of 10,000 with a
relay queue and a UDP source each, and what an idle one holds in memory.

Packets of 1380 bytes come from all sessions in turn: in bursts of 16, as bulk traffic arrives, and one by one, so that
none finds its own session in the cache. The cost is CPU time of the receiving thread. Memory is the growth of a gateway process that holds sessions with
nothing to do: the data plane's part, and with the tunnel's (TLS, tunnel machine).
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.rounds import Rounds
from kairos.crypto.suites import KR1

CASES = ((1, 1), (100, 1), (1_000, 1), (1_000, 10), (1_000, 100))  # sessions, VNIs
RUNS = {"scale": 16, "in_turn": 1}  # packets of one session after each other
_PACKETS, _QUICK_PACKETS = 32_000, 2_000
_IDLE, _QUICK_IDLE = 300, 30
_OWN, _QUICK_OWN = 10_000, 100
_KB = 1024


def main() -> None:
    rounds = Rounds("scale", __doc__)
    packets = _QUICK_PACKETS if rounds.quick else _PACKETS
    for _ in rounds:
        for order, run in RUNS.items():
            rates = {case: _packets_per_s(*case, run, packets) for case in CASES}
            for (sessions, vnis), rate in rates.items():
                rounds.add(f"{order}_{sessions}_sessions_{vnis}_vnis_kpps", rate / 1e3, "1000 packets/s a core")
            rounds.add(f"{order}_1000_sessions_ratio", rates[1_000, 100] / rates[1, 1], "of one session's rate")
        for name, value in _own_paths(_QUICK_OWN if rounds.quick else _OWN, packets):
            rounds.add(name, value, "1000 packets/s a core" if name.endswith("kpps") else "of one session's rate")
        for name, value in idle_in_own_process(_QUICK_IDLE if rounds.quick else _IDLE).items():
            rounds.add(name, value, "kB resident")
    rounds.finish(_pictures())


def _pictures() -> dict[str, dict[str, str]]:
    titles = {"scale": "bursts of 16 packets", "in_turn": "packet by packet"}
    pictures = {
        title: {
            f"kairos {sessions:,}/{vnis}": f"{order}_{sessions}_sessions_{vnis}_vnis_kpps" for sessions, vnis in CASES
        }
        for order, title in titles.items()
    }
    held = {"kairos data plane": "idle_session_dataplane_kb", "kairos, all": "idle_session_kb"}
    return {**{f"{title}: sessions/VNIs": bars for title, bars in pictures.items()}, "an idle session": held}


def _packets_per_s(sessions: int, vnis: int, run: int, packets: int) -> float:
    from bench.fan_in import FanIn  # loads OpenSSL, which the other process must not do before it fixed its group

    fan_in = FanIn(sessions, vnis)
    try:
        fan_in.cpu_seconds(packets // 10, run)
        return packets / fan_in.cpu_seconds(packets, run)
    finally:
        fan_in.close()


def _own_paths(sessions: int, packets: int) -> Iterator[tuple[str, float]]:
    """Each with a relay queue and a UDP source of its own, both ways."""
    from bench.own_paths import OwnPaths

    rates = []
    for count in (1, sessions):
        paths = OwnPaths(count)
        try:
            paths.cpu_seconds(packets // 10, RUNS["scale"])
            rates.append(2 * packets / paths.cpu_seconds(packets, RUNS["scale"]))
        finally:
            paths.close()
        yield f"own_paths_{count}_sessions_kpps", rates[-1] / 1e3
    yield f"own_paths_{sessions}_sessions_ratio", rates[1] / rates[0]


def idle_in_own_process(sessions: int) -> dict[str, float]:
    command = (sys.executable, "-m", "bench.scale", "--idle", str(sessions))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _idle(sessions: int) -> dict[str, float]:
    from kairos_node.openssl_groups import fix_group

    fix_group(KR1)
    from bench.fan_in import FanIn, add_session
    from bench.tunnel_pair import TunnelPair
    from kairos_node.crypto import provider_named

    gateway, pair = FanIn(1, 1), TunnelPair(KR1, provider_named("cryptography"))
    pair.set_up()  # what the first one loads is nobody's
    before = _resident()
    for number in range(1, sessions + 1):
        gateway.engine.add_relay(1 + number)
        add_session(gateway.engine, 1, number, os.urandom(32), os.urandom(12), 1 + number)
    with_sessions = _resident()
    held = []
    for _ in range(sessions):
        pair.set_up()
        held.append(pair.gateway.held())
    with_tunnels = _resident()
    gateway.close()
    return {
        "idle_session_dataplane_kb": (with_sessions - before) / sessions / _KB,
        "idle_session_kb": (with_tunnels - before) / sessions / _KB,
    }


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--idle"]:
        print(json.dumps(_idle(int(sys.argv[2]))))
    else:
        main()
