"""Suites, labels, the provider face and the key schedule. No cryptographic primitive of its own beside HKDF."""
