"""The endpoint daemon."""
