"""What a push makes a node ask of the fabric: a few devices that follow their pushes as kairos_node.daemon does, and count their requests."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.fabric_devices import Device
from bench.fabric_routes import change
from bench.fabric_site import MODEL, Site
from fabric_host import push_policy
from kairos_cli.policy import shipped_bundle
from kairos_node.audit_watch import AuditWatch
from kairos_node.crypto import provider_named
from kairos_node.state import Identity, NodeState

_FOLLOWERS = 5


async def reactions(site: Site, identity: Identity, folder: Path) -> dict[str, float]:
    """Requests of one node after one change of the network, one head of the log, and one policy. identity: of any node of the tenant."""
    followers = site.active[:_FOLLOWERS]
    for device in followers:
        await device.disconnect()
        device.follow(_watch(device, identity, folder / device.member.node))
        await device.connect()
    acts: dict[str, Callable[[], Awaitable[None]]] = {
        "head": lambda: _head(site),  # the first head is believed for its signature alone
        "change": lambda: change(site),
        "another_head": lambda: _head(site),
        "policy": lambda: _policy(site),
    }
    asked = {name: await _asked(site, followers, act) for name, act in acts.items()}
    for device in followers:
        device.follow(None)
    return {"change": asked["change"], "head": asked["another_head"], "policy": asked["policy"]}


async def _asked(site: Site, followers: list[Device], act: Callable[[], Awaitable[None]]) -> float:
    """Requests of one follower until it has followed all that was pushed."""
    await site.seal()
    calls = sum(device.client.calls for device in followers)
    sent, taken = site.usage()["pushes"], site.pushes_taken()
    await act()
    await site.all_taken(taken, site.usage()["pushes"] - sent)
    return (sum(device.client.calls for device in followers) - calls) / len(followers)


async def _head(site: Site) -> None:
    await site.devices[-1].send_events(1)
    await site.seal()


async def _policy(site: Site) -> None:
    version = await site.next_policy_version()
    await asyncio.to_thread(push_policy, site.host, version, shipped_bundle(), MODEL)


def _watch(device: Device, identity: Identity, folder: Path) -> AuditWatch:
    state = NodeState(folder)
    state.create()
    own = dataclasses.replace(identity, node=device.member.node, key=device.member.key)
    return AuditWatch(
        state, own, provider_named("cryptography"), device.client, lambda event: _unexpected(event.reason)
    )


def _unexpected(reason: str) -> None:
    raise RuntimeError(f"a device did not believe the audit log: {reason}")
