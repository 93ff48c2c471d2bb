"""State machines. `receive(event, now) -> effects`, `next_deadline() -> (when, why) | None`; no I/O, no clock."""
