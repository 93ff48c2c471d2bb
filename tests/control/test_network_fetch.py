"""The node's side of the network: over HTTP from this fabric, from one that knows no updates, and from one that contradicts itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qs

import msgspec
import pytest
from aiohttp import web

from control_plane import ControlPlane, Device
from kairos.api.session import Network, NetworkUpdate
from kairos.errors import BadMessage
from kairos_control.http.call import Call
from kairos_control.services import network
from kairos_control.store import network_changes
from kairos_node.fabric import FabricClient, Signer
from kairos_node.network_fetch import up_to_date
from kairos_node.network_view import EMPTY
from web_server import serving_web

AT = "/v1/tenants/acme"
Answer = Callable[[dict[str, list[str]], NetworkUpdate], object]


def fetched(
    plane: ControlPlane, device: Device, held: Network, asked: list[str], change: Answer | None = None
) -> Network:
    """What the node makes of what it holds. asked: takes the queries that it sends. change: what the fabric says instead."""

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.rel_url.raw_query_string)
        reply = await plane.answer(
            Call(request.method, request.raw_path, {k.lower(): v for k, v in request.headers.items()})
        )
        body = reply.body
        if change is not None:
            update = msgspec.json.decode(body, type=NetworkUpdate)
            body = msgspec.json.encode(change(parse_qs(request.rel_url.raw_query_string), update))
        return web.Response(status=reply.status, body=body, content_type=reply.content_type)

    async def scenario() -> Network:
        signer = Signer(device.node, device.key)
        async with serving_web(answer) as url, FabricClient(url, "acme", signer, clock=lambda: plane.now) as client:
            return await up_to_date(client, held, device.node)

    return asyncio.run(scenario())


def whole(plane: ControlPlane, device: Device) -> Network:
    value: Network = plane.node(device, "GET", "/network", type_=Network)
    return value


def test_it_fetches_the_whole_once_and_then_what_changed(plane: ControlPlane, gateway: Device) -> None:
    asked: list[str] = []
    held = fetched(plane, gateway, EMPTY.record, asked)
    assert held == whole(plane, gateway)
    plane.joined()
    held = fetched(plane, gateway, held, asked)
    assert held == whole(plane, gateway)
    assert [query.split("&")[0] for query in asked] == ["since=0", f"since={held.revision - 1}"]


def test_what_changes_between_two_pages_is_not_lost(
    plane: ControlPlane, gateway: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is shown on the first page goes, and one that would have stood there comes."""
    monkeypatch.setattr(network, "PAGE_BYTES", 1)
    gone = [plane.joined() for _ in range(3)]
    changed: list[str] = []

    def meanwhile(query: dict[str, list[str]], update: NetworkUpdate) -> object:
        if "after" in query and gone:
            changed.append(gone.pop().node)
            with plane.store.database as database:
                database.execute("UPDATE devices SET status = 'revoked' WHERE node = ?", (changed[-1],))
                database.execute("DELETE FROM leases WHERE node = ?", (changed[-1],))
                for sql, values in plane.service("acme").network_changes.revision(
                    network_changes.change_of(leases=[(update_vni, changed[-1])], revoked=[changed[-1]])
                ):
                    database.execute(sql, values)
        return update

    update_vni = whole(plane, gateway).vnis[0].vni
    held = fetched(plane, gateway, EMPTY.record, [], meanwhile)
    monkeypatch.undo()
    assert len(changed) == 3
    assert held == whole(plane, gateway)


def test_an_older_fabric_answers_with_the_whole(plane: ControlPlane, gateway: Device) -> None:
    def older(query: dict[str, list[str]], update: NetworkUpdate) -> object:
        return {"revision": 7, "vnis": [], "leases": [], "members": [], "revoked": ["ep-lost"], "gateways": []}

    asked: list[str] = []
    held = fetched(plane, gateway, whole(plane, gateway), asked, older)
    assert held == Network(7, [], [], [], ["ep-lost"])
    assert len(asked) == 1


def test_an_update_that_does_not_fit_makes_it_fetch_the_whole(plane: ControlPlane, gateway: Device) -> None:
    def wrong(query: dict[str, list[str]], update: NetworkUpdate) -> object:
        return msgspec.structs.replace(update, base=update.base + 1) if update.base is not None else update

    held, asked = whole(plane, gateway), list[str]()
    assert fetched(plane, gateway, held, asked, wrong) == held
    assert [query.split("&")[0] for query in asked] == [f"since={held.revision}", "since=0"]


@pytest.mark.parametrize("following", ["", "n~"])
def test_a_fabric_that_never_comes_to_an_end_is_given_up(
    plane: ControlPlane, gateway: Device, following: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kairos_node.network_fetch._PAGES_MAX", 5)

    def endless(query: dict[str, list[str]], update: NetworkUpdate) -> object:
        if following:
            return msgspec.structs.replace(update, base=None, next=following)
        return msgspec.structs.replace(update, base=999)

    with pytest.raises(BadMessage):
        fetched(plane, gateway, EMPTY.record, [], endless)
