"""`kairos demo`: the whole product on one machine, each host a network namespace."""
