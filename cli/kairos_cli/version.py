"""`kairos version`."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

from kairos import __version__
from kairos.constants import PROTOCOL
from kairos_cli.output import as_fields, as_json

_STANDS_ON = ("cryptography", "pyOpenSSL", "liboqs-python", "msgspec", "wasmtime", "pyroute2", "picows")


def run(options: argparse.Namespace) -> None:
    versions = {"kairos-red": __version__, "protocol": PROTOCOL, "python": platform.python_version()}
    for name in _STANDS_ON:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    if options.json:
        as_json(versions)
    else:
        as_fields(versions.items())
