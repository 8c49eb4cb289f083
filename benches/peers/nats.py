"""NATS JetStream with one file stream, synced before every acknowledgement. `newsfeed-bench jetstream` is its client.

JetStream syncs before it acknowledges only with `sync_interval: always`, which version 2.10 introduced. Earlier versions,
such as Debian's 2.9.10, sync their files every minute or two and cannot be configured otherwise. For them, the store's
folder has the file attribute S (`chattr +S`), with which the kernel syncs every write to a file before it returns. With
one replica, JetStream writes a message to its file before it acknowledges it, so each one costs one sync either way.
"""

import subprocess

import parse
from server import BATCH, FEEDS, TEXT, Server

SYNC_ALWAYS = "sync_interval: always"


class Nats(Server):
    name = "nats"
    favored = (
        "forgets event ids after 2 minutes; has no entries or unread counts of feeds (a feed is a subject of one stream); "
        "speaks a plain protocol instead of HTTP; takes 100 events as 100 messages that can fail one by one"
    )
    handicapped = "syncs each message by itself, so writers do not share a sync"

    def start(self):
        store = self.folder / "store"
        store.mkdir()
        self.sync = "sync always" if self.accepts(SYNC_ALWAYS) else self.sync_by_the_kernel(store)
        self.begin(["nats-server", "-c", self.folder / "nats.conf"])

    def accepts(self, sync):
        """Writes the configuration, with the setting `sync` only if this version has it."""
        for setting in (sync, ""):
            self.configure(setting)
            checked = subprocess.run(["nats-server", "-t", "-c", self.folder / "nats.conf"], capture_output=True, text=True)
            if checked.returncode == 0:
                return setting == sync
            if "unknown field" not in checked.stderr:
                break
        raise parse.Failure(f"nats-server does not accept its configuration: {checked.stderr.strip()}")

    def configure(self, sync):
        lines = ["host: 127.0.0.1", f"port: {self.port}", "jetstream {", f'store_dir: "{self.folder / "store"}"', sync, "}"]
        (self.folder / "nats.conf").write_text("\n".join(lines) + "\n")

    def sync_by_the_kernel(self, store):
        """Returns how the store is synced, for the table."""
        version = self.client("nats-server", "--version").strip()
        lacks = f"{version} has no `{SYNC_ALWAYS}` (2.10 has)"
        if subprocess.run(["chattr", "+S", store], capture_output=True).returncode:
            self.warning = f"{lacks}, and `chattr +S` failed: IT IS NOT DURABLE in this run, so do not compare with it"
            return "NOT DURABLE"
        self.warning = f"{lacks}; its folder has the file attribute S instead, so the kernel syncs every write"
        return "chattr +S"

    def measures(self):
        client = f"newsfeed-bench, {self.sync}"
        for writers in (50, 250):
            yield f"append-{writers}", client, lambda n=writers: self.append(n, 1)
        yield "append-batch", client, lambda: self.append(50, BATCH)

    def append(self, writers, batch):
        command = [
            self.setting.bench, "jetstream", "--to", f"127.0.0.1:{self.port}", "--writers", writers, "--batch", batch,
            "--feeds", FEEDS, "--text", len(TEXT), "--seconds", self.setting.seconds,
        ]
        return self.with_cpu(lambda: parse.jetstream(self.client(*command)))


class NatsUnsynced(Nats):
    """The default, as an upper bound: JetStream acknowledges what it has written to its files, and syncs them later."""

    name = "nats-unsynced"
    favored = f"IS NOT DURABLE: a power failure loses what it acknowledged in the last minutes; {Nats.favored}"
    handicapped = "none known"
    warning = "IT IS NOT DURABLE: it acknowledges before it syncs; the other systems sync first"

    def start(self):
        self.sync = "NOT DURABLE"
        self.configure("")
        self.begin(["nats-server", "-c", self.folder / "nats.conf"])
