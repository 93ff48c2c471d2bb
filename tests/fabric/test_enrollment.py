"""E1-E7 of a device against the real fabric: crashes, refusals, renewal, rotation."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fabric_host import FabricHost, Gatekeeper, default_provider, running_fabric
from kairos.api.enrollment import ChallengeResponse, EnrollRequest, RenewRequest
from kairos.api.problem import ProblemError
from kairos.api.push import CertificateNotice, NetworkChanged, ToNode
from kairos.crypto import labels
from kairos.crypto.suites import KR1, KR5
from kairos.errors import BadMessage, Refused
from kairos.identity import transcript
from kairos.identity.join_token import JoinToken
from kairos.identity.spiffe import node_id
from kairos_cli.fabric.operator import Operator
from kairos_cli.main import main
from kairos_node.enrollment import enroll
from kairos_node.events import EventFeed
from kairos_node.fabric import FabricClient, Signer
from kairos_node.renewal import Renewal
from kairos_node.state import Identity, Keys, NodeState, new_seed

TENANT = "acme"
PROVIDER = default_provider()
DEVICE = """
import asyncio, os, signal, sys
from pathlib import Path
from kairos_node.crypto import provider_named
from kairos_node.enrollment import enroll
from kairos_node.state import NodeState

folder, moment, provider = sys.argv[1:]

def die_at(here):
    if here == moment:
        os.kill(os.getpid(), signal.SIGKILL)

class Mortal(NodeState):
    def begin(self, *a):
        die_at("before seed"); super().begin(*a); die_at("after seed")
    def keep_fabric(self, *a):
        die_at("before fabric"); super().keep_fabric(*a); die_at("after fabric")
    def keep_keys(self, *a):
        die_at("before certificate"); super().keep_keys(*a); die_at("after certificate")

print("started", flush=True)
identity = asyncio.run(enroll(
    sys.stdin.readline(), Mortal(Path(folder)), provider_named(provider), "laptop", lambda step, what: die_at(step)))
print(identity.node, flush=True)
"""
MOMENTS = [
    "before seed", "after seed", "before fabric", "after fabric", "E1", "E3", "E4", "E6", "before certificate",
    "after certificate",
]  # fmt: skip


def judge(subject: dict[str, Any]) -> tuple[str, str]:
    """Hosts say by their name what is to become of them."""
    name = subject["device"]["name"]
    return (name, f"{name} as its name says") if name in ("hold", "deny") else ("allow", "")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FabricHost]:
    with running_fabric(tmp_path_factory.mktemp("fabric")) as host:
        host.tenant(TENANT)
        yield host


@pytest.fixture(scope="module")
def gateway(host: FabricHost, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return asyncio.run(host.first_gateway(TENANT, NodeState(tmp_path_factory.mktemp("gateway")), PROVIDER))


@pytest.fixture(scope="module", autouse=True)
def gatekeeper(gateway: Identity) -> Iterator[Gatekeeper]:
    with Gatekeeper(gateway, judge) as gatekeeper:
        yield gatekeeper


def enrolled(token: JoinToken, folder: Path, hostname: str = "laptop") -> Identity:
    return asyncio.run(enroll(str(token), NodeState(folder), PROVIDER, hostname, lambda step, what: None))


def refused_code(token: JoinToken, folder: Path, hostname: str = "laptop") -> str:
    try:
        enrolled(token, folder, hostname)
    except (ProblemError, Refused) as refusal:
        return refusal.code
    pytest.fail("it was not refused")


def device(folder: Path, token: JoinToken, moment: str = "", provider: str = "cryptography") -> subprocess.Popen[str]:
    """An enrolling process that kills itself at `moment`."""
    process = subprocess.Popen(
        (sys.executable, "-c", DEVICE, str(folder), moment, provider),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(f"{token}\n")
    process.stdin.flush()
    return process


def ended_well(host: FabricHost, token: JoinToken, folder: Path, node: str) -> None:
    """Enrolled as `node`, its token counted once, and no other device made of it."""
    assert host.admin("GET", f"/{TENANT}/tokens/{token.token_id}")["used"] == 1
    assert host.admin("GET", f"/{TENANT}/devices/{node}")["status"] == "active"
    keys = NodeState(folder).keys
    assert keys is not None
    assert node == node_id("endpoint", PROVIDER.signing_key(KR1, keys.seed).public_key)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_step_it_ends_enrolled_as_the_same_node(host: FabricHost, tmp_path: Path, moment: str) -> None:
    token = host.token(TENANT, "endpoint")
    first = device(tmp_path, token, moment)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    before = NodeState(tmp_path).keys
    output, errors = device(tmp_path, token).communicate()
    node = output.split()[-1]
    assert not errors, errors
    ended_well(host, token, tmp_path, node)
    after = NodeState(tmp_path).keys
    assert after is not None
    assert before is None or before.seed == after.seed


def test_killed_from_outside_at_any_time_it_ends_enrolled(host: FabricHost, tmp_path: Path) -> None:
    token = host.token(TENANT, "endpoint")
    for delay_ms in (5, 15, 30, 50, 80):
        process = device(tmp_path, token)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay_ms / 1000)
        process.kill()
        process.communicate()
    output, errors = device(tmp_path, token).communicate()
    assert not errors, errors
    ended_well(host, token, tmp_path, output.split()[-1])


def test_the_fabric_killed_in_between_loses_nothing(host: FabricHost, tmp_path: Path) -> None:
    """The control Worker dies when E3 is on disk at both ends, and comes back while the device tries."""
    token, steps = host.token(TENANT, "endpoint"), []

    def progress(step: str, _what: str) -> None:
        steps.append(step)
        if step == "E4" and "killed" not in steps:
            steps.append("killed")
            host.fabric.kill("control")
            host.fabric.restart("control")

    identity = asyncio.run(enroll(str(token), NodeState(tmp_path), PROVIDER, "laptop", progress))
    ended_well(host, token, tmp_path, identity.node)


def test_provider_oqs_enrolls_too(host: FabricHost, tmp_path: Path) -> None:
    token = host.token(TENANT, "endpoint")
    output, errors = device(tmp_path, token, provider="oqs").communicate()
    assert not errors, errors
    ended_well(host, token, tmp_path, output.split()[-1])


def test_the_command_enrolls_and_shows_its_steps(host: FabricHost, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "kairos_cli.main", "agent", "enroll", "-", "--state", str(tmp_path), "--json")
    token = host.token(TENANT, "endpoint")
    done = subprocess.run(command, input=f"{token}\n", capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert [step["step"] for step in said["steps"]] == ["E1", "E3", "E4", "E6"]
    assert all(step["ms"] < 5000 for step in said["steps"])
    ended_well(host, token, tmp_path, said["node"])
    for_a_gateway = f"{host.token(TENANT, 'gateway')}\n"
    done = subprocess.run(command, input=for_a_gateway, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "kairos gateway enroll" in done.stderr


def test_the_gateway_hears_of_the_new_device(host: FabricHost, gatekeeper: Gatekeeper, tmp_path: Path) -> None:
    identity = enrolled(host.token(TENANT, "endpoint", tags=["dev"]), tmp_path)
    assert gatekeeper.asked[-1]["device"]["tags"] == ["dev"]
    gatekeeper.await_push(lambda push: isinstance(push, CertificateNotice) and push.node == identity.node)
    gatekeeper.await_push(lambda push: isinstance(push, NetworkChanged))


def test_a_held_device_waits_for_the_operator(host: FabricHost, tmp_path: Path) -> None:
    token, told = host.token(TENANT, "endpoint"), []

    def progress(step: str, what: str) -> None:
        told.append(step)
        if step == "E5":
            node = what.split("approve ")[1].rstrip("`")
            assert host.admin("GET", f"/{TENANT}/devices/{node}")["status"] == "held"
            host.admin("POST", f"/{TENANT}/devices/{node}/approve", {})

    identity = asyncio.run(enroll(str(token), NodeState(tmp_path), PROVIDER, "hold", progress))
    assert told == ["E1", "E3", "E4", "E5", "E6"]
    ended_well(host, token, tmp_path, identity.node)


def test_a_held_device_that_is_denied_is_told_why(host: FabricHost, tmp_path: Path) -> None:
    def progress(step: str, what: str) -> None:
        if step == "E5":
            node = what.split("approve ")[1].rstrip("`")
            host.admin("POST", f"/{TENANT}/devices/{node}/deny", {"reason": "not one of ours"})

    with pytest.raises(Refused, match="not one of ours") as refusal:
        asyncio.run(enroll(str(host.token(TENANT, "endpoint")), NodeState(tmp_path), PROVIDER, "hold", progress))
    assert refusal.value.code == "admission-denied"


def test_policy_may_deny(host: FabricHost, tmp_path: Path) -> None:
    assert refused_code(host.token(TENANT, "endpoint"), tmp_path, "deny") == "admission-denied"


def test_a_token_serves_one_key(host: FabricHost, tmp_path: Path) -> None:
    token = host.token(TENANT, "endpoint")
    enrolled(token, tmp_path / "first")
    assert refused_code(token, tmp_path / "second") == "token-used"


def test_an_enrolled_node_answers_at_once_and_refuses_another_token(host: FabricHost, tmp_path: Path) -> None:
    token = host.token(TENANT, "endpoint")
    node = enrolled(token, tmp_path).node
    assert enrolled(token, tmp_path).node == node
    assert refused_code(host.token(TENANT, "endpoint"), tmp_path) == "already-enrolled"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"secret": bytes(32)}, "token-unknown"),
        ({"token_id": "0123456789abcdef"}, "token-unknown"),
        ({"role": "gateway"}, "token-wrong-role"),
        ({"root_fingerprint": bytes(32)}, "wrong-root"),
        ({"policy_fingerprint": bytes(32)}, "wrong-policy-key"),
        ({"trust_domain": "elsewhere.test"}, "wrong-root"),
        ({"suite": "KR5"}, "wrong-suite"),
        ({"tenant": "nobody"}, "token-unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_token_that_is_not_right_is_refused(
    host: FabricHost, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    assert refused_code(replace(host.token(TENANT, "endpoint"), **change), tmp_path) == code


def test_renewal_keeps_the_key_and_rotation_the_name(host: FabricHost, tmp_path: Path) -> None:
    async def scenario() -> None:
        first = await enroll(str(host.token(TENANT, "endpoint")), state, PROVIDER, "laptop", lambda *_: None)
        async with FabricClient(host.operator.url, TENANT, Signer(first.node, first.key)) as client:
            current: list[Identity] = []
            renewal = Renewal(client, state, PROVIDER, first, current.append)
            await renewal.renew()
            renewed = current[-1]
            assert renewed.certificate.serial != first.certificate.serial
            assert renewed.key.public_key == first.key.public_key
            await renewal.rotate()
            rotated = current[-1]
            assert rotated.key.public_key != first.key.public_key
            assert rotated.node == first.node == state.identity(PROVIDER, time.time()).node
            await client.network()  # signed by the new key
            client.signer = Signer(first.node, first.key)
            with pytest.raises(ProblemError) as refusal:
                await client.network()
            assert refusal.value.code == "bad-signature"

    state = NodeState(tmp_path)
    asyncio.run(scenario())


@pytest.mark.parametrize("reached", [False, True], ids=["before it reached the fabric", "after"])
def test_a_rotation_that_was_cut_off_is_brought_to_its_end(host: FabricHost, tmp_path: Path, reached: bool) -> None:
    async def scenario() -> None:
        first = await enroll(str(host.token(TENANT, "endpoint")), state, PROVIDER, "laptop", lambda *_: None)
        seed = new_seed()
        key = PROVIDER.signing_key(KR1, seed)
        state.keep_keys(Keys(first.seed, first.certificate.der, seed))
        async with FabricClient(host.operator.url, TENANT, Signer(first.node, first.key)) as client:
            if reached:
                proof = transcript.rotation(first.node, first.key.public_key, key.public_key)
                await client.renew(RenewRequest(key.public_key, key.sign(proof, labels.ROTATE_KEY)))
            renewal = Renewal(client, state, PROVIDER, first, lambda _: None)
            running = asyncio.create_task(renewal.run())
            while renewal.identity.key.public_key != key.public_key:
                await asyncio.sleep(0.01)
                assert not running.done(), running
            running.cancel()
            await client.network()
        assert state.keys == Keys(seed, renewal.identity.certificate.der)

    state = NodeState(tmp_path)
    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_flipped_bits_end_in_a_problem(host: FabricHost) -> None:
    """E1 after it was signed, and E4: a sample of places, each answered with a typed 4xx, none changing anything."""

    async def scenario() -> None:
        token, key = host.token(TENANT, "endpoint"), PROVIDER.signing_key(KR1, os.urandom(32))
        request = EnrollRequest("KR1", "endpoint", token.token_id, token.secret, key.public_key, "laptop")
        body = msgspec.json.encode(request)
        async with Tampering(host.operator.url, TENANT, Signer("", key)) as client:
            for place in range(3, len(body) * 8, len(body) * 8 // 40):
                client.flip = place
                with pytest.raises(ProblemError) as refusal:
                    await client.enroll(body)
                assert 400 <= refusal.value.problem.status < 500
            client.flip = None
            challenge = await client.enroll(body)
            signed = transcript.enrollment(body, challenge)
            answer = msgspec.json.encode(ChallengeResponse(key.sign(signed, labels.ENROLL_RESPONSE)))
            enrollment = json.loads(challenge)["enrollment"]
            for place in range(5, len(answer) * 8, len(answer) * 8 // 20):
                client.flip = place
                with pytest.raises(ProblemError) as refusal:
                    await client.respond(enrollment, answer)
                assert 400 <= refusal.value.problem.status < 500
            client.flip = None
            assert (await client.respond(enrollment, answer)).status == "issued"
        assert host.admin("GET", f"/{TENANT}/tokens/{token.token_id}")["used"] == 1

    asyncio.run(scenario())


class Tampering(FabricClient):
    """Flips one bit of each body after it was signed."""

    flip: int | None = None

    async def _call(self, method: str, target: str, body: bytes = b"", **options: Any) -> bytes:
        headers = self._headers(method, target, body) if options.get("signed", True) else {}
        damaged = bytearray(body)
        if self.flip is not None:
            damaged[self.flip // 8] ^= 1 << self.flip % 8
        async with self._session.request(
            method, self._origin + target, data=bytes(damaged), headers=headers | {"Content-Type": "application/json"}
        ) as response:
            answer = await response.read()
            if response.status < 300:
                return answer
            raise self._problem(response.status, answer)

    @staticmethod
    def _problem(status: int, answer: bytes) -> Exception:
        try:
            problem = json.loads(answer)
            return ProblemError(problem["type"].rpartition(":")[2], status, problem["title"])
        except (ValueError, KeyError):
            return BadMessage(f"{status} {answer[:200]!r}")


def test_suite_kr5_enrolls(tmp_path: Path) -> None:
    with running_fabric(tmp_path / "fabric", "KR5") as host:
        host.tenant(TENANT)
        identity = asyncio.run(host.first_gateway(TENANT, NodeState(tmp_path / "gateway"), PROVIDER))
        assert identity.suite is KR5
        assert len(identity.certificate.signature) == KR5.signature_bytes


def test_a_revoked_node_ends_with_the_reason(host: FabricHost, tmp_path: Path) -> None:
    async def follow(identity: Identity) -> None:
        async with FabricClient(host.operator.url, TENANT, Signer(identity.node, identity.key)) as client:
            await EventFeed(client, ignored).run()

    async def ignored(_push: ToNode) -> None:
        return

    identity = enrolled(host.token(TENANT, "endpoint"), tmp_path)
    host.admin("DELETE", f"/{TENANT}/devices/{identity.node}")
    with pytest.raises(Refused) as refusal:
        asyncio.run(asyncio.wait_for(follow(identity), 60))
    assert refusal.value.code == "revoked"
    assert refused_code(host.token(TENANT, "endpoint"), tmp_path) == "already-enrolled"


def test_nodes_take_a_new_issuer_with_their_next_certificate(tmp_path: Path) -> None:
    """`kairos fabric renew`, a restart of the fabric, renewal: and the node was in all the time."""
    with running_fabric(tmp_path / "fabric") as host:
        host.tenant(TENANT)
        state = NodeState(tmp_path / "gateway")
        old = asyncio.run(host.first_gateway(TENANT, state, PROVIDER))
        assert main(["fabric", "renew", "--dir", str(host.operator.folder)]) == 0
        host.fabric.kill("control")
        host.fabric.operator = Operator.load(host.operator.folder)
        host.fabric.restart("control")

        async def renew() -> Identity:
            async with FabricClient(host.operator.url, TENANT, Signer(old.node, old.key)) as client:
                await client.network()
                renewal = Renewal(client, state, PROVIDER, old, lambda _: None)
                await renewal.renew()
                return renewal.identity

        new = asyncio.run(renew())
        assert new.trust.issuer.serial != old.trust.issuer.serial
        assert new == replace(state.identity(PROVIDER, time.time()), key=new.key)
