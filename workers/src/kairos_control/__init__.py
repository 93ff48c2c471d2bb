"""The control plane of one fabric: enrollment, certificates, sessions, networks, policy and audit. It has three floors.

- `http/`: routes, who may call them, and how a call is decoded and answered. `http/table.py` lists all routes.
- `services/`: what the product does, one module for each subject. A service knows neither HTTP nor SQL.
- `store/`: all SQL, one module for each kind of record.

A floor imports only from those below it (tests/house/test_floors.py). `fabric.py` and `tenant.py` construct the
services of the whole fabric and of one tenant. The floors are plain Python over the ports of `ports.py`. Only
`adapters/` and `objects/` know Cloudflare. Start reading at `http/table.py` and follow one route down:
`http/resources/policy.py`, `services/policies.py`, `store/policies.py`.
"""
