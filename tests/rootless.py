"""`kairos proxy` for tests: a device of the overlay in the hands of a user who is not root.

alice's namespace: curl, a program --127.0.0.1:1080--> kairos proxy, with a namespace a VNI of its own --> gateway, bob
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from overlay import Host, sh

SOMEBODY, SOMEBODY_ELSE = 65534, 65533
PROXY = "127.0.0.1:1080"


class Rootless(Host):
    """Another host's node, on that host, in the hands of a user who is not root."""

    def __init__(self, host: Host, folder: Path) -> None:
        super().__init__(host.name, host.namespace, folder, "endpoint")
        self.node = host.node
        self.options: tuple[str, ...] = ()
        self.has_tun = True  # /dev/net/tun, open to him as most systems have it
        shutil.copytree(host.state.directory, self.state.directory, ignore=shutil.ignore_patterns("socket", "lock"))
        self._tun = folder / "tun"
        os.mknod(self._tun, 0o020600, os.stat("/dev/net/tun").st_rdev)
        sh(f"chown -R {user()}:{user()} {folder}")

    def daemon(self) -> tuple[str, ...]:
        command = (
            sys.executable,
            "-m",
            "kairos_cli.main",
            "proxy",
            "--state",
            str(self.state.directory),
            *self.options,
        )
        device = f"mount --bind {self._tun} /dev/net/tun" if self.has_tun else "mount -t tmpfs none /dev/net"
        script = f'unset OPENSSL_CONF && {device} && exec "$@"'
        return ("sh", "-c", script, "sh", *as_user(user()), *command)

    def curl(self, *arguments: str, who: int | None = None) -> subprocess.CompletedProcess[str]:
        return self.run(*as_user(user() if who is None else who), "curl", "-sS", "-m", "20", *arguments)

    def program(self, *command: str) -> subprocess.Popen[str]:
        """Of his, started; what it prints comes through a pipe."""
        inside = ("ip", "netns", "exec", self.namespace, *as_user(user()), *command)
        return subprocess.Popen(inside, stdout=subprocess.PIPE, text=True)

    def code(self, url: str, proxy: str = f"socks5h://{PROXY}") -> str:
        """What the proxy said to curl, if not yes: the SOCKS reply or the HTTP status."""
        said = self.curl("-p", "-x", proxy, url).stderr
        return said.strip().rpartition(" ")[2].strip("()")


def as_user(who: int) -> tuple[str, ...]:
    """Without any capability over the host. Root keeps the one without which the kernel lets it map no uid 0."""
    if who == 0:
        return ("setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", "--no-new-privs")
    return ("setpriv", f"--reuid={who}", f"--regid={who}", "--clear-groups", "--no-new-privs")


@cache
def user() -> int:
    """Nobody; or root, its capabilities taken away, where this Python lies in a folder closed to others."""
    runs = subprocess.run((*as_user(SOMEBODY), sys.executable, "-c", "import kairos_cli.main"), capture_output=True)
    return 0 if runs.returncode else SOMEBODY


def has_namespaces() -> bool:
    """Does this host give its users namespaces of their own?"""
    asked = (*as_user(user()), "unshare", "--user", "--map-current-user", "--net", "true")
    return subprocess.run(asked, capture_output=True).returncode == 0
