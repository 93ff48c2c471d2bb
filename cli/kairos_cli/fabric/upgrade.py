"""`kairos fabric upgrade`: brings a deployed fabric to this version while its nodes stay connected.

The new code is deployed before the database is migrated, and refuses every call with 503 in between; nodes keep their tunnels and try again.
Every step may be made again: an upgrade that was cut short anywhere is finished by the next.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from pathlib import Path

from kairos import __version__
from kairos.api.enrollment import FabricInfo
from kairos.api.operations import Health
from kairos.errors import KairosError
from kairos_cli.admin import AdminClient
from kairos_cli.fabric import deploy, resources, workspace
from kairos_cli.fabric.operator import Operator, directory
from kairos_cli.fabric.steps import Steps
from kairos_cli.fabric.wrangler import Wrangler, configured

_HEALTH_S = 60.0
_HEALTH_PAUSE_S = 1.0
_TIMEOUT_S = 10.0


class UpgradeError(KairosError):
    """The upgrade was not begun, or the fabric is not well after it; the text says which."""


def run(options: argparse.Namespace) -> None:
    operator, steps = Operator.load(directory(options.dir)), Steps()
    record = resources.known(operator)
    if not record.keys() >= {each.name for each in resources.RESOURCES if each.placeholder}:
        raise UpgradeError("this fabric was never deployed from here; the first time: kairos fabric deploy")
    root = workspace.prepare(steps)
    with steps.step("ask the fabric for its version"):
        running = AdminClient(operator).get("/v1/fabric", FabricInfo).version
    require_no_downgrade(running, __version__)
    with steps.step("compare the databases' migrations"), configured(root, resources.placeholders(record)) as names:
        wrangler = Wrangler(root, names)
        for database in wrangler.databases():
            require_known_migrations(wrangler.migrated(database), root)
    print(f"{operator.url}: {running} -> {__version__}")
    deploy.deploy(root, operator, steps)
    with steps.step(f"wait until both Workers answer with {__version__}"):
        await_health(operator, max(shipped_migrations(root)))


def require_no_downgrade(running: str, ours: str) -> None:
    """Raises UpgradeError."""
    if _numbers(running) > _numbers(ours):
        raise UpgradeError(f"the fabric runs {running}, newer than this command ({ours}): upgrade the command first")


def require_known_migrations(applied: list[str], root: Path) -> None:
    """A database that a newer version has migrated is not for this one. Raises UpgradeError."""
    shipped = shipped_migrations(root)
    if unknown := [name for name in applied if name not in shipped]:
        raise UpgradeError(f"the database has migrations that this version does not know: {', '.join(unknown)}")


def shipped_migrations(root: Path) -> set[str]:
    """The files of the migrations of this version."""
    return {path.name for path in (root / "workers/migrations").glob("*.sql")}


def await_health(operator: Operator, migration: str) -> None:
    """Raises UpgradeError when the new version does not answer, or its database is not at that migration."""
    deadline, reason = time.monotonic() + _HEALTH_S, ""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{operator.relay_url}/v1/health", timeout=_TIMEOUT_S) as answer:
                json.load(answer)
            admin = AdminClient(operator)
            database = admin.get("/v1/health", Health).database
            version = admin.get("/v1/fabric", FabricInfo).version
            if (version, database) == (__version__, migration):
                return
            reason = f"it still answers as {version}, with database {database or 'of before 0.2'}"
        except (OSError, ValueError, KairosError) as error:
            reason = str(error)
        time.sleep(_HEALTH_PAUSE_S)
    raise UpgradeError(f"the fabric is not well after the upgrade: {reason}; `wrangler rollback` goes back")


def _numbers(version: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version.split("+")[0].split("."))
    except ValueError:
        raise UpgradeError(f"{version} is no version") from None
