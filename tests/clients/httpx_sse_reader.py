"""PyPI's `httpx-sse` as a reader: httpx_sse_reader.py BASE FEED http1|http2. Ends when its stdin does."""

import asyncio
import json
import os
import sys
import threading

import h2.exceptions
import httpx
from httpx_sse import aconnect_sse


def tell(told):
    print(json.dumps(told), flush=True)


async def flow(client, feed):
    """Reads vN, the history up to vN, then live from vN."""

    async def get(path):
        response = await client.get(f"/v1/feeds/{feed}{path}")
        response.raise_for_status()
        return response.json()

    version = (await get(""))["version"]
    entries, before = [], ""
    while before is not None:
        page = await get(f"/entries?until={version}&limit=7{before and '&before=' + before}")
        entries += page["entries"]
        before = page["next"]
    tell({"history": {"version": version, "entries": entries}})
    await follow(client, f"/v1/feeds/{feed}/live?after={version}")


async def follow(client, url):
    """Reconnects as the documentation of httpx-sse shows."""
    last_event_id, delay = "", 0.0
    while True:
        await asyncio.sleep(delay)
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        try:
            async with aconnect_sse(client, "GET", url, headers=headers) as source:
                source.response.raise_for_status()
                tell("opened")
                async for event in source.aiter_sse():
                    last_event_id = event.id
                    if event.retry is not None:
                        delay = event.retry / 1000
                    # httpx-sse yields blocks without data too.
                    if event.data:
                        tell({"event": {"name": event.event, "id": event.id, "data": event.data}})
        except (httpx.TransportError, h2.exceptions.ProtocolError):
            # ProtocolError when a server stops: after GOAWAY a server sends a PING to learn whether the client has seen
            # it. `h2` treats that PING as an error, and httpx does not translate the error.
            continue


async def main(base, feed, protocol):
    http2 = protocol == "http2"
    # An idle stream sends a heartbeat every 15 s.
    async with httpx.AsyncClient(base_url=base, http1=not http2, http2=http2, timeout=60) as client:
        await flow(client, feed)


def end_with_input():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()
asyncio.run(main(*sys.argv[1:]))
