"""Close codes of a WebSocket (RFC 6455 §7.4)."""

from __future__ import annotations

NORMAL = 1000


def close_code_to_answer(code: int) -> int:
    """The code with which the close `code` of a peer is answered.

    A program may send 1000 and 3000 to 4999 only (https://websockets.spec.whatwg.org/#dom-websocket-close). The others are
    the protocol's own, such as 1001 of a browser that leaves, or are made up locally and never sent, such as 1006 of a
    connection that broke; to send one raises InvalidAccessError in a Worker.
    """
    return code if 3000 <= code <= 4999 else NORMAL
