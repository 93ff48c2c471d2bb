"""What a row of the table of verbs is, and the arguments that many rows take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument as argparse takes it."""

    flags: tuple[str, ...]
    help: str
    options: dict[str, Any] = field(default_factory=dict)


def arg(*flags: str, help: str, **options: Any) -> Argument:
    return Argument(flags, help, options)


@dataclass(frozen=True, slots=True)
class Verb:
    """`name` is what is typed after `kairos`; `handler` is `module:function` below kairos_cli."""

    name: str
    handler: str
    help: str
    arguments: tuple[Argument, ...] = ()

    @property
    def group(self) -> str:
        return self.name.split(" ")[0]


JSON = arg("--json", help="print JSON instead of a table", action="store_true")
OPERATOR = arg("--dir", help="operator directory (default: $KAIROS_FABRIC or ~/.config/kairos/fabric)", default=None)
TENANT = arg("--tenant", help="tenant (default: $KAIROS_TENANT)", default=None)
VNI = arg("vni", help="name or number of the network segment")
DEVICE = arg("device", help="node id, or its name if that is unique")
CREDENTIAL = arg(
    "--credential",
    help="file with an admin credential (default: $KAIROS_ADMIN_TOKEN or the directory's)",
    metavar="FILE",
)
ADMIN = (OPERATOR, CREDENTIAL, JSON)
IN_TENANT = (TENANT, OPERATOR, CREDENTIAL, JSON)
