"""Parsers for the output of the load generators.

Each returns {"per_second", "p50_ms", "p99_ms"} and, if the result covers all requests to the server, "operations".
Output that cannot be parsed raises Failure; nothing is guessed.
"""

import csv
import io
import json
import re


class Failure(Exception):
    """Ends the comparison; the message says what to do."""


def unreadable(tool, text):
    return Failure(f"the output of {tool} cannot be parsed; is its version supported?\n{text.strip()[-2000:]}")


def wrk(text, events=1):
    """The JSON that `done` in wrk.lua prints; `events` is the number of events per request."""
    try:
        run = json.loads(text.strip().splitlines()[-1])
        requests, elapsed, p50, p99 = (run[key] for key in ("requests", "elapsed_us", "p50_us", "p99_us"))
        refused, broken = run["refused"], run["broken"]
        per_second = events * requests / elapsed * 1e6
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise unreadable("wrk", text) from error
    if refused or broken or not requests:
        raise Failure(f"wrk: of {requests} requests, {refused} were refused; {broken} connections or responses failed")
    return {"per_second": per_second, "p50_ms": p50 / 1e3, "p99_ms": p99 / 1e3, "operations": events * requests}


def redis_benchmark(text):
    """The output of `redis-benchmark --csv` with one command."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    try:
        [row] = csv.DictReader(io.StringIO("\n".join(lines)))
        return {
            "per_second": float(row["rps"]),
            "p50_ms": float(row["p50_latency_ms"]),
            "p99_ms": float(row["p99_latency_ms"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable("redis-benchmark", text) from error


def pgbench(text, log_lines, rows=1):
    """The report of pgbench and, for the quantiles, its transaction logs; `rows` is the number of rows per transaction.

    The third field of a log line is the latency in µs.
    """
    tps = re.search(r"^tps = ([0-9.]+) \(without initial connection time\)$", text, re.MULTILINE)
    done = re.search(r"^number of transactions actually processed: (\d+)$", text, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: (\d+) ", text, re.MULTILINE)
    if not tps or not done or not failed:
        raise unreadable("pgbench", text)
    if int(failed[1]):
        raise Failure(f"pgbench: {failed[1]} transactions failed\n{text}")
    try:
        took = sorted(int(line.split()[2]) for line in log_lines)
    except (IndexError, ValueError) as error:
        raise unreadable("pgbench --log", str(error)) from error
    if not took:
        raise unreadable("pgbench --log", "(no output)")
    return {
        "per_second": rows * float(tps[1]),
        "p50_ms": quantile(took, 0.5) / 1e3,
        "p99_ms": quantile(took, 0.99) / 1e3,
        "operations": rows * int(done[1]),
    }


def newsfeed_bench(run, count, latency):
    """The JSON of newsfeed-bench: the rate of the counter `count`, and the quantiles of `latency`."""
    try:
        quantiles = run["latency"][latency]
        if not run["exact"]:
            raise Failure(f"newsfeed-bench {run['command']}: {run['faults_count']} entries not delivered correctly")
        return {
            "per_second": run["counts"][count] / run["elapsed_seconds"],
            "p50_ms": quantiles["p50_ms"],
            "p99_ms": quantiles["p99_ms"],
        }
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise unreadable("newsfeed-bench", json.dumps(run)) from error


def fanout(text):
    return own_client(text, "fanout", "deliveries")


def jetstream(text):
    return own_client(text, "jetstream", "appended")


def own_client(text, tool, count):
    """The JSON of a subcommand of newsfeed-bench for other systems."""
    try:
        run = json.loads(text)
        return {
            "per_second": run[count] / run["elapsed_seconds"],
            "p50_ms": run["p50_ms"],
            "p99_ms": run["p99_ms"],
            "operations": run[count],
        }
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise unreadable(tool, text) from error


def quantile(ascending, share):
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)]
