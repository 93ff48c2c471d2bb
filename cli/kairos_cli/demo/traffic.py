"""What the demo sends through its network, and what it saw."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from kairos_cli.demo.hosts import DemoError, Host


def probe(host: Host, python: str, *question: str, timeout: float = 30) -> dict[str, Any]:
    """One question of kairos_cli.demo.probe, asked on `host`."""
    done = host.run(python, "-m", "kairos_cli.demo.probe", *question, timeout=timeout)
    if done.returncode:
        raise DemoError(f"probe {' '.join(question)}: {done.stderr.strip().splitlines()[-1:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def iperf3(host: Host, server: str, seconds: int, *options: str) -> float:
    """Mbit/s that `server` received of one TCP stream."""
    done = host.run("iperf3", "-J", "-c", server, "-t", str(seconds), *options, timeout=seconds + 30)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise DemoError(f"iperf3 to {server}: {done.stderr.strip() or done.stdout.strip() or 'no word'}") from None
    if "error" in report:
        raise DemoError(f"iperf3 to {server}: {report['error']}")
    received: float = report["end"]["sum_received"]["bits_per_second"]
    return received / 1e6


class Stream:
    """A connection that sends all the time, open when the block begins."""

    def __init__(self, host: Host, python: str, server: str, port: int) -> None:
        command = host.command(python, "-m", "kairos_cli.demo.probe", "stream", server, str(port))
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise DemoError(f"no connection to {server}:{port}: {(self._process.communicate()[1]).strip()[-200:]}")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def cut_at(self) -> float:
        """Waits for it: Unix seconds."""
        said, _ = self._process.communicate()
        until: float | None = json.loads(said)["until"] if said else None
        if until is None:
            raise DemoError("the connection was not cut")
        return until


class Iperf:
    """A live iperf3 of 20 Mbit/s, looked at each tenth of a second."""

    def __init__(self, host: Host, server: str, port: int, seconds: int) -> None:
        words = ("iperf3", "-J", "-i", "0.1", "-b", "20M", "-t", str(seconds), "-c", server, "-p", str(port))
        self._process = subprocess.Popen(
            host.command(*words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._seconds = seconds
        self._said: dict[str, Any] = {}

    def __enter__(self) -> Iperf:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def complete(self) -> bool:
        return bool(self._said) and "error" not in self._said

    def await_end(self, seconds: float) -> None:
        try:
            said, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise DemoError(f"iperf3 still runs after {seconds:.0f} s") from None
        self._said = json.loads(said or '{"error": "no word"}')

    def longest_gap_ms(self) -> float:
        """After its end: the longest time without a byte. Raises DemoError when it did not come to its end."""
        self.await_end(self._seconds + 30)
        if not self.complete:
            raise DemoError(f"iperf3: {self._said.get('error')}")
        longest = gap = 0.0
        for interval in self._said["intervals"]:
            gap = gap + interval["sum"]["seconds"] if interval["sum"]["bytes"] == 0 else 0.0
            longest = max(longest, gap)
        return round(longest * 1e3, 1)
