"""The relay: one Durable Object a gateway hands frames on between its endpoints and it (docs/protocol.md §5). It reads headers only."""
