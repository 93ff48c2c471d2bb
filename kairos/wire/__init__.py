"""Bytes on the wire: the datagram, the relay frame, the control messages inside TLS (docs/protocol.md §5-§7)."""
