"""Keeps the fabric's API at work: lists devices, over and over, several calls at a time, until its standard input ends.

    python -m bench.programs.calls URL CALLERS        the administrator's token comes as the first line of standard input

Writes a line once the first answer is there. A process of its own, so that whoever measures something else meanwhile does not
read the answers.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp


async def _call(http: aiohttp.ClientSession, url: str) -> None:
    async with http.get(url) as answer:
        answer.raise_for_status()
        await answer.read()


async def _call_on(http: aiohttp.ClientSession, url: str) -> None:
    while True:
        await _call(http, url)


async def _main(url: str, callers: int, token: str) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
        await _call(http, url)
        print(flush=True)
        calls = [asyncio.create_task(_call_on(http, url)) for _ in range(callers)]
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        done, _ = await asyncio.wait([*calls, ended], return_when=asyncio.FIRST_COMPLETED)
        for call in calls:
            call.cancel()
        for task in done - {ended}:
            task.result()  # only a failure ends a call


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), sys.stdin.readline().strip()))
