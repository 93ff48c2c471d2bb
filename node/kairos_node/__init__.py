"""What an agent and a gateway share on a Linux host: crypto, TLS, relay link, policy engine, interfaces, state."""
