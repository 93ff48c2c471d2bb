"""One process, one TLS group. OpenSSL reads it once, so each case runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from issued import Authority
from kairos_node.certificates import Peer
from kairos_node.tls import TlsChannel

# Both ends of a channel of `suite` in a process whose groups are `groups`; says how it ended.
BOTH_ENDS = """
import sys
suite_name, groups = sys.argv[1:]
from kairos.crypto.suites import SUITES
from kairos.errors import Refused
from kairos_node.openssl_groups import fix_group
if groups in SUITES:
    fix_group(SUITES[groups])
from issued import Authority
from kairos_node.certificates import verify_peer_untrusted
from kairos_node.crypto import provider_named
from kairos_node.tls import TlsChannel
authority = Authority(provider_named("cryptography"), SUITES[suite_name])
def check(role):
    return lambda chain: verify_peer_untrusted(
        authority.provider, authority.trust, chain, tenant="acme", role=role, now=authority.now)
client = TlsChannel("client", authority.issue("ep-a"), check("gateway"))
server = TlsChannel("server", authority.issue("gw-a", "gateway"), check("endpoint"))
client.start()
try:
    for _ in range(3):
        server.receive(client.outgoing())
        client.receive(server.outgoing())
    print("same" if client.exporter() == server.exporter() else "different")
except Refused as refusal:
    print(refusal.code)
"""
# A server whose process has the group of another suite is given a ClientHello.
SERVER = """
import sys
from kairos.crypto.suites import KR1, KR5
from kairos.errors import Refused
from kairos_node.openssl_groups import fix_group
fix_group(KR5)
from issued import Authority
from kairos_node.crypto import provider_named
from kairos_node.tls import TlsChannel
authority = Authority(provider_named("cryptography"), KR1)
try:
    TlsChannel("server", authority.issue("gw-a", "gateway"), None).receive(bytes.fromhex(sys.stdin.read()))
except Refused as refusal:
    print(refusal.code)
"""
TOO_LATE = """
import cryptography.hazmat.bindings._rust
from kairos.crypto.suites import KR1
from kairos.errors import Refused
from kairos_node.openssl_groups import fix_group
try:
    fix_group(KR1)
except Refused as refusal:
    print(refusal.code)
"""


def said(program: str, *arguments: str, given: str = "", configuration: Path | None = None) -> str:
    """What a process of its own prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("OPENSSL_CONF", None)
    if configuration is not None:
        environment["OPENSSL_CONF"] = str(configuration)
    command = (sys.executable, "-c", program, *arguments)
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=environment, check=False)
    assert not done.stderr, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("suite", ["KR1", "KR5"])
def test_both_ends_of_a_suite_agree(suite: str) -> None:
    assert said(BOTH_ENDS, suite, suite) == "same"


@pytest.mark.parametrize(("suite", "other"), [("KR1", "KR5"), ("KR5", "KR1")])
def test_the_group_of_the_other_suite_is_refused(suite: str, other: str) -> None:
    assert said(BOTH_ENDS, suite, other) == "wrong-group"


@pytest.mark.parametrize("group", ["X25519", "P-384"])
def test_a_classical_group_is_refused(tmp_path: Path, group: str) -> None:
    """Also when the machine's own OpenSSL configuration asks for it."""
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(
        f"openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nGroups = {group}\n", "ascii"
    )
    assert said(BOTH_ENDS, "KR1", "", configuration=configuration) == "wrong-group"


def test_a_peer_that_offers_another_group_only_gets_no_handshake(authority: Authority) -> None:
    def nobody(_: Sequence[bytes]) -> Peer:
        raise AssertionError("no handshake, no certificate")

    client = TlsChannel("client", authority.issue("ep-a"), nobody)
    client.start()
    assert said(SERVER, given=client.outgoing().hex()) == "tls-failed"


def test_it_is_never_too_late_in_silence() -> None:
    assert said(TOO_LATE) == "wrong-group"
