#!/usr/bin/env python3
"""Count the instructions of an append, a page and a delivery, and compare them with the recorded figures.

    benches/instructions/count.py                  # count, and fail if a figure differs by more than 3 %
    benches/instructions/count.py --record         # count, and write recorded.json
    benches/instructions/count.py --keep FOLDER    # also keep the profiles, for callgrind_annotate

The service runs under valgrind's callgrind, and one client sends fixed requests one after another, so nothing is timed.
To keep the counts the same on every run and machine, the service has one worker thread and no projections (they take as
many steps as fit beside the appends), valgrind is bound to one processor, its threads take turns fairly, and the C library
uses the variants of its functions that every processor has.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
RECORDED = Path(__file__).with_name("recorded.json")
TOLERANCE = 0.03
# What is counted, in this order, with how often it is done.
FIGURES = {
    "append": ("an append of one event", 200),
    "array event": ("an event of an append of 100", 1_000),
    "page": ("a page of 50 entries, read from the store", 100),
    "kept page": ("a page of 50 entries of a feed that has not changed", 100),
    "delivery": ("a delivery to one of 100 subscribers, with a hundredth of the append", 5_000),
}
ROUNDS = 5
BATCH = 100
FEEDS = 100
PAGE = 50
# Each has one entry more than a page: a page also reads the entries of the 5 s before its oldest one, and how many were
# appended in that time must not depend on the speed of the machine.
PAGE_FEEDS = 10
SUBSCRIBERS = 100
TEXT = "x" * 64
# Without these the C library chooses the variants for the processor of this machine, which costs or saves some percent.
PROCESSOR_FEATURES = (
    "AVX512F AVX512VL AVX512BW AVX2 AVX AVX_Fast_Unaligned_Load ERMS FSRM SSSE3 SSE4_1 SSE4_2 BMI1 BMI2 LZCNT MOVBE"
).split()
# A count takes a minute on a slow machine.
SECONDS_MAX = 600


class Failure(Exception):
    """Ends the program; the message says what to do."""


def main():
    arguments = parse_arguments()
    for tool in ("valgrind", "vgdb", "taskset"):
        if not shutil.which(tool):
            raise Failure(f"{tool} is not installed; run: apt-get install valgrind util-linux")
    if not arguments.newsfeed:
        build()
    newsfeed = (arguments.newsfeed or TARGET / "debug/newsfeed").resolve()
    counted = {"with": versions(), "instructions": count(newsfeed, arguments.keep)}
    if arguments.record:
        RECORDED.write_text(json.dumps(counted, indent=2) + "\n")
        print(f"recorded in {RECORDED}; say in the commit message why the figures changed")
    recorded = json.loads(RECORDED.read_text())
    print(table(recorded["instructions"], counted["instructions"]))
    if problem := difference(recorded, counted):
        raise Failure(problem)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="record the figures instead of comparing them")
    parser.add_argument("--newsfeed", type=Path, metavar="FILE", help="count this program instead of building it")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the profiles in this folder")
    return parser.parse_args()


def build():
    if subprocess.run(["cargo", "build", "--locked"], cwd=REPOSITORY).returncode:
        raise Failure("building newsfeed failed")


def versions():
    """What else the figures depend on."""
    said = [subprocess.run([tool, "--version"], capture_output=True, text=True, cwd=REPOSITORY).stdout for tool in ("rustc", "valgrind")]
    return [version.strip() for version in said]


def difference(recorded, counted):
    """What to say if a figure is no longer as recorded, else `None`. Better figures count too, so that the record stays true."""
    before, now = recorded["instructions"], counted["instructions"]
    changed = [name for name in now if name not in before or abs(now[name] / before[name] - 1) > TOLERANCE]
    if not changed:
        return None
    lines = [f"more than {TOLERANCE:.0%} from the recorded figure: {', '.join(changed)}"]
    if recorded["with"] != counted["with"]:
        lines += [
            f"The figures were recorded with {' and '.join(recorded['with'])}; this is {' and '.join(counted['with'])}. If only",
            "that has changed (the commit that recorded the figures gives the new ones too), record them in a commit of its own.",
        ]
    lines += [
        "If the change is not intended, mend it; `--keep FOLDER` keeps profiles that show which functions take the instructions.",
        "If it is intended, or the figure got better, run `benches/instructions/count.py --record`, commit recorded.json with the",
        "change, and say why in the commit message.",
    ]
    return "\n".join(lines)


def table(recorded, counted):
    lines = [f"{'instructions of':<16}{'recorded':>12}{'counted':>12}{'change':>9}"]
    for name, now in counted.items():
        before = recorded.get(name)
        change = f"{now / before - 1:+.1%}" if before else "new"
        mark = "" if before and abs(now / before - 1) <= TOLERANCE else "  <== !"
        lines.append(f"{name:<16}{before or 0:>12,}{now:>12,}{change:>9}{mark}   {FIGURES[name][0]}")
    return "\n".join(lines)


def count(newsfeed, keep):
    with tempfile.TemporaryDirectory(prefix="newsfeed-instructions-") as temporary:
        folder = Path(temporary)
        try:
            with running(newsfeed, folder) as service:
                return figures(service)
        finally:
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                for file in folder.glob("callgrind.*"):
                    shutil.copy(file, keep)


def figures(service):
    events = Events()
    client = service.connect()
    for number in range(PAGE_FEEDS):
        client.append(events.take(PAGE + 1, f"page:{number}"))
        client.page(number)
    version = client.page(0)
    for _ in range(20):
        client.append(events.take(1))
    service.instructions("start")

    found = {}

    def counted(name, work, per_work=1):
        """The least of several rounds: what the service does by a timer only adds, and more on a slow machine."""
        times, rounds = FIGURES[name][1] // per_work // ROUNDS, []
        for number in range(ROUNDS):
            for _ in range(times):
                work()
            rounds.append(service.instructions(f"{name.replace(' ', '-')}-{number}") / (times * per_work))
        found[name] = round(min(rounds))

    counted("append", lambda: client.append(events.take(1)))
    counted("array event", lambda: client.append(events.take(BATCH)), BATCH)
    pages = itertools.cycle(range(PAGE_FEEDS))
    counted("page", lambda: client.page(next(pages), f"&until={version}"))
    counted("kept page", lambda: client.page(next(pages)))
    subscribers = [service.connect() for _ in range(SUBSCRIBERS)]
    for subscriber in subscribers:
        subscriber.subscribe("hot")

    def deliver():
        [event] = events.take(1, "hot")
        client.append([event])
        for subscriber in subscribers:
            subscriber.wait_for(event["id"])

    deliver()
    service.instructions("subscribe")
    counted("delivery", deliver, SUBSCRIBERS)
    return found


class Events:
    """Events whose ids and feeds are the same in every run."""

    def __init__(self):
        self.taken = 0

    def take(self, count, feed=None):
        numbers = range(self.taken, self.taken + count)
        self.taken += count
        return [
            {"id": f"event-{n:07}", "kind": "visit", "feeds": [feed or f"user:{n % FEEDS:03}"], "data": {"text": TEXT}}
            for n in numbers
        ]


@contextmanager
def running(newsfeed, folder):
    command = [
        # The last processor that this process may use.
        "taskset", "--cpu-list", str(max(os.sched_getaffinity(0))),
        "valgrind", "--tool=callgrind", "--fair-sched=yes", f"--callgrind-out-file={folder / 'callgrind.out'}",
        newsfeed, "serve", "--listen", "127.0.0.1:0", "--data", folder / "data", "--projections", "off",
    ]
    settings = {name: value for name, value in os.environ.items() if not name.startswith("NEWSFEED_")}
    settings["TOKIO_WORKER_THREADS"] = "1"
    settings["GLIBC_TUNABLES"] = "glibc.cpu.hwcaps=" + ",".join(f"-{feature}" for feature in PROCESSOR_FEATURES)
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=settings, text=True)
        try:
            said = process.stdout.readline()
            if "listening on" not in said:
                raise Failure(f"newsfeed did not start under valgrind:\n{(folder / 'log').read_text()[-2000:]}")
            yield Service(process.pid, int(said.strip().rsplit(":", 1)[1]), folder)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise Failure(f"{error}\n{(folder / 'log').read_text()[-2000:]}") from error
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


class Service:
    def __init__(self, pid, port, folder):
        self.pid = pid
        self.port = port
        self.folder = folder
        self.dumps = 0

    def connect(self):
        return Client(self.port)

    def instructions(self, done):
        """Instructions since the last call, or since the start."""
        self.dumps += 1
        dump = self.folder / f"callgrind.out.{self.dumps}"
        subprocess.run(["vgdb", f"--pid={self.pid}", "dump", done], check=True, capture_output=True, timeout=SECONDS_MAX)
        with open(dump.rename(self.folder / f"callgrind.{done}")) as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("totals:"))


class Client:
    """An HTTP client whose requests are the same bytes in every run."""

    def __init__(self, port):
        self.host = f"127.0.0.1:{port:05}"
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = self.socket.makefile("rb")

    def append(self, events):
        body = json.dumps(events if len(events) > 1 else events[0], separators=(",", ":"))
        self.ask("POST", "/v1/events", body)

    def page(self, number, bound=""):
        """Returns its version."""
        page = json.loads(self.ask("GET", f"/v1/feeds/page:{number}/entries?limit={PAGE}{bound}"))
        if len(page["entries"]) != PAGE:
            raise ValueError(f"a page has {len(page['entries'])} entries instead of {PAGE}")
        return page["version"]

    def subscribe(self, feed):
        self.send("GET", f"/v1/feeds/{feed}/live?after=0", "accept: text/event-stream\r\n")
        self.head()

    def wait_for(self, event):
        while event.encode() not in (line := self.received.readline()):
            if not line:
                raise ValueError("the service ended a stream")

    def ask(self, method, path, body=""):
        self.send(method, path, f"content-type: application/json\r\ncontent-length: {len(body)}\r\n", body)
        return self.received.read(int(self.head()["content-length"]))

    def send(self, method, path, headers, body=""):
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\n{headers}\r\n{body}".encode())

    def head(self):
        status = self.received.readline().decode()
        headers = {}
        while line := self.received.readline().decode().strip():
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        if " 200 " not in status:
            body = self.received.read(int(headers.get("content-length", 0)))
            raise ValueError(f"the service answered {status.strip()}: {body.decode()}")
        return headers


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"count.py: {failure}")
