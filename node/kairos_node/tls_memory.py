"""Gives back what OpenSSL keeps for bytes that have passed: pyOpenSSL has no call for it.

A memory BIO stays as large as all that ever stood in it at once: 36 kB for both after a handshake with ML-DSA
certificates, which would be the larger part of an idle tunnel.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi, lib


def replace_buffers(connection: SSL.Connection) -> None:
    """Fresh BIOs for those that grew. Both must be empty: what stands in them is lost."""
    connection._into_ssl, connection._from_ssl = _buffer(), _buffer()
    lib.SSL_set_bio(connection._ssl, connection._into_ssl, connection._from_ssl)  # frees those before


def _buffer() -> Any:
    buffer = lib.BIO_new(lib.BIO_s_mem())
    if buffer == ffi.NULL:
        raise MemoryError("no memory BIO could be made")
    return buffer
