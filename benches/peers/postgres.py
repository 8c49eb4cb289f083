"""PostgreSQL with Debian's default configuration, which is durable.

One prepared statement inserts the event's id into one table and its entry into another.
"""

import machine
import parse
import signal
from server import BATCH, HERE, PAGE_ENTRIES, PAGE_FEEDS, TEXT, Server

WRITERS = 50
FILL = f"""
INSERT INTO entry (feed, id, kind, data)
SELECT 'page:' || n % {PAGE_FEEDS}, 'page-' || n, 'visit', jsonb_build_object('text', '{TEXT}')
FROM generate_series(1, {PAGE_FEEDS * PAGE_ENTRIES}) n
"""


class Postgres(Server):
    name = "postgres"
    favored = (
        "has no live delivery or unread counts here; prepared statements and a binary protocol instead of HTTP; "
        "the array is one statement over generated rows, so no events are sent or parsed"
    )
    handicapped = "has a process for each connection, its default; 250 writers are left out because the default limit is 100"
    # Requests a fast shutdown; SIGTERM would wait for clients.
    stop_signal = signal.SIGINT

    def start(self):
        data, user = self.folder / "data", machine.user_options("postgres")
        if user:
            machine.give_to(self.folder, user)
        initdb = [self.tool("initdb"), "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"]
        self.client(*initdb, cwd=self.folder, **user)
        self.begin(
            [self.tool("postgres"), "-D", data, "-p", self.port, "-c", "listen_addresses=127.0.0.1", "-k", self.folder],
            cwd=self.folder, **user,
        )
        self.psql("-f", HERE / "schema.sql")

    def ready(self):
        # The server does not accept clients at once.
        try:
            self.psql("-c", "SELECT 1")
        except parse.Failure:
            return False
        return True

    def measures(self):
        yield "append-50", "pgbench", lambda: self.pgbench("append.sql")
        yield "append-batch", "pgbench, 100 rows", lambda: self.pgbench("append_100.sql", BATCH)
        yield "pages", "pgbench", self.pages

    def tool(self, name):
        return self.setting.postgres / name

    def connected(self, tool):
        return [self.tool(tool), "-h", "127.0.0.1", "-p", self.port, "-U", "postgres"]

    def psql(self, *arguments):
        return self.client(*self.connected("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *arguments, "postgres")

    def pages(self):
        self.psql("-c", FILL, "-c", "VACUUM ANALYZE entry")
        return self.pgbench("page.sql")

    def pgbench(self, script, rows=1):
        logs = self.folder / f"{script}-log"
        logs.mkdir()
        command = self.connected("pgbench") + ["-n", "-M", "prepared", "-f", HERE / script, "-c", WRITERS]
        command += ["-j", min(machine.cores(), WRITERS), "-T", self.setting.seconds, "-l", "postgres"]
        return self.with_cpu(lambda: parse.pgbench(self.client(*command, cwd=logs), log_lines(logs), rows))


def log_lines(folder):
    for file in folder.iterdir():
        with open(file) as lines:
            yield from lines
