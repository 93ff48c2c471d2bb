"""The relay: for each gateway a Durable Object that passes frames between the gateway and its endpoints
(docs/protocol.md §5).

It reads frame headers only. Start reading at `relay.py`.
"""
