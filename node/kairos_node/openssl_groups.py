"""Fixes the one TLS group of a process before OpenSSL is first loaded (docs/design/0004-tls-groups.md).

pyOpenSSL has no call for it; the OpenSSL inside `cryptography` reads OPENSSL_CONF when it starts. A daemon calls
`fix_group` before anything imports `cryptography`; the TLS channel then checks what was negotiated.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from kairos.crypto.suites import Suite
from kairos.errors import Refused

_CONFIGURATION = """\
openssl_conf = kairos
[kairos]
ssl_conf = ssl
[ssl]
system_default = tls
[tls]
Groups = {group}
MinProtocol = TLSv1.3
"""


def fix_group(suite: Suite) -> None:
    """Sets the suite's group for this process. Raises Refused when another group was fixed, or it is too late."""
    marker = f"kairos-{suite.tls_group}.cnf"
    current = os.environ.get("OPENSSL_CONF", "")
    if current.endswith(marker):
        return
    if "cryptography.hazmat.bindings._rust" in sys.modules:
        raise Refused("wrong-group", f"OpenSSL is loaded already: start a process of its own for suite {suite.name}")
    folder = Path(tempfile.mkdtemp(prefix="kairos-openssl-"))
    path = folder / marker
    path.write_text(_CONFIGURATION.format(group=suite.tls_group))
    os.environ["OPENSSL_CONF"] = str(path)
    try:
        import cryptography.hazmat.bindings._rust  # noqa: F401  # reads the file now, once
        from OpenSSL import SSL  # noqa: F401
    finally:
        path.unlink()
        folder.rmdir()
