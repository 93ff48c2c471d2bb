"""The operator's verbs against a real fabric: what a person types, what it answers, what it refuses."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric_host import FabricHost, Gatekeeper, default_provider, running_fabric
from kairos.audit.event import Event
from kairos.errors import Refused
from kairos.identity.join_token import parse_join_token_untrusted
from kairos.policy.input import flow_input
from kairos_cli.admin import AdminClient
from kairos_cli.history import bundle_of
from kairos_node.enrollment import enroll
from kairos_node.fabric import FabricClient, Signer
from kairos_node.policy import Engine
from kairos_node.policy.bundle import unpack_untrusted, verify_untrusted
from kairos_node.state import Identity, NodeState
from overlay import wait_for
from typed_command import Kairos

TENANT = "acme"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FabricHost]:
    with running_fabric(tmp_path_factory.mktemp("operator") / "fabric") as running:
        yield running


@pytest.fixture
def kairos(host: FabricHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    monkeypatch.setenv("KAIROS_FABRIC", str(host.operator.folder))
    monkeypatch.setenv("KAIROS_TENANT", TENANT)
    command = Operator(capsys)
    if TENANT not in [each["tenant"] for each in command.json("tenant", "list")]:
        command("tenant", "create", TENANT)
    return command


class Operator(Kairos):
    """The command, and what an operator does with it more than once."""

    def refused(self, *words: str) -> str:
        """What it says when it fails: one line."""
        return self.fails(*words)[1]

    def node(self, folder: Path, name: str, *options: str) -> Identity:
        """Enrolls; a node that is held is approved on the way, as the operator would."""
        token = self.json("token", "create", *options)["token"]

        def approve(step: str, _what: str) -> None:
            if step == "E5":
                self("device", "approve", name)

        return asyncio.run(enroll(token, NodeState(folder), default_provider(), name, approve))


def test_the_fabric_is_the_one_that_was_pinned(kairos: Operator, host: FabricHost) -> None:
    assert host.operator.url in kairos("fabric", "info")


def test_a_tenant_comes_with_the_shipped_policy_and_goes(kairos: Operator) -> None:
    assert "version 1" in kairos("tenant", "create", "shortlived")
    assert kairos.json("policy", "show", "--tenant", "shortlived")["version"] == 1
    assert "shortlived" in kairos("tenant", "list")
    assert "shortlived" in kairos("tenant", "show", "shortlived")
    assert "shortlived" in kairos.refused("tenant", "create", "shortlived")
    kairos("tenant", "delete", "shortlived")
    assert "shortlived" in kairos.refused("tenant", "show", "shortlived")


def test_an_administrator_has_a_directory_and_a_role(kairos: Operator, tmp_path: Path) -> None:
    folder = tmp_path / "alice"
    made = kairos.json("admin", "create", "alice", "--role", "viewer", "--life", "1h", "--out", str(folder))
    as_alice = ("--dir", str(folder))
    assert "alice" in kairos("admin", "list")
    assert kairos.json("tenant", "list", *as_alice) == [kairos.json("tenant", "show", TENANT)]
    assert "would have to be operator" in kairos.refused("vni", "create", "mine", "--prefix", "10.1.0.0/24", *as_alice)
    assert "only where the fabric was made" in kairos.refused("policy", "push", *as_alice)
    kairos("admin", "revoke", made["record"]["admin"])
    assert "admin credential" in kairos.refused("tenant", "list", *as_alice)


def test_a_credential_may_come_from_a_file_or_the_environment(
    kairos: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kairos.json("admin", "create", "bob", "--role", "operator", "--all-tenants")
    file = tmp_path / "credential"
    file.write_text(made["credential"] + "\n")
    assert "tenant-admin" in kairos.refused("admin", "list", "--credential", str(file))
    assert "bob" in kairos("admin", "list", "--all-tenants")
    monkeypatch.setenv("KAIROS_ADMIN_TOKEN", made["credential"])
    kairos("tenant", "list")
    assert "root" in kairos.refused("tenant", "create", "another")


def test_vnis(kairos: Operator) -> None:
    made = kairos.json("vni", "create", "lab", "--prefix", "10.9.0.0/24", "--prefix", "fd09::/64", "--mtu", "1300")
    assert made["mtu"] == 1300
    assert "10.9.0.0/24" in kairos("vni", "list")
    assert "fd09::/64" in kairos("vni", "show", "lab")
    assert "lab" in kairos.refused("vni", "create", "lab", "--prefix", "10.9.0.0/24")
    assert "not a network" in kairos.refused("vni", "create", "odd", "--prefix", "10.9.0.0.0/24")
    assert "PREFIX=GATEWAY" in kairos.refused(
        "vni", "create", "odd", "--prefix", "10.9.0.0/24", "--route", "10.0.0.0/8"
    )
    kairos("vni", "delete", "lab")
    assert "lab" in kairos.refused("vni", "show", "lab")


def test_members(kairos: Operator, tmp_path: Path) -> None:
    kairos("vni", "create", "shop", "--prefix", "10.8.0.0/24")
    gateway = kairos.node(tmp_path / "gateway", "shop-gw", "--role", "gateway")
    assert gateway.node in kairos("member", "list", "shop")
    assert kairos.json("member", "add", "shop", "shop-gw", "--address", "10.8.0.200")["addresses"] == ["10.8.0.200/24"]
    assert "no address" in kairos.refused("member", "add", "shop", "shop-gw", "--address", "10.8.0.200.1")
    assert "in every VNI" in kairos.refused("member", "remove", "shop", "shop-gw")
    changed = kairos.json("vni", "set", "shop", "--mtu", "1400", "--selector", "tag:till")
    assert (changed["mtu"], changed["selectors"], changed["prefixes"]) == (1400, ["tag:till"], ["10.8.0.0/24"])
    kairos("device", "delete", "shop-gw")
    assert "nobody yet" in kairos("member", "list", "shop")


def test_a_file_is_applied_once(kairos: Operator, tmp_path: Path) -> None:
    wanted = tmp_path / "network.toml"
    wanted.write_text(
        """
        [[tenant]]
        name = "declared"

        [[tenant.vni]]
        name = "office"
        prefixes = ["10.7.0.0/24", "fd07::/64"]
        selectors = ["tag:staff"]

        [[tenant.vni]]
        name = "lab"
        prefixes = ["10.7.0.0/24"]

        [[tenant.interconnect]]
        a = "office"
        b = "lab"
        map = [
            { vni = "office", prefix = "10.7.0.0/24", seen = "10.201.0.0/24" },
            { vni = "lab", prefix = "10.7.0.0/24", seen = "10.202.0.0/24" },
        ]
        """
    )
    assert "4 to change" in kairos("apply", str(wanted), "--dry-run")
    assert "declared" not in kairos("tenant", "list")
    assert "4 changed" in kairos("apply", str(wanted))
    assert kairos("apply", str(wanted)) == "nothing to change\n"
    wanted.write_text(wanted.read_text().replace("tag:staff", "group:staff"))
    assert "~ vni declared/office: selectors tag:staff -> group:staff" in kairos("apply", str(wanted))
    assert kairos.json("vni", "show", "office", "--tenant", "declared")["selectors"] == ["group:staff"]
    wanted.write_text(wanted.read_text().replace("10.202.", "10.203."))
    assert kairos("apply", str(wanted)).startswith("~ interconnect declared/lab/office: other names\n")
    assert "10.203.0.0/24" in kairos("interconnect", "show", "office", "lab", "--tenant", "declared")
    wanted.write_text(
        '[[tenant]]\nname = "declared"\nvni = [{ name = "office", prefixes = ["10.7.0.0/24", "fd07::/64"], selectors = ["group:staff"] }]\n'
    )
    assert kairos("apply", str(wanted)) == "nothing to change\n"
    planned = kairos("apply", str(wanted), "--prune", "--dry-run")
    assert "- interconnect declared/lab/office" in planned
    assert "- vni declared/lab" in planned
    assert "lab" in kairos("vni", "list", "--tenant", "declared")
    assert "2 changed" in kairos("apply", str(wanted), "--prune")
    assert "lab" not in kairos("vni", "list", "--tenant", "declared")
    wanted.write_text('[[tenant]]\nname = "declared"\nvnis = []\n')
    assert "vnis" in kairos.refused("apply", str(wanted))
    assert "cannot be read" in kairos.refused("apply", str(tmp_path / "none.toml"))


def test_a_token_is_shown_once_and_pins_root_and_policy_key(kairos: Operator, host: FabricHost) -> None:
    made = kairos.json("token", "create", "--tag", "web", "--uses", "3", "--life", "90s", "--label", "for the lab")
    token = parse_join_token_untrusted(made["token"])
    assert (token.tenant, token.role, token.fabric_url) == (TENANT, "endpoint", host.operator.url)
    shown = kairos("token", "show", made["token_id"])
    assert "web" in shown
    assert "0 of 3" in shown
    assert made["token"] not in shown
    assert "for the lab" in kairos("token", "list")
    kairos("token", "delete", made["token_id"])
    assert made["token_id"] not in kairos("token", "list")
    assert "90s, 30m" in kairos.refused("token", "create", "--life", "soon")
    assert "nowhere" in kairos.refused("token", "create", "--vni", "nowhere")


def test_devices_from_held_to_revoked(kairos: Operator, tmp_path: Path) -> None:
    gateway = kairos.node(tmp_path / "gateway", "edge", "--role", "gateway")
    (listed,) = [each for each in kairos.json("device", "list") if each["node"] == gateway.node]
    assert (listed["name"], listed["status"]) == ("edge", "active")
    assert gateway.node in kairos("device", "show", "edge")
    assert "no device named nobody" in kairos.refused("device", "show", "nobody")
    assert "revoked" in kairos("device", "delete", "edge")
    assert kairos.json("device", "show", gateway.node)["status"] == "revoked"


def test_a_pushed_policy_is_what_nodes_believe(kairos: Operator, host: FabricHost, tmp_path: Path) -> None:
    before = kairos.json("policy", "show")["version"]
    grants = tmp_path / "grants.json"
    grants.write_text(json.dumps({"admission": [{"id": "all", "roles": ["endpoint"], "outcome": "hold"}]}))
    record = kairos.json("policy", "push", "--data", str(grants))
    assert record["version"] == before + 1
    gateway = kairos.node(tmp_path / "gateway", "second-edge", "--role", "gateway")
    engine = asyncio.run(fetched(gateway))
    assert engine.version == record["version"]
    assert engine.decide("admission", {"device": {"role": "endpoint", "tags": []}}).hold
    grants.write_text("{")
    assert "grants.json" in kairos.refused("policy", "push", "--data", str(grants))
    assert kairos.json("policy", "show")["version"] == record["version"]


async def fetched(node: Identity) -> Engine:
    async with FabricClient(node.join.fabric_url, node.join.tenant, Signer(node.node, node.key)) as client:
        record = await client.policy()
        bundle = await client.policy_bundle(record.version)
    verify_untrusted(
        bundle,
        record,
        provider=default_provider(),
        suite=node.suite,
        policy_key=node.policy_key,
        tenant=TENANT,
        current_version=0,
    )
    return Engine(unpack_untrusted(bundle), record.version, record.sha384)


def test_a_policys_history_is_shown_compared_and_gone_back_to(kairos: Operator, tmp_path: Path) -> None:
    grants = tmp_path / "grants.json"
    first = kairos.json("policy", "push")["version"]
    grants.write_text(json.dumps({"allow": [{"id": "dns", "from": ["*"], "to": ["tag:dns"], "ports": ["udp/53"]}]}))
    assert '"from": ["*"], "id": "dns"' in kairos("policy", "diff", "--data", str(grants))
    second = kairos.json("policy", "push", "--data", str(grants))["version"]
    assert "say the same" in kairos("policy", "diff", "--data", str(grants))
    assert "say the same" in kairos("policy", "diff", str(second), str(second))
    rolled = kairos.json("policy", "rollback", str(first))
    assert rolled["version"] == second + 1
    versions = kairos.json("policy", "list")
    assert [each["record"]["version"] for each in versions][:3] == [rolled["version"], second, first]
    assert versions[0]["record"]["sha384"] == versions[2]["record"]["sha384"]
    assert "-allow" in kairos("policy", "diff", str(second), str(first))
    assert "never had" in kairos.refused("policy", "rollback", "999")


def test_a_bundle_that_the_fabric_altered_is_not_signed_again(kairos: Operator, host: FabricHost) -> None:
    """Rollback and diff trust the operator's own signature, and nothing that the fabric says."""
    admin = AdminClient(host.operator)
    version = kairos.json("policy", "push")["version"]
    honest = bundle_of(admin, TENANT, version)

    class Altering(AdminClient):
        def octets(self, method: str, path: str, body: bytes | None = None) -> bytes:
            data = super().octets(method, path, body)
            return data[:-1] + bytes([data[-1] ^ 1]) if "/bundle" in path else data

    with pytest.raises(Refused, match="not those that were signed"):
        bundle_of(Altering(host.operator), TENANT, version)
    assert bundle_of(admin, TENANT, version) == honest


def test_why_tells_both_ends_verdict_and_the_grant_that_all_but_fits(
    kairos: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIROS_TENANT", "plant")
    kairos("tenant", "create", "plant")
    kairos("vni", "create", "floor", "--prefix", "10.20.0.0/24")
    gateway = kairos.node(tmp_path / "gateway", "plant-edge", "--role", "gateway")
    kairos("vni", "create", "shop", "--prefix", "10.21.0.0/24", "--route", f"192.168.50.0/24={gateway.node}")
    grants = tmp_path / "grants.json"
    web = {"id": "web", "from": ["node:" + gateway.node], "to": ["192.168.50.0/24"], "ports": ["tcp/80"]}
    no = {"id": "no-ssh", "from": ["*"], "to": ["*"], "ports": ["tcp/22"], "reason": "use the bastion"}
    grants.write_text(json.dumps({"allow": [web], "deny": [no]}))
    kairos("policy", "push", "--data", str(grants))
    told = kairos.json("why", "plant-edge", "192.168.50.10", "80")
    assert told["input"]["vni"]["name"] == "shop"
    assert told["decisions"]["egress"]["allow"] is True
    assert told["decisions"]["ingress"]["rule"] == "grant:web"
    assert [(each["id"], each["lacks"]) for each in told["grants"]] == [("no-ssh", ["ports"]), ("web", [])]
    shown = kairos("why", "plant-edge", "192.168.50.10", "22")
    assert "use the bastion" in shown
    assert "but for the port" in shown
    assert "share no VNI" in kairos.refused("why", "plant-edge", "10.99.0.1", "80")
    assert "no device" in kairos.refused("why", "nobody", "10.21.0.1", "80")


def test_why_knows_the_way_over_an_interconnect(
    kairos: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIROS_TENANT", "dock")
    kairos("tenant", "create", "dock")
    kairos("vni", "create", "crane", "--prefix", "10.30.0.0/24")
    kairos("vni", "create", "yard", "--prefix", "10.30.0.0/24")
    gateway = kairos.node(tmp_path / "gateway", "dock-edge", "--role", "gateway")
    with Gatekeeper(gateway, lambda _: ("allow", "")):
        here, there = (
            kairos.node(tmp_path / name, name, "--role", "endpoint", "--vni", vni)
            for name, vni in (("hook", "crane"), ("rail", "yard"))
        )
    assert "share no VNI" in kairos.refused("why", "hook", "rail", "80")
    assert "overlaps" in kairos.refused("interconnect", "create", "crane", "yard")
    maps = ("--map", "crane:10.30.0.0/24=10.31.0.0/24", "--map", "yard:10.30.0.0/24=10.32.0.0/24")
    kairos("interconnect", "create", "crane", "yard", *maps)
    assert "10.30.0.0/24 as 10.32.0.0/24" in kairos("interconnect", "list")
    grants = tmp_path / "grants.json"
    across = {"id": "across", "from": ["node:" + here.node], "to": ["node:" + there.node], "ports": ["tcp/80"]}
    out = {"id": "out", "from": ["*"], "to": ["10.32.0.0/24"], "ports": ["tcp/80"]}
    grants.write_text(json.dumps({"allow": [out, {**across, "interconnect": "crane->yard"}]}))
    kairos("policy", "push", "--data", str(grants))
    for name in ("rail", kairos.json("why", "hook", "rail", "80")["input"]["interconnect"]["dst"]):
        told = kairos.json("why", "hook", name, "80")
        rules = {where: decision["rule"] for where, decision in told["decisions"].items()}
        assert rules == {
            "egress": "grant:out",
            "ingress": "grant:out",
            "interconnect": "grant:across",
            "ingress in yard": "deny:default",
        }
    assert "across into VNI yard" in kairos("why", "hook", "rail", "80")
    assert kairos.json("why", "rail", "hook", "80")["decisions"]["interconnect"]["rule"] == "deny:default"
    kairos("interconnect", "delete", "crane", "yard")


def test_replay_tells_what_a_candidate_would_change(
    kairos: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIROS_TENANT", "mill")
    kairos("tenant", "create", "mill")
    gateway = kairos.node(tmp_path / "gateway", "mill-edge", "--role", "gateway")
    events = [flow_event(gateway, number, port) for number, port in enumerate((22, 22, 443))]
    asyncio.run(sent(gateway, events))
    wait_for("the events", lambda: len(kairos.json("audit", "list", "--kind", "flow")) == len(events))
    grants = tmp_path / "grants.json"
    grants.write_text(json.dumps({"allow": [{"id": "ssh", "from": ["*"], "to": ["*"], "ports": ["tcp/22"]}]}))
    (change,) = (told := kairos.json("policy", "replay", "--data", str(grants)))["changes"]
    assert told["decisions"] == 3
    assert (change["count"], change["was"], change["would_be"]) == (2, "deny deny:default", "allow grant:ssh")
    assert "2 of them would change" in kairos("policy", "replay", "--data", str(grants))
    assert "0 of them" in kairos("policy", "replay")
    assert "--since" in kairos.refused("policy", "replay", "--since", "yesterday")


def flow_event(node: Identity, number: int, port: int) -> Event:
    document = flow_input(
        "ingress",
        now="2026-11-25T12:00:00Z",
        tenant="mill",
        vni=1,
        vni_name="office",
        device=None,
        peer=None,
        source=("10.7.0.2", 40_000),
        destination=("10.7.0.3", port),
        protocol=6,
        gateway=node.node,
    )
    detail = {"point": "ingress", "input": document}
    return Event(
        f"{number:032x}",
        time.time(),
        "mill",
        node.node,
        "flow.denied",
        outcome="deny",
        rule="deny:default",
        detail=detail,
    )


async def sent(node: Identity, events: list[Event]) -> None:
    async with FabricClient(node.join.fabric_url, node.join.tenant, Signer(node.node, node.key)) as client:
        await client.send_events(events)


def test_the_audit_tells_what_the_operator_did(kairos: Operator) -> None:
    """Events come through a queue, so they are awaited."""
    made = kairos.json("token", "create", "--label", "audited")["token_id"]
    wait_for("the event", lambda: made in kairos("audit", "list", "--kind", "token"))
    events = kairos.json("audit", "list", "--limit", "3")
    assert len(events) == 3
    assert events[0]["at"] >= events[-1]["at"]
    assert kairos.json("audit", "list", "--kind", "nonsense") == []


def test_another_operators_credential_is_refused(kairos: Operator, host: FabricHost, tmp_path: Path) -> None:
    other = tmp_path / "other"
    kairos("fabric", "init", "--dir", str(other), "--url", host.operator.url)
    assert "not yours" in kairos.refused("fabric", "info", "--dir", str(other))
    assert "credential" in kairos.refused("tenant", "list", "--dir", str(other))
