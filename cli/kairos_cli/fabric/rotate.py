"""`kairos fabric rotate`: a new internal key or root credential, while the fabric accepts the old one as well."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from kairos.errors import KairosError
from kairos_cli.fabric import resources, workspace
from kairos_cli.fabric.deploy import put_secrets, remove_unused
from kairos_cli.fabric.operator import Operator, directory, write_files
from kairos_cli.fabric.steps import Steps
from kairos_cli.fabric.wrangler import Wrangler

_FILES = {"internal-key": "internal.key", "root-credential": "admin.token"}
_PREFIXES = {"internal-key": "", "root-credential": "kairos-admin-"}


def run(options: argparse.Namespace) -> None:
    folder, name = directory(options.dir), _FILES[options.what]
    operator = Operator.load(folder)
    if operator.is_from_before_0_2 and resources.known(operator):
        raise KairosError("the deployed fabric is of a release that cannot rotate this; first: kairos fabric upgrade")
    if options.finish:
        finish(folder, name)
    else:
        begin(folder, name, _PREFIXES[options.what])
    operator = Operator.load(folder)
    if not resources.known(operator):
        print("Start kairos fabric dev again: it takes the change with its next start.")
    else:
        steps = Steps()
        root = workspace.prepare(steps)
        wrangler = Wrangler(root)
        put_secrets(wrangler, operator, steps)
        remove_unused(wrangler, operator, steps)
    if not options.finish:
        print(f"The previous one is accepted until: kairos fabric rotate {options.what} --finish")


def begin(folder: Path, name: str, prefix: str) -> None:
    """Writes the new value beside the previous one. A rotation that was begun goes on with the value that it has."""
    path = folder / name
    previous, old = path.with_suffix(".previous"), path.read_bytes()
    if not previous.exists() or previous.read_bytes() == old:
        write_files(folder, [(previous.name, old), (name, f"{prefix}{secrets.token_urlsafe(32)}\n".encode())])


def finish(folder: Path, name: str) -> None:
    """The previous value is accepted no longer. Raises KairosError."""
    previous = (folder / name).with_suffix(".previous")
    if not previous.exists():
        raise KairosError(f"{name} is not being rotated")
    previous.unlink()
