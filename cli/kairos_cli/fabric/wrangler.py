"""The pinned wrangler, with this fabric's variables and secrets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kairos.errors import KairosError
from kairos_cli.fabric import settings, workspace
from kairos_cli.fabric.operator import Operator
from kairos_cli.fabric.settings import CONFIGURATION, WORKERS, Worker

_KIB = 1024


class DeployError(KairosError):
    """wrangler refused, or a check did; the text has the reason."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What one Worker's upload comes to."""

    modules: int
    """Files."""
    bytes: int
    """All of them, as they are."""
    compressed: int
    """With gzip: what Cloudflare's limit is about."""


class Wrangler:
    """wrangler of the workspace, on a Node that it takes. configurations: the file of each Worker."""

    def __init__(self, root: Path, configurations: dict[Worker, str] | None = None) -> None:
        self._root = root
        self._configurations = configurations or CONFIGURATION

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Its standard output. Raises DeployError with its error."""
        node = workspace.node()
        done = subprocess.run(
            (node, "node_modules/wrangler/bin/wrangler.js", *arguments),
            cwd=self._root,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "CI": "true",
                "WRANGLER_SEND_METRICS": "false",
                "PATH": f"{Path(sys.executable).parent}:{Path(node).parent}:{os.environ['PATH']}",
            },
        )
        if done.returncode:
            raise DeployError(f"wrangler {' '.join(arguments[:2])}: {_error_line(done.stderr + done.stdout)}")
        return done.stdout

    def dry_run(self, worker: Worker, variables: dict[str, str]) -> Upload:
        """Builds one Worker into .build/deploy; returns what would be uploaded."""
        folder = f".build/deploy/{Path(CONFIGURATION[worker]).stem}"
        said = self.run("deploy", "--dry-run", "--outdir", folder, *self._with(worker), *_options(variables))
        total = re.search(r"Total Upload: ([\d.]+) KiB / gzip: ([\d.]+) KiB", said)
        if total is None:
            raise DeployError(f"wrangler did not say how large the {worker} Worker is")
        modules = sum(1 for path in (self._root / folder).rglob("*") if path.is_file())
        return Upload(modules, int(float(total[1]) * _KIB), int(float(total[2]) * _KIB))

    def deploy(self, worker: Worker, operator: Operator) -> None:
        """A new version, with its variables; the secrets of the version before stay."""
        self.run("deploy", *self._with(worker), *_options(settings.variables(operator, worker)))

    def put_secrets(self, worker: Worker, secrets: dict[str, str | None]) -> None:
        """Sets all of them in one call; None removes one. Others stay as they are."""
        self.run("secret", "bulk", *self._with(worker), stdin=json.dumps(secrets))

    def secrets(self, worker: Worker) -> set[str]:
        """The names of the secrets that a deployed Worker has."""
        said = self.run("secret", "list", "--format", "json", *self._with(worker))
        return {each["name"] for each in json.loads(said)}

    def migrate(self) -> None:
        """Applies to each D1 database the migrations that have not been applied."""
        for database in self.databases():
            self.run("d1", "migrations", "apply", database, "--remote", *self._with("control"))

    def databases(self) -> list[str]:
        """The names of the D1 databases of the control plane, in the order of its configuration."""
        configuration = tomllib.loads((self._root / self._configurations["control"]).read_text())
        return [each["database_name"] for each in configuration["d1_databases"]]

    def migrated(self, database: str) -> list[str]:
        """The migrations that the database has, in order; none of a database without that table."""
        query = "SELECT name FROM sqlite_master WHERE name = 'd1_migrations'"
        command = ("d1", "execute", database, "--remote", "--json", *self._with("control"), "--command")
        if not json.loads(self.run(*command, query))[0]["results"]:
            return []
        rows = json.loads(self.run(*command, "SELECT name FROM d1_migrations ORDER BY id"))[0]["results"]
        return [row["name"] for row in rows]

    def _with(self, worker: Worker) -> tuple[str, str]:
        return ("--config", self._configurations[worker])


@contextmanager
def configured(root: Path, identifiers: dict[str, str]) -> Iterator[dict[Worker, str]]:
    """The two configurations with the account's ids in place of the placeholders, beside the originals for as long
    as they are needed: wrangler finds sources relative to its configuration."""
    written: dict[Worker, str] = {}
    try:
        for worker in WORKERS:
            text = (root / CONFIGURATION[worker]).read_text()
            for placeholder, identifier in identifiers.items():
                text = text.replace(f'"{placeholder}"', f'"{identifier}"')
            written[worker] = f".deploy.{CONFIGURATION[worker]}"
            (root / written[worker]).write_text(text)
        yield written
    finally:
        for name in written.values():
            (root / name).unlink(missing_ok=True)


def _options(variables: dict[str, str]) -> list[str]:
    return [word for name, value in variables.items() for word in ("--var", f"{name}:{value}")]


def _error_line(output: str) -> str:
    """The line with the error and the one after it, where wrangler gives the reason."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if line] or ["no reason was given"]
    first = next((at for at, line in enumerate(lines) if "ERROR" in line or "rror:" in line), 0)
    return " ".join(lines[first : first + 2])[:400]
