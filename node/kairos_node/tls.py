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

EXPORTER_BYTES = 48
_READ = 65_536

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
        self._connection = SSL.Connection(_context(credentials), None)
        if side == "client":
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()
        self.peer: Peer | None = None
        self._failed = False

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


@lru_cache(maxsize=2)
def _context(credentials: Credentials) -> SSL.Context:
    """One for all connections under the same credentials: a context each would be most of an idle tunnel's memory."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle connection keeps none
    trust = credentials.trust
    context.use_certificate(x509.load_der_x509_certificate(credentials.certificate))
    context.add_extra_chain_cert(x509.load_der_x509_certificate(trust.issuer.der))
    context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_ASN1, _pkcs8(credentials)))
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(crypto.X509.from_cryptography(x509.load_der_x509_certificate(trust.root.der)))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _chain_holds)
    return context


def _pkcs8(credentials: Credentials) -> bytes:
    """pyOpenSSL takes an ML-DSA key only in this form."""
    key = private_key(credentials.trust.suite, credentials.seed)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _chain_holds(_connection: SSL.Connection, _certificate: crypto.X509, _error: int, _depth: int, holds: int) -> bool:
    return holds == 1


def _said(error: SSL.Error) -> str:
    """OpenSSL's own reason, for a person."""
    reasons = [entry[2] for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    return f"TLS: {', '.join(reasons) or 'the connection broke'}"
