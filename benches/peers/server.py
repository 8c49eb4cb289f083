"""The base class of all measured servers. One runs at a time; each round begins with an empty folder."""

import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import machine
import parse

HERE = Path(__file__).resolve().parent
# The workload, the same for every system. FEEDS are appended to; the PAGE_ constants describe the feeds that are read.
FEEDS = 1_000
PAGE_FEEDS = 100
PAGE_ENTRIES = 1_000
PAGE = 50
BATCH = 100
TEXT = "x" * 64
LIVE_RATE = 50
SUBSCRIBERS = 1_000


@dataclass
class Setting:
    processes: machine.Processes
    seconds: int
    newsfeed: Path
    bench: Path
    durable_streams: Path
    postgres: Path

    @property
    def client_seconds_max(self):
        return 6 * self.seconds + 120


class Server:
    name = "?"
    # What the comparison with newsfeed leaves out: what makes this system look better, and what makes it look worse.
    favored = ""
    handicapped = ""
    # Printed with the results, if this run is not what it should be.
    warning = None
    stop_signal = signal.SIGTERM

    def __init__(self, setting, folder):
        self.setting = setting
        self.folder = folder
        self.port = machine.free_port()
        self.log = folder / "log"
        self.process = None
        # Part of event ids, so that runs do not share ids.
        self.run_name = secrets.token_hex(4)

    def begin(self, command, **options):
        with open(self.log, "ab") as log:
            self.process = self.setting.processes.start(command, stdout=log, stderr=log, **options)
        machine.wait_for(self.ready, self.process, self.log)

    def ready(self):
        return machine.listens(self.port)

    def stop(self):
        if self.process:
            self.setting.processes.stop(self.process, self.stop_signal)

    def client(self, *command, **options):
        return self.setting.processes.run(command, self.setting.client_seconds_max, **options)

    def with_cpu(self, measure):
        """Measures, and adds the server's CPU time per operation, which depends little on other load on the machine."""
        before = machine.cpu_seconds(self.process.pid)
        result = measure()
        used = machine.cpu_seconds(self.process.pid) - before
        result["cpu_us"] = used / result.pop("operations") * 1e6
        return result

    def wrk(self, connections, method, path, content_type="", feeds=FEEDS, body=None, events=1):
        """A closed loop over HTTP; wrk.lua describes the placeholders in `path` and `body`."""
        threads = max(1, min(4, machine.cores() // 2, connections))
        self.run_name = secrets.token_hex(4)
        template = [method, path, content_type, feeds, self.run_name] + ([body] if body else [])
        command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{self.setting.seconds}s", "--timeout", "10s"]
        command += ["-s", HERE / "wrk.lua", f"http://127.0.0.1:{self.port}", "--", *template]
        return self.with_cpu(lambda: parse.wrk(self.client(*command), events))

    def fanout(self, subscribers, rate, subscribe, append, body, seconds=None, subscribed=lambda: None):
        """Runs `newsfeed-bench fanout`; calls `subscribed` when all streams are open, before the first append."""
        command = [self.setting.bench, "fanout", "--to", f"127.0.0.1:{self.port}", "--subscribe", subscribe, "--append", append]
        command += ["--body", body, "--subscribers", subscribers, "--rate", rate]
        command += ["--seconds", seconds or self.setting.seconds]
        with open(self.log, "ab") as log:
            client = self.setting.processes.start(command, stdin=PIPE, stdout=PIPE, stderr=log, text=True)
        try:
            if client.stdout.readline() != "subscribed\n":
                raise parse.Failure(f"fanout did not start:\n{self.log.read_text()[-2000:]}")
            subscribed()
            output, _ = client.communicate("\n", timeout=self.setting.client_seconds_max)
            if client.returncode:
                raise parse.Failure(f"fanout failed:\n{self.log.read_text()[-2000:]}")
            return parse.fanout(output)
        finally:
            self.setting.processes.stop(client)

    def memory(self, *stream):
        """Memory of a server that has just started: without connections, and with streams that receive nothing."""
        idle = machine.resident_mib(self.process.pid)
        full = []

        def subscribed():
            time.sleep(1)
            full.append(machine.resident_mib(self.process.pid))

        self.fanout(SUBSCRIBERS, 1, *stream, seconds=1, subscribed=subscribed)
        return {
            "idle_mib": idle,
            "subscribed_mib": full[0],
            "subscriber_kib": (full[0] - idle) * 1024 / SUBSCRIBERS,
        }
