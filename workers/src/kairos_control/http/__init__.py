"""The top floor: routes, authentication, and the form of requests and replies. Start at `table.py` and one module of
`resources/`."""
