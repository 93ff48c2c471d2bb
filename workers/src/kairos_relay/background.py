"""Work beside the event that a Durable Object is handling."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine
from typing import Any

import js

_running: set[asyncio.Task[None]] = set()  # asyncio itself holds a task only weakly


def background(ctx: Any, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work`, and keeps the object `ctx` in memory until it has ended. What it raises is logged.

    The runtime is given a promise of JavaScript. A task of Python would reach it as a borrowed proxy, which ends with
    the call that passes it.
    """
    ended = js.Promise.withResolvers()
    ctx.waitUntil(ended.promise)

    async def run() -> None:
        try:
            await work
        except Exception:
            traceback.print_exc()
        finally:
            ended.resolve()

    task = asyncio.ensure_future(run())
    _running.add(task)
    task.add_done_callback(_running.discard)
