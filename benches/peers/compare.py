#!/usr/bin/env python3
"""Measures newsfeed beside what people use today, in one run on one machine, and prints one table.

    benches/peers/compare.py --install            # what is missing, first; then the comparison (about 15 minutes)
    benches/peers/compare.py --quick              # every measure once, for 2 s: does it work?
    benches/peers/compare.py --only newsfeed,redis,append-50 --seconds 20 --json results.json

Each system runs alone, on loopback, its files in one temporary folder, durable: an answer comes after the sync. Rounds
are interleaved (A B C, A B C) and the table has the medians. Every client is closed-loop (it waits for its answers),
but for live streams, whose events come on schedule. Run it on an otherwise idle machine and compare the ratios.

In Python, whose standard library has what this needs: processes, HTTP, JSON, statistics.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import machine
from durable_streams import DurableStreams
from newsfeed import Newsfeed
from parse import Failure
from postgres import Postgres
from redis import Redis
from server import SUBSCRIBERS, Setting

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "newsfeed-peers"
DURABLE_STREAMS = "0.1.5"
SYSTEMS = {system.name: system for system in (Newsfeed, DurableStreams, Redis, Postgres)}
MEASURES = {
    "append-50": "single appends, 50 writers",
    "append-250": "single appends, 250 writers",
    "append-batch": "appends of 100 at once, 50 writers (rates in events, latencies of the 100)",
    "pages": "pages of the 50 newest entries, 50 readers",
    "live-100": "one feed's 50 events/s to 100 live subscribers (rates in deliveries)",
    "live-1000": "one feed's 50 events/s to 1,000 live subscribers (rates in deliveries)",
    "memory": f"resident memory, idle and with {SUBSCRIBERS:,} subscribers",
}
# Titles of the figures and of their ratios. CPU time is the server's.
COLUMNS = {
    "per_second": ("per second", "rate"),
    "p50_ms": ("p50 ms", "p50"),
    "p99_ms": ("p99 ms", "p99"),
    "cpu_us": ("CPU µs/op", "CPU"),
}
MEMORY_COLUMNS = {
    "idle_mib": ("idle MiB", "idle"),
    "subscribed_mib": ("subscribed MiB", "full"),
    "subscriber_kib": ("KiB/subscriber", "each"),
}
BUSY = 0.3


@dataclass
class Row:
    measure: str
    system: str
    client: str
    runs: list

    @property
    def median(self):
        return {key: statistics.median(run[key] for run in self.runs) for key in self.runs[0]}


def main():
    arguments = parse_arguments()
    systems, measures = chosen(arguments.only)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine.raise_file_limit()
    if arguments.install:
        install(systems)
    missing = not_installed(systems)
    if "newsfeed" in missing:
        raise Failure("newsfeed itself cannot be measured: " + missing["newsfeed"])
    tell_missing(missing)
    if not {"newsfeed", "durable-streams"}.isdisjoint(systems):
        build()

    processes = machine.Processes()
    folder = Path(tempfile.mkdtemp(prefix="newsfeed-peers-", dir=arguments.folder))
    # PostgreSQL runs as another user.
    folder.chmod(0o755)
    try:
        head = machine.describe(folder)
        print(described(head), flush=True)
        if head["file_system"] in ("tmpfs", "ramfs"):
            raise Failure(f"{folder} is in memory, where a sync costs nothing: name a folder on a disk with --folder")
        seconds = 2 if arguments.quick else arguments.seconds
        rounds = 1 if arguments.quick else arguments.rounds
        setting = Setting(
            processes, seconds, TARGET / "release/newsfeed", TARGET / "release/newsfeed-bench",
            CACHE / "bin/durable-streams-server", postgres_tools() or Path(),
        )
        rows = {}
        for number in range(rounds):
            for name in systems:
                if name not in missing:
                    one_round(SYSTEMS[name], setting, folder / f"{name}-{number}", measures, rows)
        rows = sorted(rows.values(), key=lambda row: list(MEASURES).index(row.measure))
        print(f"\n{rounds} round{'s' * (rounds > 1)} of {seconds} s a measure\n{table(rows)}")
        tell_missing(missing)
        if arguments.json:
            results = [{**vars(row), "median": row.median} for row in rows]
            written = {"machine": head, "seconds": seconds, "rounds": rounds, "missing": missing, "results": results}
            arguments.json.write_text(json.dumps(written, indent=1) + "\n")
    finally:
        processes.stop_all()
        shutil.rmtree(folder, ignore_errors=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="of each measure [10]")
    parser.add_argument("--rounds", type=int, default=3, help="[3]")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s a measure")
    names = f"{', '.join(SYSTEMS)}; {', '.join(MEASURES)}"
    parser.add_argument("--only", metavar="NAME,…", default="", help=f"systems, measures or both: {names}")
    parser.add_argument("--install", action="store_true", help=f"install what is missing (Debian, and into {CACHE})")
    parser.add_argument("--folder", help="where the temporary folder is made: on the disk to measure [TMPDIR]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    arguments = parser.parse_args()
    if arguments.seconds < 1 or arguments.rounds < 1:
        parser.error("--seconds and --rounds must be at least 1")
    return arguments


def chosen(only):
    names = [name for name in only.split(",") if name]
    for name in names:
        if name not in SYSTEMS and name not in MEASURES:
            raise Failure(f"--only: {name} is neither a system ({', '.join(SYSTEMS)}) nor a measure ({', '.join(MEASURES)})")
    systems = [name for name in SYSTEMS if name in names] or list(SYSTEMS)
    measures = [name for name in MEASURES if name in names] or list(MEASURES)
    return systems, measures


def postgres_tools():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


# What each system needs: is it there, and how it is installed.
NEEDS = {
    "newsfeed": [(lambda: shutil.which("wrk"), "apt-get install wrk")],
    "durable-streams": [
        (lambda: shutil.which("wrk"), "apt-get install wrk"),
        (
            lambda: (CACHE / "bin/durable-streams-server").exists(),
            f"cargo install --locked --root {CACHE} --version {DURABLE_STREAMS} durable-streams",
        ),
    ],
    "redis": [
        (lambda: shutil.which("redis-server"), "apt-get install redis-server"),
        (lambda: shutil.which("redis-benchmark"), "apt-get install redis-tools"),
    ],
    "postgres": [(postgres_tools, "apt-get install postgresql")],
}


def not_installed(systems):
    missing = {}
    for system in systems:
        lacking = [how for there, how in NEEDS[system] if not there()]
        if lacking:
            missing[system] = " && ".join(lacking)
    return missing


def install(systems):
    for commands in not_installed(systems).values():
        for command in commands.split(" && "):
            command = command.replace("apt-get install", "apt-get install -qy --no-install-recommends")
            print(f"== {command}", flush=True)
            if subprocess.run(command.split()).returncode:
                raise Failure(f"could not be installed: {command}")


def tell_missing(missing):
    for system, how in missing.items():
        print(f"!! NOT MEASURED: {system} is not installed; with --install, or by hand: {how}", flush=True)


def build():
    command = ["cargo", "build", "--release", "--locked", "-p", "newsfeed", "-p", "newsfeed-bench"]
    if subprocess.run(command, cwd=REPOSITORY).returncode:
        raise Failure("newsfeed does not build")


def one_round(system, setting, folder, measures, rows):
    folder.mkdir()
    server = system(setting, folder)
    try:
        server.start()
        for measure, client, run in server.measures():
            if measure in measures:
                print(f"   {system.name}: {measure} ({client})", file=sys.stderr, flush=True)
                result = run()
                rows.setdefault((measure, system.name, client), Row(measure, system.name, client, [])).runs.append(result)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def described(head):
    sync = head["fdatasync"]
    lines = [
        f"{head['cores']} cores ({head['cpu']}), {head['memory_gib']} GiB, Linux {head['kernel']}; "
        f"files on {head['file_system']} ({head['device']}), where 4 KiB and fdatasync take "
        f"p50 {sync['p50_ms']:.2f}, p99 {sync['p99_ms']:.2f} ms"
    ]
    if head["load_before"] > BUSY * head["cores"]:
        lines.append(f"!! THE MACHINE IS BUSY (load {head['load_before']:.1f} before the run): the figures are not worth much")
    return "\n".join(lines)


def table(rows):
    """The ratio beside a peer is newsfeed's figure ÷ the peer's."""
    lines = []
    for measure in dict.fromkeys(row.measure for row in rows):
        columns = MEMORY_COLUMNS if measure == "memory" else COLUMNS
        titles = "".join(f"{title:>16}" for title, _ in columns.values())
        ratios = "".join(f"{title:>8}" for _, title in columns.values())
        lines += ["", MEASURES[measure], f"  {'':50}{titles}   newsfeed ÷ it:{ratios}"]
        for row in rows:
            if row.measure == measure:
                figures = "".join(f"{number(row.median.get(key)):>16}" for key in columns)
                beside = "".join(f"{number(ratio(rows, row, key), 2):>8}" for key in columns)
                lines.append(f"  {row.system:<16} {row.client:<33}{figures}   {'':14}{beside}".rstrip())
    return "\n".join(lines)


def ratio(rows, row, key):
    """Newsfeed with the same client, or else with its own, or else with wrk, which is as light as the peers' are."""
    if row.system == "newsfeed":
        return None
    of_newsfeed = {own.client: own for own in rows if own.system == "newsfeed" and own.measure == row.measure}
    client = row.client.split(",")[0]
    own = of_newsfeed.get(client) or of_newsfeed.get("newsfeed-bench") or of_newsfeed.get("wrk")
    figures = own and own.median.get(key), row.median.get(key)
    return figures[0] / figures[1] if all(figures) else None


def number(value, digits=None):
    if value is None:
        return ""
    return f"{value:,.{digits if digits is not None else 0 if value >= 100 else 2}f}"


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"compare.py: {failure}")
    except KeyboardInterrupt:
        sys.exit("compare.py: interrupted")
