"""Durable Objects of the control plane."""
