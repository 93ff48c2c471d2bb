"""The agent's end of a tunnel, and what a gateway's Config can do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from kairos.crypto.suites import KR1
from kairos.errors import BadMessage, Refused
from kairos.protocol.tunnel import Configure, EndpointTunnel, Identities, State
from kairos.wire.control import Config
from kairos_agent.tunnel import EndpointDriver
from kairos_dataplane.engine import Network
from kairos_dataplane.pure.engine import PureEngine
from kairos_node.steps import Steps
from kairos_node.tunnel import Own
from toy_provider import ToyProvider

SetUp = Callable[[Config], Awaitable[None]]


class Silent:
    """A TLS connection with nothing to say, and the channel beneath it."""

    relay = 1
    peer = None

    def __init__(self) -> None:
        self.closed: tuple[str, str] | None = None
        self.waiting = b""
        self.refusal: Refused | None = None

    def start(self) -> None: ...

    def send(self, plain: bytes) -> None:
        self.waiting += plain

    def outgoing(self) -> bytes:
        data, self.waiting = self.waiting, b""
        return data

    def send_stream(self, data: bytes) -> None:
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal

    def close(self, code: str, reason: str) -> None:
        assert self.closed is None
        self.closed = (code, reason)


class Host:
    """Carries out Configs as `do` says."""

    def __init__(self, do: SetUp) -> None:
        self.do = do
        self.ended_with: list[str] = []
        self.over: Callable[[str], None] = self.ended_with.append

    async def set_up(self, tunnel: EndpointDriver, config: Config) -> Mapping[int, Collection[Network]]:
        await self.do(config)
        return {}

    def established(self, tunnel: EndpointDriver) -> None: ...

    def ended(self, tunnel: EndpointDriver, code: str, reason: str) -> None:
        self.over(code)

    def orphaned(self, tunnel: EndpointDriver, reason: str) -> None: ...


def driver(host: Host, silent: Silent) -> EndpointDriver:
    provider = ToyProvider()
    key = provider.signing_key(KR1, b"ep")
    own = Own(KR1, provider, key, PureEngine(), lambda session: None)
    made = EndpointDriver(own, silent, silent, host, Steps("gw-a"), "s-1", "test")  # type: ignore[arg-type]
    made.machine = EndpointTunnel(
        Identities(KR1, provider, key, key.public_key, b"x" * 48), "s-1", asyncio.get_running_loop().time()
    )
    return made


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("uplink-failed", "no"), "uplink-failed"),
        (BadMessage("nonsense"), "bad-config"),
        (ValueError("not an address"), "bad-config"),
        (OSError(12, "Cannot allocate memory"), "bad-config"),
        (NetlinkError(17, "File exists"), "internal"),
        (KeyError(7), "internal"),
    ],
)
def test_whatever_a_config_meets_ends_this_tunnel_and_nothing_else(error: Exception, code: str) -> None:
    async def fail(config: Config) -> None:
        raise error

    async def run() -> None:
        host, silent = Host(fail), Silent()
        tunnel = driver(host, silent)
        ended = asyncio.get_running_loop().create_future()
        host.over = ended.set_result
        tunnel.apply([Configure(Config(1, (), ()))])
        assert await asyncio.wait_for(ended, 5) == code
        assert silent.closed is not None

    asyncio.run(run())


def test_of_many_configs_that_come_at_once_the_newest_is_carried_out() -> None:
    async def run() -> list[int]:
        done: list[int] = []
        last, go_on = asyncio.Event(), asyncio.Event()

        async def slow(config: Config) -> None:
            done.append(config.revision)
            await go_on.wait()
            if config.revision == 1000:
                last.set()

        tunnel = driver(Host(slow), Silent())
        assert tunnel.machine is not None
        tunnel.machine.state = State.ESTABLISHED
        for revision in range(1, 1001):
            tunnel.apply([Configure(Config(revision, (), ()))])
            if revision == 1:
                await asyncio.sleep(0)  # the first begins
        before = len(asyncio.all_tasks())
        go_on.set()
        await asyncio.wait_for(last.wait(), 5)
        assert before == 2
        return done

    assert asyncio.run(run()) == [1, 1000]


def test_a_gateway_that_reads_nothing_loses_its_tunnel() -> None:
    async def run() -> None:
        async def never(config: Config) -> None: ...

        host, silent = Host(never), Silent()
        tunnel = driver(host, silent)
        silent.refusal = Refused("not-reading", "too much waits")
        silent.waiting = b"record"
        tunnel._flush()
        assert tunnel.over
        assert host.ended_with == ["not-reading"]
        assert silent.closed is not None

    asyncio.run(run())
