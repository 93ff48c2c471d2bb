"""KairOS Red: the language every part speaks.

Pure Python, sans-IO: no clock, no entropy, no sockets, no native code. The same text runs inside the Cloudflare Worker,
in the agent, in the gateway and in the command line. Start reading at `docs/protocol.md`, then `kairos.wire`.
"""

__version__ = "0.1.0"
