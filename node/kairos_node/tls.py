"""T3: TLS 1.3 over any transport, both sides with ML-DSA certificates, the suite's hybrid group only. Sans-IO.

OpenSSL checks the chain to the pinned root and the proof of possession; `check` decides whether the peer is the right
one; the group that was negotiated is compared with the suite's. Only then is the channel established.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto

from kairos.crypto import labels
from kairos.errors import Refused
from kairos_node.certificates import Peer, Trust
from kairos_node.crypto.pyca import private_key
from kairos_node.tls_memory import replace_buffers

EXPORTER_BYTES = 48
_READ = 65_536
_BUFFERS_KEPT = 2_048  # bytes through the BIOs that do not make them worth replacing
_MODE_NO_AUTO_CHAIN = 8  # SSL_MODE_NO_AUTO_CHAIN: show no certificate that we did not name

Check = Callable[[Sequence[bytes]], Peer]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Our certificate in DER, the seed of its key, and whom we trust."""

    certificate: bytes
    seed: bytes = field(repr=False)
    trust: Trust


class TlsChannel:
    """One connection. Feed what arrives to `receive`, send what `outgoing` gives.

    check: called once with the peer's chain (DER, its own certificate first); raises Refused or BadMessage when it is not the right one.
    """

    def __init__(self, side: Literal["client", "server"], credentials: Credentials, check: Check) -> None:
        self._suite = credentials.trust.suite
        self._check = check
        self._connection = SSL.Connection(_context(credentials, shows_issuer=side == "server"), None)
        if side == "client":
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()
        self.peer: Peer | None = None
        self._failed = False
        self._passed = 0  # bytes through the BIOs since they were new

    @property
    def established(self) -> bool:
        return self.peer is not None

    def start(self) -> None:
        """The client's first flight is then in `outgoing`."""
        self._handshake()

    def receive(self, data: bytes) -> bytes:
        """Plaintext that `data` completed. Raises Refused: tls-failed, wrong-group, or what `check` raised."""
        if data:
            self._connection.bio_write(data)
            self._passed += len(data)
        if not self.established and not self._handshake():
            return b""
        plain = bytearray()
        try:
            while True:
                plain += self._connection.recv(_READ)
        except SSL.WantReadError:
            return bytes(plain)
        except SSL.ZeroReturnError:
            return bytes(plain)
        except SSL.Error as error:
            self._failed = True
            raise Refused("tls-failed", _said(error)) from None

    def send(self, plain: bytes) -> None:
        """Its records are then in `outgoing`. A connection that failed takes nothing more: its alert has said all."""
        if not self._failed:
            self._connection.sendall(plain)

    def outgoing(self) -> bytes:
        """Bytes for the peer, taken once."""
        data = bytearray()
        try:
            while True:
                data += self._connection.bio_read(_READ)
        except SSL.WantReadError:
            self._passed += len(data)
        if self.established and not self._failed and self._passed > _BUFFERS_KEPT:
            replace_buffers(self._connection)  # both are empty: `receive` leaves nothing unread
            self._passed = 0
        return bytes(data)

    def exporter(self) -> bytes:
        """48 bytes that only the two ends of this connection know (RFC 8446 §7.5)."""
        return self._connection.export_keying_material(labels.TLS_EXPORTER, EXPORTER_BYTES, None)

    def _handshake(self) -> bool:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            self._failed = True
            raise Refused("tls-failed", _said(error)) from None
        group = self._connection.get_group_name()
        if group is None or group.lower() != self._suite.tls_group.lower():
            raise Refused("wrong-group", f"the peer negotiated {group}, not {self._suite.tls_group}")
        self.peer = self._check(self._shown())
        return True

    def _shown(self) -> list[bytes]:
        """The peer's certificate, then what it sent beside it. OpenSSL's chain has the first at a client only."""
        own = self._connection.get_peer_certificate(as_cryptography=True)
        if own is None:
            raise Refused("bad-certificate", "the peer showed no certificate")
        beside = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        return [each.public_bytes(Encoding.DER) for each in (own, *(each for each in beside if each != own))]


@lru_cache(maxsize=4)
def _context(credentials: Credentials, shows_issuer: bool) -> SSL.Context:
    """One for all connections under the same credentials: a context each would be most of an idle tunnel's memory.

    Not to show the issuer saves the peer 16 kB a connection, and it must know it then. A gateway shows its own first.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | _MODE_NO_AUTO_CHAIN)  # an idle connection keeps none
    trust = credentials.trust
    issuer, root = (x509.load_der_x509_certificate(each.der) for each in (trust.issuer, trust.root))
    context.use_certificate(x509.load_der_x509_certificate(credentials.certificate))
    context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_ASN1, _pkcs8(credentials)))
    if shows_issuer:
        context.add_extra_chain_cert(issuer)
    store = context.get_cert_store()
    assert store is not None
    for known in (root, issuer):  # a chain must still end at the root: the issuer is no anchor
        store.add_cert(crypto.X509.from_cryptography(known))

    def chain_holds(
        connection: SSL.Connection, shown: crypto.X509, _error: int, depth: int, holds: int
    ) -> bool:  # fmt: skip
        if depth == 1 and not shows_issuer and shown.to_cryptography() != issuer:
            connection.set_context(_context(credentials, shows_issuer=True))  # the peer may not know ours
        return holds == 1

    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, chain_holds)
    return context


def _pkcs8(credentials: Credentials) -> bytes:
    """pyOpenSSL takes an ML-DSA key only in this form."""
    key = private_key(credentials.trust.suite, credentials.seed)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _said(error: SSL.Error) -> str:
    """OpenSSL's own reason, for a person."""
    reasons = [entry[2] for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    return f"TLS: {', '.join(reasons) or 'the connection broke'}"
