"""The control plane: enrollment, certificates, sessions, registry, policy and audit of one fabric.

Everything here is plain Python over the ports of `ports.py`; only `adapters/` and `objects/` know that it runs in a
Cloudflare Worker. Start reading at `routes.py`, then `enrollment.py`.
"""
