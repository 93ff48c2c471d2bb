"""`kairos fabric deploy --dry-run`: all that can be checked without an account, as a table."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kairos_cli.fabric import cloudflare_limits as limits
from kairos_cli.fabric import settings
from kairos_cli.fabric.import_cost import import_cpu_ms
from kairos_cli.fabric.operator import Operator
from kairos_cli.fabric.settings import CONFIGURATION, WORKERS, Worker
from kairos_cli.fabric.steps import Steps
from kairos_cli.fabric.wrangler import Wrangler
from kairos_cli.output import as_json, as_table

_FLAGS = ("python_workers", "python_workers_314", "webcrypto_modern_algorithms")


@dataclass(frozen=True, slots=True)
class Check:
    """One row."""

    worker: str
    """Which Worker."""
    what: str
    """What was looked at, as a figure's name."""
    value: float
    """What it is."""
    limit: float
    """The most that it may be."""
    is_estimate: bool = False
    """Measured on this machine, so it does not decide."""

    @property
    def holds(self) -> bool:
        return self.value <= self.limit

    @property
    def verdict(self) -> str:
        return "ok" if self.holds else "slow here" if self.is_estimate else "TOO MUCH"


def report(root: Path, operator: Operator, steps: Steps, as_figures: bool) -> int:
    """Prints it; 1 if Cloudflare would refuse something."""
    checks = list(_checks(root, operator, steps))
    if as_figures:
        as_json({f"{each.what}_{each.worker}": each.value for each in checks})
    else:
        rows = [(each.worker, each.what, f"{each.value:,.0f}", f"{each.limit:,.0f}", each.verdict) for each in checks]
        as_table(("worker", "what", "is", "at most", ""), rows, "")
    failed = any(not each.holds and not each.is_estimate for each in checks)
    if not as_figures:
        print(
            "Cloudflare would refuse this."
            if failed
            else "Nothing was changed. Without --dry-run: resources, secrets, the control Worker, migrations, the relay Worker."
        )
    return int(failed)


def _checks(root: Path, operator: Operator, steps: Steps) -> Iterator[Check]:
    for worker in WORKERS:
        configuration = tomllib.loads((root / CONFIGURATION[worker]).read_text())
        given = settings.variables(operator, worker) | settings.secrets(operator, worker)
        yield Check(worker, "variables", len(given), limits.VARIABLES)
        yield Check(
            worker, "variable_bytes", max(len(value.encode()) for value in given.values()), limits.VARIABLE_BYTES
        )
        with steps.step(f"build the {worker} Worker"):
            upload = Wrangler(root).dry_run(worker, settings.variables(operator, worker))
        yield Check(worker, "script_gzip_bytes", upload.compressed, limits.SCRIPT_BYTES)
        missing = [flag for flag in _FLAGS if flag not in configuration["compatibility_flags"]]
        yield Check(worker, "missing_flags", len(missing), 0)
        yield from _queue_checks(worker, configuration)
        yield Check(worker, "object_classes_without_migration", len(unmade_classes(configuration)), 0)
    yield from migration_checks(root / "workers/migrations")
    with steps.step("measure what importing the Workers costs"):
        costs = import_cpu_ms(root)
    for worker in WORKERS:
        yield Check(worker, "import_cpu_ms", costs[worker], limits.STARTUP_CPU_MS, is_estimate=True)


def unmade_classes(configuration: dict[str, Any]) -> set[str]:
    """Classes of Durable Objects that are bound, and that no migration of the configuration makes. Cloudflare refuses them."""
    made = {name for each in configuration["migrations"] for name in each["new_sqlite_classes"]}
    return {each["class_name"] for each in configuration["durable_objects"]["bindings"]} - made


def _queue_checks(worker: Worker, configuration: dict[str, Any]) -> Iterator[Check]:
    consumers = configuration.get("queues", {}).get("consumers", [])
    if not consumers:
        return
    for name, limit in (
        ("max_batch_size", limits.QUEUE_BATCH_MESSAGES),
        ("max_batch_timeout", limits.QUEUE_BATCH_WAIT_S),
        ("max_retries", limits.QUEUE_RETRIES),
        ("retry_delay", limits.QUEUE_DELAY_S),
    ):
        yield Check(worker, f"queue_{name}", max(each[name] for each in consumers), limit)
    without = [each for each in consumers if "dead_letter_queue" not in each and not each["queue"].endswith("-dead")]
    yield Check(worker, "queues_without_dead_letters", len(without), 0)


def migration_checks(folder: Path) -> Iterator[Check]:
    """Numbered from 0001 without a gap, each statement within D1's length."""
    names = sorted(path.name for path in folder.glob("*.sql"))
    wrong = [name for number, name in enumerate(names, 1) if not name.startswith(f"{number:04}_")]
    yield Check("control", "migrations_misnumbered", len(wrong), 0)
    longest = max(
        (len(each.encode()) for name in names for each in _statements((folder / name).read_text())), default=0
    )
    yield Check("control", "migration_statement_bytes", longest, limits.SQL_STATEMENT_BYTES)


def _statements(script: str) -> list[str]:
    return re.sub(r"--.*$", "", script, flags=re.MULTILINE).split(";")
