"""The `kairos` command: the operator's tools, the demo, and a face for the agent and the gateway."""
