"""`kairos fabric deploy`: deploys the fabric into a Cloudflare account. `--dry-run` builds and checks everything and
changes nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from kairos_cli.fabric import cloudflare_limits, dry_run, resources, settings, workspace
from kairos_cli.fabric.operator import Operator, directory
from kairos_cli.fabric.settings import WORKERS, Worker
from kairos_cli.fabric.steps import Steps
from kairos_cli.fabric.wrangler import Wrangler, configured

_PRESENTED: dict[Worker, str] = {
    "control": "CUT_KEY",
    "relay": "INTROSPECTION_KEY",
}  # the key that each presents to the other


def run(options: argparse.Namespace) -> int:
    operator, steps = Operator.load(directory(options.dir)), Steps(quiet=getattr(options, "json", False))
    root = workspace.prepare(steps)
    if options.dry_run:
        return dry_run.report(root, operator, steps, options.json)
    deploy(root, operator, steps)
    print(
        f"Route {operator.url} and {operator.relay_url} to the two Workers; then: kairos fabric doctor, kairos tenant create NAME"
    )
    return 0


def deploy(root: Path, operator: Operator, steps: Steps) -> None:
    """Every step can be repeated, so the next run finishes one that was interrupted. Raises DeployError, LimitError."""
    secrets = {worker: settings.secrets(operator, worker) for worker in WORKERS}
    for worker in WORKERS:
        for breach in cloudflare_limits.breaches_of_variables(
            worker, settings.variables(operator, worker) | secrets[worker]
        ):
            raise cloudflare_limits.LimitError(breach)
    with steps.step("database, cache, bucket and queues"):
        identifiers = resources.ensure(operator, Wrangler(root))
    with configured(root, identifiers) as configurations:
        wrangler = Wrangler(root, configurations)
        # Secrets first: wrangler then makes a Worker that is not there yet. Each of the two is bound to the other, and Cloudflare refuses a
        # binding to a Worker that is not there. A secret that the running version does not know changes nothing for it.
        put_secrets(wrangler, operator, steps)
        # Then the code, then the migrations: new code refuses every call until they are applied, and old code never sees a table that they
        # changed. The relay uses no database.
        with steps.step("the control Worker"):
            wrangler.deploy("control", operator)
        with steps.step("database migrations"):
            wrangler.migrate()
        with steps.step("the relay Worker"):
            wrangler.deploy("relay", operator)
        operator.leave_0_1()
        remove_unused(wrangler, operator, steps)


def put_secrets(wrangler: Wrangler, operator: Operator, steps: Steps) -> None:
    """Sets the secrets of both Workers.

    While the internal key is rotated, each Worker first gets the keys that it accepts and then the key that it
    presents, so that neither presents a key that the other does not accept yet.
    """
    held = {worker: settings.secrets(operator, worker) for worker in WORKERS}
    if operator.previous("internal.key"):
        for worker in WORKERS:
            with steps.step(f"secrets of the {worker} Worker: what it accepts"):
                wrangler.put_secrets(
                    worker, {name: text for name, text in held[worker].items() if name != _PRESENTED[worker]}
                )
    for worker in WORKERS:
        with steps.step(f"secrets of the {worker} Worker"):
            wrangler.put_secrets(worker, dict(held[worker]))


def remove_unused(wrangler: Wrangler, operator: Operator, steps: Steps) -> None:
    """Removes secrets that the deployed version does not read: the seed of a former issuer, a key whose rotation is
    finished."""
    for worker in WORKERS:
        if unused := sorted(wrangler.secrets(worker) - settings.secrets(operator, worker).keys()):
            with steps.step(f"remove what the {worker} Worker no longer needs: {', '.join(unused)}"):
                wrangler.put_secrets(worker, dict.fromkeys(unused))
