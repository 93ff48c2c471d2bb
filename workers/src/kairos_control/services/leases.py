"""Leases: each member of a VNI has one address in each prefix. An address that was once given is only ever given to the
same node.

The statements belong in the batch that adds the members. If two batches give the same address, one breaks a key of the
schema and is not written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

from ..ports import Statement
from ..problems import problem
from ..store.leases import LeaseStore, Place
from ..store.vnis import StoredVni
from .prefixes import Network

# Host numbers that are looked up beyond those that are needed. Doubled while the operator has given all of them by hand.
_AHEAD = 8
_Pool = tuple[int, str]  # a VNI and a prefix


class Leases:
    """The addresses of one tenant. The number of queries grows neither with the nodes nor with the VNIs."""

    def __init__(self, store: LeaseStore) -> None:
        self._store = store

    async def give(self, vnis: Sequence[StoredVni], nodes: Sequence[str]) -> list[Statement]:
        """For each node, an address in every prefix of these VNIs that it has none in. Raises addresses-exhausted."""
        numbers = [vni.vni for vni in vnis]
        held = await self._store.held(numbers, nodes)
        before = await self._store.given(numbers, nodes)
        leases: dict[Place, str] = {}
        waiting: dict[_Pool, list[Place]] = {}
        for place in (Place(vni.vni, node, prefix) for vni in vnis for prefix in vni.prefixes for node in nodes):
            if place in held:
                continue
            if place in before:
                leases[place] = before[place]
            else:
                waiting.setdefault((place.vni, place.prefix), []).append(place)
        if not waiting:
            return self._store.add(leases)
        fresh, cursors = await self._fresh({pool: len(places) for pool, places in waiting.items()})
        given = {
            place: address
            for pool, places in waiting.items()
            for place, address in zip(places, fresh[pool], strict=True)
        }
        return [
            *self._store.add(leases | given),
            *self._store.keep_given(given),
            *self._store.set_cursors(cursors),
        ]

    async def give_chosen(self, vni: StoredVni, node: str, addresses: Sequence[str]) -> list[Statement]:
        """These very addresses in place of what the node has in their prefixes, and one in every other prefix.

        Raises invalid, exists (an address was given to another node) and addresses-exhausted.
        """
        chosen: dict[Place, str] = {}
        for text in addresses:
            prefix, address = _placed(vni, text)
            place = Place(vni.vni, node, prefix)
            if place in chosen:
                raise problem("invalid", f"one address of {prefix} is enough")
            chosen[place] = address
        owners = await self._store.owners((vni.vni, address) for address in chosen.values())
        for (_, address), owner in owners.items():
            if owner != node:
                raise problem("exists", f"{address} was given to {owner}, and no address is given twice")
        taken = {place.prefix for place in chosen}
        others = replace(vni, prefixes=[prefix for prefix in vni.prefixes if prefix not in taken])
        given = {place: address for place, address in chosen.items() if (vni.vni, address) not in owners}
        return [
            *(self._store.remove_at(place) for place in chosen),
            *self._store.add(chosen),
            *self._store.keep_given(given),
            *await self.give([others], [node]),
        ]

    async def _fresh(self, needed: Mapping[_Pool, int]) -> tuple[dict[_Pool, list[str]], dict[_Pool, int]]:
        """So many addresses of each pool that were given to nobody, and where the next search begins."""
        known = await self._store.cursors(sorted({vni for vni, _ in needed}))
        cursors = {pool: known.get(pool, 1) for pool in needed}
        found: dict[_Pool, list[str]] = {pool: [] for pool in needed}
        missing, ahead = dict(needed), _AHEAD
        while missing:
            offered = {pool: _numbered(pool[1], cursors[pool], count + ahead) for pool, count in missing.items()}
            owners = await self._store.owners(
                (vni, address) for (vni, _), addresses in offered.items() for address in addresses.values()
            )
            for pool, addresses in offered.items():
                if not addresses:
                    raise problem("addresses-exhausted", f"{pool[1]} is full; give the VNI another prefix")
                for number, address in addresses.items():
                    cursors[pool] = number + 1
                    if (pool[0], address) not in owners:
                        found[pool].append(address)
                        if len(found[pool]) == needed[pool]:
                            break
            missing = {pool: count - len(found[pool]) for pool, count in needed.items() if len(found[pool]) < count}
            ahead *= 2
        return found, cursors


def _numbered(prefix: str, first: int, count: int) -> dict[int, str]:
    """The addresses of at most `count` hosts by number, beginning with `first`."""
    network = ip_network(prefix)
    end = min(first + count, _last(network) + 1)
    return {number: f"{network[number]}/{network.prefixlen}" for number in range(first, end)}


def _placed(vni: StoredVni, text: str) -> tuple[str, str]:
    """The prefix that an address falls in, and the address with its length. Raises invalid."""
    try:
        address = ip_address(text)
    except ValueError:
        raise problem("invalid", f"{text} is no address") from None
    for prefix in vni.prefixes:
        network = ip_network(prefix)
        if address in network and 1 <= int(address) - int(network.network_address) <= _last(network):
            return prefix, f"{address}/{network.prefixlen}"
    raise problem("invalid", f"{text} is no host's address in {', '.join(vni.prefixes)}")


def _last(network: Network) -> int:
    """The highest host number. Number 0 names the network or, in IPv6, its routers."""
    return network.num_addresses - (2 if network.version == 4 and network.prefixlen < 31 else 1)
