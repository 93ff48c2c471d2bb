"""A device whose owner has changed its agent: the real one, with a data plane that checks nothing and sends what it is told.

Its socket takes JSON lines: {"seal": {"vni", "packet", "index"?}} answers with a datagram under its own key of that VNI, for any receiver
index; {"send": {"datagram", "to"}} sends one from the agent's own UDP socket; {"sessions": {}} tells receiver indexes by VNI.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any

import kairos_dataplane.pure
from kairos.wire.datagram import TRAILER, DatagramType, SegmentKind
from kairos_cli.main import main
from kairos_dataplane.pure.engine import PureEngine
from kairos_dataplane.pure.session import Session

SOCKET = "KAIROS_ROGUE_SOCKET"


class RogueEngine(PureEngine):
    def __init__(self, max_flows: int = 1 << 20) -> None:
        super().__init__(max_flows)
        self._orders = socket.create_server(os.environ[SOCKET], family=socket.AF_UNIX)
        threading.Thread(target=self._obey, name="rogue", daemon=True).start()

    def _obey(self) -> None:
        while True:
            connection, _ = self._orders.accept()
            with connection, connection.makefile("rw") as lines:
                for line in lines:
                    ((verb, fields),) = json.loads(line).items()
                    with self._lock:
                        answer = getattr(self, f"_do_{verb}")(**fields)
                    lines.write(json.dumps(answer) + "\n")
                    lines.flush()

    def _keyed(self, vni: int) -> Session:
        return next(each for each in self._sessions.values() if each.vni == vni and not each.why_not_seal())

    def _do_seal(self, vni: int, packet: str, index: int = 0) -> str:
        session = self._keyed(vni)
        true, session.remote = session.remote, index or session.remote
        plain = bytes.fromhex(packet) + TRAILER.pack(SegmentKind.WHOLE, 0, 0, 0, 1)
        datagram = session.seal(DatagramType.DATA, plain)
        session.remote = true
        return datagram.hex()

    def _do_send(self, datagram: str, to: tuple[str, int]) -> bool:
        assert self._udp is not None
        self._udp.sendto(bytes.fromhex(datagram), (f"::ffff:{to[0]}", to[1]))
        return True

    def _do_sessions(self) -> dict[int, int]:
        return {each.vni: each.remote for each in self._sessions.values() if not each.why_not_seal()}


def order(path: str, verb: str, **fields: Any) -> Any:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60)
        connection.connect(path)
        with connection.makefile("rw") as lines:
            lines.write(json.dumps({verb: fields}) + "\n")
            lines.flush()
            return json.loads(lines.readline())


if __name__ == "__main__":
    kairos_dataplane.pure.PureEngine = RogueEngine  # type: ignore[misc]
    raise SystemExit(main())
