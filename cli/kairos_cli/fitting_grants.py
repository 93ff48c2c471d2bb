"""The grants that fit a connection, or that all but fit it, as a table."""

from __future__ import annotations

from typing import Any

from kairos_cli.output import as_table

_SHOWN = 20  # grants at most
_NAMES = {
    "from": "source",
    "to": "destination",
    "ports": "port",
    "vnis": "VNI",
    "interconnect": "interconnect",
    "expires_at": "time",
    "when": "hour of the week",
    "apps": "program",
    "require": "posture",
}


def show_grants(grants: list[dict[str, Any]]) -> None:
    """Prints each grant with the one condition that the connection fails, if it fails one."""
    if grants:
        print("\nGrants that fit, or all but fit:")
        shown = [(each["kind"], each["id"], _lack(each["lacks"]), each["reason"]) for each in grants[:_SHOWN]]
        as_table(("KIND", "GRANT", "", "REASON"), shown, "")


def _lack(lacks: list[str]) -> str:
    return f"but for the {_NAMES[lacks[0]]}" if lacks else "fits"
