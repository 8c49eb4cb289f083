"""Tests of the parsers, of the table and of what the peers need: python3 -m unittest discover -s benches/peers"""

import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import compare
import nats
import parse

WRK = """Running 3s test @ http://127.0.0.1:4711
  1 threads and 50 connections
{"requests":60000,"elapsed_us":3000000,"p50_us":1270,"p99_us":21380,"refused":%d,"broken":0}
"""
REDIS = '''"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"evalsha 30e7 1 id:__rand_int__ {""text"":""x, y""}","5436.75","9.128","0.480","8.487","19.743","24.095","33.375"
'''
PGBENCH = """pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: append.sql
number of transactions actually processed: 12000
number of failed transactions: %d (0.000%%)
latency average = 4.000 ms
initial connection time = 12.345 ms
tps = 4000.500000 (without initial connection time)
"""
BENCH = {
    "command": "append",
    "exact": True,
    "faults_count": 0,
    "counts": {"appended": 5000},
    "elapsed_seconds": 2.0,
    "latency": {"append": {"p50_ms": 1.5, "p99_ms": 9.5}},
}


class Parsers(unittest.TestCase):
    def test_wrk(self):
        expected = {"per_second": 20000.0, "p50_ms": 1.27, "p99_ms": 21.38, "operations": 60000}
        self.assertEqual(parse.wrk(WRK % 0), expected)
        self.assertEqual(parse.wrk(WRK % 0, events=100)["per_second"], 2e6)

    def test_a_refused_request_is_a_failure(self):
        with self.assertRaisesRegex(parse.Failure, "of 60000 requests, 7 were refused"):
            parse.wrk(WRK % 7)

    def test_redis_benchmark(self):
        expected = {"per_second": 5436.75, "p50_ms": 8.487, "p99_ms": 24.095}
        self.assertEqual(parse.redis_benchmark("WARNING: a line\n" + REDIS), expected)

    def test_pgbench(self):
        log = [f"0 {n} {n * 1000} 0 1700000000 1" for n in range(1, 201)]
        expected = {"per_second": 4000.5, "p50_ms": 101.0, "p99_ms": 199.0, "operations": 12000}
        self.assertEqual(parse.pgbench(PGBENCH % 0, log), expected)
        of_100 = {**expected, "per_second": 400050.0, "operations": 1200000}
        self.assertEqual(parse.pgbench(PGBENCH % 0, log, rows=100), of_100)
        with self.assertRaisesRegex(parse.Failure, "3 transactions failed"):
            parse.pgbench(PGBENCH % 3, log)

    def test_newsfeed_bench(self):
        expected = {"per_second": 2500.0, "p50_ms": 1.5, "p99_ms": 9.5}
        self.assertEqual(parse.newsfeed_bench(BENCH, "appended", "append"), expected)
        with self.assertRaisesRegex(parse.Failure, "not delivered correctly"):
            parse.newsfeed_bench({**BENCH, "exact": False}, "appended", "append")

    def test_jetstream(self):
        run = '{"appended":5000,"elapsed_seconds":2.0,"p50_ms":1.5,"p99_ms":9.5}\n'
        expected = {"per_second": 2500.0, "p50_ms": 1.5, "p99_ms": 9.5, "operations": 5000}
        self.assertEqual(parse.jetstream(run), expected)

    def test_unexpected_output_is_a_failure(self):
        for parser, *arguments in [
            (parse.wrk, ""),
            (parse.wrk, "unable to connect to 127.0.0.1:1 Connection refused"),
            (parse.wrk, "[]"),
            (parse.redis_benchmark, ""),
            (parse.redis_benchmark, REDIS.replace("rps", "per second")),
            (parse.redis_benchmark, REDIS.replace("5436.75", "many")),
            (parse.pgbench, "tps = many", ["0 1 1000"]),
            (parse.pgbench, PGBENCH % 0, []),
            (parse.pgbench, PGBENCH % 0, ["0 1"]),
            (parse.newsfeed_bench, {**BENCH, "latency": {}}, "appended", "append"),
            (parse.fanout, "{}"),
            (parse.fanout, "subscribed"),
            (parse.jetstream, '{"appended":1,"elapsed_seconds":0}'),
        ]:
            with self.subTest(parser=parser.__name__, arguments=arguments):
                with self.assertRaisesRegex(parse.Failure, "cannot be parsed"):
                    parser(*arguments)


class Table(unittest.TestCase):
    def test_medians_and_ratios(self):
        def row(system, client, *per_second):
            runs = [{"per_second": rate, "p50_ms": 1.0, "p99_ms": 4.0} for rate in per_second]
            return compare.Row("append-50", system, client, runs)

        rows = [
            row("newsfeed", "newsfeed-bench", 900, 1000, 5000),
            row("newsfeed", "wrk", 800),
            row("durable-streams", "wrk", 400),
            row("redis", "redis-benchmark", 500),
        ]
        self.assertEqual(rows[0].median["per_second"], 1000)
        # A peer is compared with newsfeed measured by the same client, or else by newsfeed-bench.
        ratios = [compare.ratio(rows, row, "per_second") for row in rows]
        self.assertEqual(ratios, [None, None, 2.0, 2.0])
        lines = compare.table(rows).splitlines()
        self.assertIn("single appends, 50 writers", lines[1])
        self.assertRegex(lines[5], r"durable-streams +wrk +400 +1\.00 +4\.00 .* 2\.00 +1\.00 +1\.00$")

    def test_every_peer_says_what_is_unfair(self):
        lines = compare.unfair(list(compare.SYSTEMS))
        for name, system in compare.SYSTEMS.items():
            if name != "newsfeed":
                self.assertIn(f"  {name:<16} favored:     {system.favored}", lines)
                self.assertIn(f"  {name:<16} handicapped: {system.handicapped}", lines)


class Jetstream(unittest.TestCase):
    def test_a_version_without_sync_always_is_synced_by_the_kernel_or_not_durable(self):
        for has_setting, chattr, warning in [
            (True, 0, None),
            (False, 0, "has no `sync_interval: always` .* the kernel syncs every write"),
            (False, 1, "IT IS NOT DURABLE"),
        ]:
            with self.subTest(has_setting=has_setting, chattr=chattr), tempfile.TemporaryDirectory() as folder:
                def run(command, **_):
                    if command[0] == "chattr":
                        return subprocess.CompletedProcess(command, chattr)
                    unknown = nats.SYNC_ALWAYS in Path(command[-1]).read_text() and not has_setting
                    return subprocess.CompletedProcess(command, int(unknown), "", 'unknown field "sync_interval"' * unknown)

                server = nats.Nats(None, Path(folder))
                server.begin, server.client = lambda command: None, lambda *command: "nats-server: v2.9.10"
                with mock.patch("subprocess.run", run):
                    server.start()
                written = (Path(folder) / "nats.conf").read_text()
                self.assertEqual(nats.SYNC_ALWAYS in written, has_setting)
                if warning is None:
                    self.assertIsNone(server.warning)
                else:
                    self.assertRegex(server.warning, warning)


if __name__ == "__main__":
    unittest.main()
