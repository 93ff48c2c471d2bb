"""Audit events: who did what to whom, decided by which rule, under which bundle and algorithms."""
