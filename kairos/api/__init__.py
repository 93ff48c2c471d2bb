"""The HTTP API: requests, responses, pushes and errors. One schema for the Worker and every client.

Bytes are base64 in JSON (msgspec). Times are Unix seconds. Unknown fields are ignored so that either side may be newer;
a missing or mistyped field is a 422.
"""
