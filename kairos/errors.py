"""The exceptions of the protocol core, on one page."""

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What msgspec raises for bytes that are not the JSON or TOML that was asked for. The last two are for text that is not
UTF-8 and for nesting that is too deep."""


class KairosError(Exception):
    """Base of every error this package raises on purpose. Its text is meant for a person."""


class BadMessage(KairosError):
    """Bytes from the network are not a legal message. The only exception an `*_untrusted` parser raises."""


class Refused(KairosError):
    """A legal message was refused by a rule of the protocol: wrong signature, wrong peer, expired, replayed.

    `code` is the stable machine name of the rule (docs/protocol.md §9), the text says it to a person.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class IllegalMove(KairosError):
    """Our own code asked a state machine for a move its table does not hold: a defect, never the peer's fault."""
