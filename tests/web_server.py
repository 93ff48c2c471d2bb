"""A web server on loopback that answers every request with one function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving_web(route: Route) -> AsyncIterator[str]:
    """Yields the URL of the server. The server ends with the block."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", route)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
