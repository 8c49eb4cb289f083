// Shared by the tests of the library and of the page: the service (NEWSFEED_BIN is the program), and waiting.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

/** Ends the service when this process ends for any reason, because file descriptor 3 of the shell then ends. */
const KEEPER = `
"$0" "$@" 3<&- & service=$!
echo $service
exec 2>/dev/null
{ cat; kill -9 $service; } <&3 >/dev/null &
exec 3<&-
wait $service`;

/** `newsfeed serve` in a temporary folder; it keeps its address over restarts. */
export class Service {
  static async start(environment = {}) {
    const service = new Service();
    service.environment = { ...process.env, NEWSFEED_LOG: "warn", ...environment };
    service.folder = await mkdtemp(join(tmpdir(), "newsfeed-web-"));
    const part = () => Math.floor(Math.random() * 254) + 1;
    // A random loopback address, so that no other process takes the port while the service is down.
    service.address = `127.${part()}.${part()}.${part()}:0`;
    await service.again();
    return service;
  }

  get url() {
    return `http://${this.address}`;
  }

  async again(...args) {
    const serve = ["serve", "--listen", this.address, "--data", this.folder, ...args];
    this.shell = spawn("sh", ["-c", KEEPER, process.env.NEWSFEED_BIN, ...serve], {
      stdio: ["ignore", "pipe", "inherit", "pipe"],
      env: this.environment,
    });
    this.shell.stdio[3].on("error", () => {});
    this.exited = once(this.shell, "exit").then(() => this.shell.stdio[3].destroy());
    const lines = createInterface({ input: this.shell.stdout })[Symbol.asyncIterator]();
    this.pid = Number((await lines.next()).value);
    const line = (await lines.next()).value;
    this.address = line.replace("newsfeed is listening on http://", "");
  }

  /** Kills the service. */
  async kill(signal = "SIGKILL") {
    process.kill(this.pid, signal);
    await this.exited;
  }

  async stop() {
    await this.kill("SIGTERM");
    await rm(this.folder, { recursive: true });
  }
}

/** How long a test waits before it fails, in ms: far longer than anything takes. */
export const PATIENCE = Number(process.env.NEWSFEED_TEST_PATIENCE_MS ?? 300_000);

/** Calls `check` until it returns something truthy, and returns that. */
export async function until(what, check) {
  const end = Date.now() + PATIENCE;
  for (let tries = 0; ; tries += 1) {
    const got = await check();
    if (got) return got;
    if (Date.now() > end) throw new Error(`waited in vain: ${what}`);
    await sleep(Math.min(tries, 25));
  }
}

/** Collects what a follower yields. */
export class Collector {
  updates = [];

  constructor(follow) {
    this.follow = follow;
    this.done = this.#collect();
    this.done.catch(() => {});
  }

  async #collect() {
    for await (const update of this.follow) this.updates.push(update);
  }

  of(type) {
    return this.updates.filter((update) => update.type === type);
  }

  /** The ids of all entries, oldest first: the history, then live ones. */
  get ids() {
    const history = this.of("history").flatMap(({ entries }) => entries);
    return [...history.reverse(), ...this.of("entry").map(({ entry }) => entry)].map(({ id }) => id);
  }

  get badges() {
    return new Map(this.of("unread").map(({ feed, unread }) => [feed, unread.total]));
  }

  /** Waits like `until`; throws if the follower ends meanwhile. */
  until(what, check) {
    const failed = this.done.then(() => Promise.reject(new Error(`the follower ended before: ${what}`)));
    return Promise.race([until(what, () => check(this)), failed]);
  }

  live(reconnects = 0) {
    const isLive = (update) => update.state === "live" && update.reconnects >= reconnects;
    return this.until("live", () => this.updates.some(isLive));
  }

  close() {
    this.follow.close();
    return this.done;
  }
}
