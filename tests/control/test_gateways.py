"""Several gateways: the operator ranks them, every node learns the ranks with the network."""

from __future__ import annotations

import pytest

from control_plane import ControlPlane, Device
from kairos.api.admin import GatewayRecord
from kairos.api.problem import ProblemError
from kairos.api.push import NetworkChanged
from kairos.api.session import Network, RankedGateway, SessionGrant

GATEWAYS = "/v1/tenants/acme/gateways"


def rank(plane: ControlPlane, node: str, priority: int, weight: int) -> GatewayRecord:
    record: GatewayRecord = plane.admin(
        "PUT", f"{GATEWAYS}/{node}", {"priority": priority, "weight": weight}, GatewayRecord
    )
    return record


def test_a_gateway_that_nobody_ranked_has_the_middle_rank(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    network: Network = plane.node(device, "GET", "/network", type_=Network)
    assert network.gateways == [RankedGateway(gateway.node, 100, 100)]


def test_a_rank_is_told_audited_and_shown(plane: ControlPlane, gateway: Device) -> None:
    news = plane.connect(gateway)
    device = plane.joined()
    news.clear()
    assert rank(plane, gateway.node, 10, 300) == GatewayRecord(gateway.node, "laptop", 10, 300, True)
    assert [type(push) for push in news] == [NetworkChanged]
    change = plane.audited("gateway.ranked")[-1]
    assert (change["subject"], change["detail"]["before"]["priority"], change["detail"]["after"]["weight"]) == (
        gateway.node, 100, 300,
    )  # fmt: skip
    network: Network = plane.node(device, "GET", "/network", type_=Network)
    assert network.gateways == [RankedGateway(gateway.node, 10, 300)]
    assert plane.admin("GET", GATEWAYS)["items"][0]["priority"] == 10


def test_the_same_rank_again_changes_nothing(plane: ControlPlane, gateway: Device) -> None:
    rank(plane, gateway.node, 10, 100)
    news = plane.connect(gateway)
    news.clear()
    rank(plane, gateway.node, 10, 100)
    assert news == []
    assert len(plane.audited("gateway.ranked")) == 1


@pytest.mark.parametrize(("priority", "weight"), [(-1, 1), (65536, 1), (1, 0), (1, 65536)])
def test_a_rank_out_of_range_is_refused(plane: ControlPlane, gateway: Device, priority: int, weight: int) -> None:
    with pytest.raises(ProblemError, match=r"\$\.(priority|weight)"):
        rank(plane, gateway.node, priority, weight)


def test_only_a_gateway_has_a_rank(plane: ControlPlane, gateway: Device) -> None:
    with pytest.raises(ProblemError, match="there is no gateway"):
        rank(plane, plane.joined().node, 1, 1)


def test_a_session_names_preferred_gateways_first(plane: ControlPlane, gateway: Device) -> None:
    plane.connect(gateway)
    second = plane.joined("gateway")
    plane.connect(second)
    device = plane.joined()
    for better, worse in ((gateway, second), (second, gateway)):
        rank(plane, better.node, 1, 100)
        rank(plane, worse.node, 2, 100)
        grant: SessionGrant = plane.node(device, "POST", "/sessions", {"posture": {}}, SessionGrant)
        assert [each.gateway for each in grant.gateways] == [better.node, worse.node]
