"""Redis with an append-only file that is synced before every response.

One script checks the event's id and adds its entry to a stream.
"""

import json
import secrets

import parse
from server import FEEDS, HERE, PAGE, PAGE_ENTRIES, PAGE_FEEDS, TEXT, Server

DATA = json.dumps({"text": TEXT}, separators=(",", ":"))
# Ids are random. So few collide in a run that COLLIDING_SHARE_MAX allows for them.
IDS = 2_000_000_000
COLLIDING_SHARE_MAX = 0.01
FILL = """for entry = 1, tonumber(ARGV[1]) do
  redis.call('XADD', KEYS[1], '*', 'id', KEYS[1] .. '-' .. entry, 'kind', 'visit', 'data', ARGV[2])
end"""


class Redis(Server):
    name = "redis"
    favored = (
        "keeps everything in memory, with no limit; has no order over all feeds and no unread counts; "
        "its client is C and speaks a plain protocol instead of HTTP"
    )
    handicapped = "runs commands on one thread, so the client has a core for itself but the server cannot use both"

    def start(self):
        self.begin([
            "redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "",
            "--appendonly", "yes", "--appendfsync", "always",
        ])

    def ready(self):
        return super().ready() and self.cli("PING") == "PONG"

    def measures(self):
        yield "append-50", "redis-benchmark", lambda: self.append(50, 1)
        yield "append-250", "redis-benchmark", lambda: self.append(250, 1)
        yield "append-batch", "redis-benchmark -P 100", lambda: self.append(50, 100)
        yield "pages", "redis-benchmark", self.pages

    def cli(self, *command):
        return self.client("redis-cli", "-p", self.port, *command).strip()

    def append(self, connections, pipeline):
        script = self.cli("SCRIPT", "LOAD", (HERE / "append.lua").read_text())
        before = self.entries()
        options = ["-c", connections, "-P", pipeline, "-r", IDS]
        command = ["EVALSHA", script, 1, "id:{run}:__rand_int__", FEEDS, DATA]
        result, sent = self.timed(options, 3_000 * min(pipeline, 10), *command)
        stored = self.entries() - before
        if stored < sent * (1 - COLLIDING_SHARE_MAX):
            raise parse.Failure(f"Redis stored only {stored} of {sent} events")
        return result

    def entries(self):
        """Number of stored ids: all keys except the feeds."""
        return int(self.cli("EVAL", "return redis.call('DBSIZE') - #redis.call('KEYS', 'feed:*')", 0))

    def pages(self):
        feeds = [f"page:{feed:012}" for feed in range(PAGE_FEEDS)]
        for feed in feeds:
            self.cli("EVAL", FILL, 1, feed, PAGE_ENTRIES, DATA)
        got = self.cli("XLEN", feeds[-1])
        if got != str(PAGE_ENTRIES):
            raise parse.Failure(f"a feed in Redis has {got} entries, but {PAGE_ENTRIES} were appended")
        command = ["XREVRANGE", "page:__rand_int__", "+", "-", "COUNT", PAGE]
        return self.timed(["-c", 50, "-r", PAGE_FEEDS], 20_000, *command)[0]

    def timed(self, options, first, *command):
        """Runs redis-benchmark for about the configured time; returns the result and the number of all requests sent.

        redis-benchmark takes a number of requests, which a short run of `first` requests determines.
        """
        rate = self.benchmark([*options, "-n", first], command)["per_second"]
        requests = max(first, int(rate * self.setting.seconds))

        def run():
            result = self.benchmark([*options, "-n", requests], command)
            return {**result, "operations": requests}

        return self.with_cpu(run), first + requests

    def benchmark(self, options, command):
        # Two runs may draw the same random numbers, so each gets a prefix of its own.
        filled = [str(part).replace("{run}", secrets.token_hex(4)) for part in command]
        output = self.client("redis-benchmark", "-p", self.port, "--csv", *options, *filled)
        return parse.redis_benchmark(output)
