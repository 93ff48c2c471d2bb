"""A real fabric for tests: its own keys, both Workers in workerd, and the operator's API at hand."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from kairos.api.admin import TokenCreate
from kairos.api.problem import ProblemError
from kairos.api.push import AdmissionRequest, AdmissionVerdict, ToNode, Welcome
from kairos.api.session import PolicyRecord, PolicyUpload
from kairos.constants import SESSION_LIFE_S
from kairos.crypto import labels
from kairos.crypto.provider import Provider
from kairos.deployment import OBJECT_SOCKETS, internal_key
from kairos.identity import transcript
from kairos.identity.join_token import JoinToken
from kairos_cli.fabric import workspace
from kairos_cli.fabric.faults import Fault
from kairos_cli.fabric.init import create
from kairos_cli.fabric.local import LocalFabric
from kairos_cli.fabric.operator import Operator
from kairos_cli.fabric.steps import QUIET
from kairos_node.crypto import provider_named
from kairos_node.enrollment import enroll
from kairos_node.events import EventFeed
from kairos_node.fabric import FabricClient, Signer
from kairos_node.state import Identity, NodeState

TENANT = "acme"
Judge = Callable[[dict[str, Any]], tuple[str, str]]


class FabricHost:
    """operator: its keys; fabric: its two processes."""

    def __init__(self, operator: Operator, fabric: LocalFabric) -> None:
        self.operator, self.fabric = operator, fabric
        self._expected: list[re.Pattern[str]] = []

    def expect_fault(self, pattern: str) -> None:
        """A test that causes a fault of a Worker on purpose names it: the pattern is searched in the fault's text."""
        self._expected.append(re.compile(pattern, re.DOTALL))

    def unexpected_faults(self) -> list[Fault]:
        """Limits that were exceeded, and exceptions that nobody caught."""
        return [
            fault for fault in self.fabric.faults() if not any(pattern.search(str(fault)) for pattern in self._expected)
        ]

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the operator's API. Raises ProblemError."""
        request = urllib.request.Request(
            f"{self.operator.url}/v1/tenants{path}",
            method=method,
            data=None if body is None else msgspec.json.encode(body),
            headers={"Authorization": f"Bearer {self.operator.admin_token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                problem = json.loads(error.read())
            code = problem["type"].removeprefix("urn:kairos:problem:")
            raise ProblemError(code, error.code, problem["title"], problem.get("detail", "")) from None

    def bearer(self, purpose: str) -> str:
        """What one Worker shows another: `introspection` the relay, `object` the control plane its own objects."""
        return f"Bearer {internal_key(self.operator.internal_key, purpose)}"

    def sweep(self, tenant: str) -> None:
        """What the cron does every few minutes, now: forget what has ended, seal the audit."""
        headers = {"Authorization": self.bearer("object"), "Content-Length": "0"}
        url = f"{self.operator.url}/internal/sweep/{tenant}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST", headers=headers), timeout=60) as answer:
            assert answer.status == 200

    def tenant(self, name: str) -> None:
        """A tenant with one VNI, `office`."""
        self.tenant_without_vni(name)
        self.admin("POST", f"/{name}/vnis", {"name": "office", "prefixes": ["10.7.0.0/24", "fd07::/64"]})

    def tenant_without_vni(self, name: str) -> None:
        self.admin("POST", "", {"tenant": name})

    def token(self, tenant: str, role: str, uses: int = 1, **fields: Any) -> JoinToken:
        """A join token; str() of it is what a person pastes."""
        secret = os.urandom(32)
        wanted = msgspec.convert(
            {"role": role, "secret_hash": hashlib.sha256(secret).digest(), "uses": uses, "vnis": ["office"], **fields},
            TokenCreate,
        )
        record = self.admin("POST", f"/{tenant}/tokens", wanted)
        operator = self.operator
        return JoinToken(
            fabric_url=operator.url,
            trust_domain=operator.trust_domain,
            suite=operator.suite.name,
            tenant=tenant,
            role=role,
            token_id=record["token_id"],
            secret=secret,
            root_fingerprint=transcript.fingerprint(operator.root_certificate),
            policy_fingerprint=transcript.fingerprint(operator.policy_key),
        )

    async def first_gateway(self, tenant: str, state: NodeState, provider: Provider) -> Identity:
        """Enrolls the tenant's first gateway and approves it as the operator."""

        def approve(step: str, what: str) -> None:
            if step == "E5":
                node = what.split("approve ")[1].rstrip("`")
                self.admin("POST", f"/{tenant}/devices/{node}/approve", {})

        return await enroll(str(self.token(tenant, "gateway")), state, provider, "gateway", approve)


def push_policy(
    host: FabricHost, version: int, bundle: bytes, tenant_name: str = TENANT, pushed_to: str = ""
) -> PolicyRecord:
    """Signs a bundle for one tenant and pushes it to that one, or to another (`pushed_to`)."""
    operator = host.operator
    key = default_provider().signing_key(operator.suite, operator.policy_seed)
    signature = key.sign(transcript.policy_bundle(tenant_name, version, bundle), labels.POLICY_BUNDLE)
    record = PolicyRecord(tenant_name, version, hashlib.sha384(bundle).digest(), signature)
    host.admin("PUT", f"/{pushed_to or tenant_name}/policy", PolicyUpload(record, bundle))
    return record


@contextmanager
def running_fabric(
    folder: Path,
    suite: str = "KR1",
    host: str = "127.0.0.1",
    session_life_s: int = SESSION_LIFE_S,
    meter: bool = False,
    object_sockets: int = OBJECT_SOCKETS,
) -> Iterator[FabricHost]:
    """Starts both Workers with new keys in `folder`, stops them at the end. host: the address they listen on; meter: they count what
    they ask of the platform; object_sockets: from how many devices on a tenant's events sockets are spread. Fails on a fault of a Worker that no test expected."""
    workspace.prepare(QUIET)
    port = free_ports(host)
    url, relay_url = f"http://{host}:{port}", f"http://{host}:{port + 1}"
    operator = replace(
        create(folder, suite, "kairos.test", url, relay_url, session_life_s), object_sockets=object_sockets
    )
    fabric = LocalFabric(operator, folder / "state", host, port, meter)
    fabric.start()
    running = FabricHost(operator, fabric)
    try:
        yield running
    finally:
        fabric.stop()
    faults = running.unexpected_faults()
    assert not faults, "the Workers had faults:\n" + "\n".join(map(str, faults))


def free_ports(host: str) -> int:
    """The first of two neighbouring ports that nobody listens on."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind((host, 0))
            port: int = first.getsockname()[1]
            try:
                second.bind((host, port + 1))
            except OSError:
                continue
            return port


class Gatekeeper:
    """E2 without a policy engine: an enrolled gateway's events socket, in a thread, that signs what `judge` says of an
    admission input: (outcome, reason)."""

    def __init__(self, identity: Identity, judge: Judge) -> None:
        self.asked: list[dict[str, Any]] = []
        self.pushes: list[ToNode] = []
        self._identity = identity
        self._judge = judge
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._stop = asyncio.Event()
        self._feed: EventFeed | None = None

    def __enter__(self) -> Gatekeeper:
        self._thread.start()
        self.await_push(lambda push: isinstance(push, Welcome))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def await_push(self, wanted: Callable[[ToNode], bool], patience_s: float = 60) -> None:
        """Returns when such a push has come; fails when it does not."""
        with self._changed:
            came = self._changed.wait_for(lambda: any(map(wanted, self.pushes)), patience_s)
            assert came, f"no such push in {patience_s:.0f} s"

    async def _serve(self) -> None:
        join = self._identity.join
        async with FabricClient(
            join.fabric_url, join.tenant, Signer(self._identity.node, self._identity.key)
        ) as client:
            self._feed = EventFeed(client, self._pushed)
            running = asyncio.create_task(self._feed.run())
            await self._stop.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _pushed(self, push: ToNode) -> None:
        with self._changed:
            self.pushes.append(push)
            self._changed.notify_all()
        if isinstance(push, AdmissionRequest) and self._feed is not None:
            subject = json.loads(push.input)
            self.asked.append(subject)
            outcome, reason = self._judge(subject)
            signed = transcript.admission_verdict(push.id, push.input.encode(), outcome, "test:judge", reason)
            signature = self._identity.key.sign(signed, labels.ADMISSION_VERDICT)
            verdict = {"kind": "admission-verdict", "id": push.id, "outcome": outcome, "rule": "test:judge"}
            await self._feed.send(
                msgspec.convert(verdict | {"reason": reason, "signature": signature}, AdmissionVerdict)
            )


def default_provider() -> Provider:
    return provider_named("cryptography")


def client_of(identity: Identity) -> FabricClient:
    """An enrolled node's way to its fabric."""
    join = identity.join
    return FabricClient(join.fabric_url, join.tenant, Signer(identity.node, identity.key))
