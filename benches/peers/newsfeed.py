"""newsfeed on its embedded engine, measured by newsfeed-bench, which checks every entry, and by wrk, like its HTTP peer."""

import http.client
import json
import time

import parse
from server import BATCH, FEEDS, LIVE_RATE, PAGE, PAGE_ENTRIES, PAGE_FEEDS, SUBSCRIBERS, TEXT, Server

KIND = "visit"
# To detect duplicates, a page also reads the entries of the 5 s before its oldest one: few in ordinary feeds, but the
# whole feed if that was filled within seconds. wrk measures ordinary feeds, `newsfeed-bench pages` newly filled ones.
DEDUP_WINDOW_SECONDS = 6


def event(identity, feed):
    return {"id": identity, "kind": KIND, "feeds": [feed], "data": {"text": TEXT}}


def body(events):
    return json.dumps(events, separators=(",", ":"))


class Newsfeed(Server):
    name = "newsfeed"
    favored = (
        "the feeds do not change while their newest entries are read, so pages are answered from memory; \"up to a version\" "
        "reads each from the store"
    )

    def start(self):
        data = self.folder / "data"
        self.begin([self.setting.newsfeed, "serve", "--listen", f"127.0.0.1:{self.port}", "--data", data])

    def measures(self):
        bench = "newsfeed-bench"
        single = body(event("{id}", "user:{feed}"))
        array = body([event("{id}", "user:{feed}")] * BATCH)
        yield "memory", "fanout", lambda: self.memory(*self.stream("memory"))
        for subscribers in (100, SUBSCRIBERS):
            yield f"live-{subscribers}", "fanout", lambda n=subscribers: self.with_cpu(
                lambda: self.fanout(n, LIVE_RATE, *self.stream(f"live-{n}"))
            )
            yield f"live-{subscribers}", bench, lambda n=subscribers: self.bench_live(n)
        for writers in (50, 250):
            yield f"append-{writers}", "wrk", lambda n=writers: self.append_by_wrk(n, single)
            yield f"append-{writers}", bench, lambda n=writers: self.bench_append(n, 1)
        yield "append-batch", "wrk", lambda: self.append_by_wrk(50, array, BATCH)
        yield "append-batch", bench, lambda: self.bench_append(50, BATCH)
        yield "pages", "wrk", self.pages_by_wrk
        yield "pages", "wrk, up to a version", self.pages_from_the_store
        yield "pages", f"{bench}, new feeds", self.bench_pages

    def stream(self, feed):
        """Path to subscribe to, path to append to, and body of an append, for `newsfeed-bench fanout`."""
        appended = event(f"{feed}-{{n}}", feed)
        appended["data"] = {"number": "number:{n}", "text": TEXT}
        return f"/v1/feeds/{feed}/live?after=0", "/v1/events", body(appended)

    def append_by_wrk(self, connections, appended, events=1):
        return self.wrk(connections, "POST", "/v1/events", "application/json", body=appended, events=events)

    def pages_by_wrk(self):
        new = PAGE + 1
        self.fill("old", PAGE_ENTRIES - new)
        time.sleep(DEDUP_WINDOW_SECONDS)
        self.fill("new", new)
        return self.wrk(50, "GET", f"/v1/feeds/page:{{feed}}/entries?limit={PAGE}", feeds=PAGE_FEEDS)

    def pages_from_the_store(self):
        """Of the feeds that the measure before has filled."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/v1/feeds/page:0/entries?limit=1")
        version = json.load(connection.getresponse())["version"]
        connection.close()
        path = f"/v1/feeds/page:{{feed}}/entries?limit={PAGE}&until={version}"
        return self.wrk(50, "GET", path, feeds=PAGE_FEEDS)

    def fill(self, name, entries):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        for feed in range(PAGE_FEEDS):
            events = [event(f"{name}-{feed}-{entry}", f"page:{feed}") for entry in range(entries)]
            connection.request("POST", "/v1/events", body(events), {"content-type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise parse.Failure(f"newsfeed returned status {answer.status}: {answer.read()[:500]!r}")
            answer.read()
        connection.close()

    def bench(self, command, *arguments):
        file = self.folder / "bench.json"
        url = f"http://127.0.0.1:{self.port}"
        self.client(
            self.setting.bench, command, "--url", url, "--kind", KIND, "--text", len(TEXT),
            "--seconds", self.setting.seconds, "--json", file, *arguments,
        )
        return json.loads(file.read_text())

    def bench_append(self, connections, batch):
        options = ["--connections", connections, "--batch", batch, "--feeds", FEEDS]
        return self.closed_loop("append", options, "appended", "append")

    def bench_pages(self):
        options = ["--connections", 50, "--limit", PAGE, "--older", 0, "--feeds", PAGE_FEEDS, "--entries", PAGE_ENTRIES]
        return self.closed_loop("pages", options, "pages", "page")

    def closed_loop(self, command, options, count, latency):
        return parse.newsfeed_bench(self.bench(command, *options, "--closed-loop"), count, latency)

    def bench_live(self, subscribers):
        run = self.bench(
            "live", "--subscribers", subscribers, "--hot-subscribers", subscribers, "--feeds", 1,
            "--rate", LIVE_RATE, "--hot-rate", LIVE_RATE, "--connections", 4,
        )
        return parse.newsfeed_bench(run, "delivered", "delivery")
