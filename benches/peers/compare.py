#!/usr/bin/env python3
"""Compare newsfeed with other systems for the same task, in one run on one machine, and print a table.

    benches/peers/compare.py --install            # install what is missing, then compare (about 15 minutes)
    benches/peers/compare.py --quick              # one round of 2 s per measure, to see whether everything works
    benches/peers/compare.py --only newsfeed,redis,append-50 --seconds 20 --json results.json

Each system runs alone, on loopback, with its files in a temporary folder. All but nats-unsynced are durable: they
respond after the data is synced to disk. What is unfair nevertheless is printed below the table, with its direction.
Rounds are interleaved (A B C, A B C), and the table shows medians. Clients run in a closed loop, in which each waits for
a response before its next request, except for live streams, whose events follow a schedule. Run the comparison on an
otherwise idle machine, and look at ratios rather than absolute figures.
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
from nats import Nats, NatsUnsynced
from newsfeed import Newsfeed
from parse import Failure
from postgres import Postgres
from redis import Redis
from server import SUBSCRIBERS, Setting

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "newsfeed-peers"
DURABLE_STREAMS = "0.1.5"
SYSTEMS = {system.name: system for system in (Newsfeed, DurableStreams, Redis, Postgres, Nats, NatsUnsynced)}
MEASURES = {
    "append-50": "single appends, 50 writers",
    "append-250": "single appends, 250 writers",
    "append-batch": "appends of 100 at once, 50 writers (rates in events, latencies of the 100)",
    "pages": "pages of the 50 newest entries, 50 readers",
    "live-100": "one feed's 50 events/s to 100 live subscribers (rates in deliveries)",
    "live-1000": "one feed's 50 events/s to 1,000 live subscribers (rates in deliveries)",
    "memory": f"resident memory, idle and with {SUBSCRIBERS:,} subscribers",
}
# Titles of the figures and of their ratios. CPU time is that of the server.
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
# Load average per core above which the machine counts as busy.
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
        raise Failure("newsfeed cannot be measured without wrk; use --install, or run: " + missing["newsfeed"])
    print_missing(missing)
    if not {"newsfeed", "durable-streams", "nats", "nats-unsynced"}.isdisjoint(systems):
        build()

    processes = machine.Processes()
    folder = Path(tempfile.mkdtemp(prefix="newsfeed-peers-", dir=arguments.folder))
    # PostgreSQL runs as another user, which needs access.
    folder.chmod(0o755)
    try:
        head = machine.describe(folder)
        print(described(head), flush=True)
        if head["file_system"] in ("tmpfs", "ramfs"):
            raise Failure(f"{folder} is in memory, where a sync costs nothing: choose a folder on a disk with --folder")
        seconds = 2 if arguments.quick else arguments.seconds
        rounds = 1 if arguments.quick else arguments.rounds
        setting = Setting(
            processes, seconds, TARGET / "release/newsfeed", TARGET / "release/newsfeed-bench",
            CACHE / "bin/durable-streams-server", postgres_tools() or Path(),
        )
        rows, warnings = {}, {}
        for number in range(rounds):
            for name in systems:
                if name not in missing:
                    one_round(SYSTEMS[name], setting, folder / f"{name}-{number}", measures, rows, warnings)
        rows = sorted(rows.values(), key=lambda row: list(MEASURES).index(row.measure))
        print(f"\n{rounds} round{'s' * (rounds > 1)} of {seconds} s per measure\n{table(rows)}")
        print("\n".join(unfair([name for name in systems if name not in missing])))
        for name, warning in warnings.items():
            print(f"!! {name}: {warning}")
        print_missing(missing)
        if arguments.json:
            results = [{**vars(row), "median": row.median} for row in rows]
            written = {
                "machine": head, "seconds": seconds, "rounds": rounds, "missing": missing, "warnings": warnings,
                "results": results,
            }
            arguments.json.write_text(json.dumps(written, indent=1) + "\n")
    finally:
        processes.stop_all()
        shutil.rmtree(folder, ignore_errors=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="duration of each measure [10]")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds [3]")
    parser.add_argument("--quick", action="store_true", help="run one round of 2 s per measure")
    names = f"{', '.join(SYSTEMS)}; {', '.join(MEASURES)}"
    parser.add_argument("--only", metavar="NAME,…", default="", help=f"run only these systems and measures: {names}")
    parser.add_argument("--install", action="store_true", help=f"install missing systems (Debian packages, and into {CACHE})")
    parser.add_argument("--folder", help="create the temporary folder here, on the disk to measure [TMPDIR]")
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


# What each system needs: a check whether it is installed, and the command that installs it.
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
    "nats": [
        (lambda: shutil.which("nats-server"), "apt-get install nats-server"),
        (lambda: shutil.which("chattr"), "apt-get install e2fsprogs"),
    ],
    "nats-unsynced": [(lambda: shutil.which("nats-server"), "apt-get install nats-server")],
}


def not_installed(systems):
    missing = {}
    for system in systems:
        lacking = [how for installed, how in NEEDS[system] if not installed()]
        if lacking:
            missing[system] = " && ".join(lacking)
    return missing


def install(systems):
    for commands in not_installed(systems).values():
        for command in commands.split(" && "):
            command = command.replace("apt-get install", "apt-get install -qy --no-install-recommends")
            print(f"== {command}", flush=True)
            if subprocess.run(command.split()).returncode:
                raise Failure(f"installation failed: {command}")


def print_missing(missing):
    for system, how in missing.items():
        print(f"!! NOT MEASURED: {system} is not installed; use --install, or run: {how}", flush=True)


def build():
    command = ["cargo", "build", "--release", "--locked", "-p", "newsfeed", "-p", "newsfeed-bench"]
    if subprocess.run(command, cwd=REPOSITORY).returncode:
        raise Failure("building newsfeed failed")


def one_round(system, setting, folder, measures, rows, warnings):
    folder.mkdir()
    server = system(setting, folder)
    try:
        server.start()
        if server.warning and system.name not in warnings:
            warnings[system.name] = server.warning
            print(f"!! {system.name}: {server.warning}", flush=True)
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
        f"files on {head['file_system']} ({head['device']}), where writing 4 KiB with fdatasync takes "
        f"p50 {sync['p50_ms']:.2f}, p99 {sync['p99_ms']:.2f} ms"
    ]
    if head["load_before"] > BUSY * head["cores"]:
        lines.append(f"!! THE MACHINE IS BUSY (load {head['load_before']:.1f} before the run): the results are unreliable")
    return "\n".join(lines)


def table(rows):
    """Ratios are newsfeed's figure ÷ the peer's."""
    lines = []
    for measure in dict.fromkeys(row.measure for row in rows):
        columns = MEMORY_COLUMNS if measure == "memory" else COLUMNS
        titles = "".join(f"{title:>16}" for title, _ in columns.values())
        ratios = "".join(f"{title:>8}" for _, title in columns.values())
        lines += ["", MEASURES[measure], f"  {'':50}{titles}   newsfeed ÷ peer:{ratios}"]
        for row in rows:
            if row.measure == measure:
                figures = "".join(f"{number(row.median.get(key)):>16}" for key in columns)
                ratios = "".join(f"{number(ratio(rows, row, key), 2):>8}" for key in columns)
                lines.append(f"  {row.system:<16} {row.client:<33}{figures}   {'':16}{ratios}".rstrip())
    return "\n".join(lines)


def unfair(systems):
    """What makes each peer look better or worse than it is beside newsfeed."""
    lines = ["", "what is unfair, and in which direction (favored: looks better than it is, beside newsfeed)"]
    for name in systems:
        for direction in ("favored", "handicapped"):
            if text := getattr(SYSTEMS[name], direction):
                lines.append(f"  {name:<16} {direction + ':':<12} {text}")
    return lines


def ratio(rows, row, key):
    """Newsfeed's figure ÷ the peer's. Newsfeed's is by the same client, else by newsfeed-bench, else by wrk."""
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
