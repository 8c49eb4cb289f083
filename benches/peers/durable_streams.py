"""The Durable Streams server from crates.io, with a write-ahead log for durability.

It deduplicates by producer and sequence number, not by id; this comparison does not use that. The load generator of its
authors is not in any package registry, so wrk and `newsfeed-bench fanout` are used instead.
"""

import http.client
import json

import parse
from server import BATCH, FEEDS, LIVE_RATE, SUBSCRIBERS, TEXT, Server

JSON = "application/json"
BYTES = "application/octet-stream"


class DurableStreams(Server):
    name = "durable-streams"
    favored = (
        "does not check the ids of events; keeps no order over all streams, unread counts or times; "
        "an event belongs to one stream, named in the path, so bodies are shorter"
    )
    handicapped = "none known"

    def start(self):
        data = self.folder / "data"
        self.begin([self.setting.durable_streams, "--port", self.port, "--data-dir", data, "--durability", "wal"])

    def measures(self):
        event = json.dumps({"id": "{id}", "kind": "visit", "data": {"text": TEXT}}, separators=(",", ":"))
        array = f"[{','.join([event] * BATCH)}]"
        yield "memory", "fanout", lambda: self.memory(*self.stream("memory"))
        for subscribers in (100, SUBSCRIBERS):
            yield f"live-{subscribers}", "fanout", lambda n=subscribers: self.with_cpu(
                lambda: self.fanout(n, LIVE_RATE, *self.stream(f"live-{n}"))
            )
        for writers in (50, 250):
            yield f"append-{writers}", "wrk", lambda n=writers: self.append(n, "json", JSON, event)
            # Bytes without boundaries between events, as in the figures that its authors publish.
            yield f"append-{writers}", "wrk, as bytes", lambda n=writers: self.append(n, "bytes", BYTES, event)
        yield "append-batch", "wrk", lambda: self.append(50, "json", JSON, array, BATCH)

    def append(self, connections, prefix, content_type, body, events=1):
        self.create([f"{prefix}-{feed}" for feed in range(FEEDS)], content_type)
        return self.wrk(connections, "POST", f"/{prefix}-{{feed}}", content_type, body=body, events=events)

    def stream(self, name):
        self.create([name], JSON)
        appended = json.dumps({"id": "{n}", "number": "number:{n}", "text": TEXT}, separators=(",", ":"))
        return f"/{name}?offset=now&live=sse", f"/{name}", appended

    def create(self, names, content_type):
        """Creates streams; has no effect on those that exist."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        for name in names:
            connection.request("PUT", f"/{name}", headers={"content-type": content_type})
            answer = connection.getresponse()
            if answer.status not in (200, 201):
                raise parse.Failure(f"durable-streams returned status {answer.status}: {answer.read()[:500]!r}")
            answer.read()
        connection.close()
