/** The whole join: version, history up to it, live from it, and again after every break. */

import { Badges } from "./badges.js";
import { Backoff, NewsfeedError, linked, sleep } from "./http.js";
import { events } from "./sse.js";

/** The service says something every 15 s; after so much silence a stream counts as broken. In ms. */
const SILENCE_MAX = 40_000;
/** … and after so much, when there is a reason to doubt it (the machine woke up, the network came back). */
const SILENCE_DOUBTFUL = 20_000;
/** The most entries that the service puts on a page. */
const PAGE_MAX = 200;

/** What we hold does not continue: the service has not reached our version, or no longer has what came after it. */
class Reset extends Error {
  /** Where a stream goes on; null if only asking tells. */
  constructor(version) {
    super("reset");
    this.version = version;
  }
}

const gone = (error) => error.status === 410 || error.code === "version_ahead";

export class Follow {
  #feed;
  #http;
  #options;
  #updates;
  #end = new AbortController();
  #badges = new Badges();
  #backoff;
  /** All that is at or below it has been given out. */
  #position = null;
  #saved = null;
  #connections = 0;
  #caughtUp = 0;
  /** Since when a read waits, by the wall clock, which goes on while the machine sleeps; null while none does. */
  #waiting = null;
  #break = () => {};
  #hurry = () => {};

  constructor(feed, http, options) {
    const { history = 50, silence = SILENCE_MAX } = options;
    Object.assign(this, { [Symbol.asyncIterator]: () => this });
    this.#feed = feed;
    this.#http = http;
    this.#options = { ...options, history, silence };
    this.#backoff = new Backoff(http.random);
    this.#updates = this.#run();
  }

  next() {
    return this.#updates.next();
  }

  return(value) {
    this.close();
    return this.#updates.return(value);
  }

  /** Ends the loop. */
  close() {
    this.#end.abort();
  }

  /** Tries again now instead of later; a stream that has been silent is opened anew. Browsers' events do it. */
  wake() {
    this.#hurry();
    if (this.#silentFor(SILENCE_DOUBTFUL)) this.#break();
  }

  #silentFor(ms) {
    return this.#waiting !== null && Date.now() - this.#waiting > ms;
  }

  async *#run() {
    const { signal } = this.#options;
    const close = () => this.close();
    signal?.addEventListener("abort", close);
    if (signal?.aborted) this.close();
    const deaf = whenAwake(() => this.wake());
    try {
      yield* this.#follow();
    } catch (error) {
      if (!this.#end.signal.aborted) throw error;
    } finally {
      deaf();
      signal?.removeEventListener("abort", close);
      this.close();
    }
  }

  async *#follow() {
    const { after, history, cursor, storage } = this.#options;
    let since = after || !cursor ? null : await storage.getItem(cursor);
    this.#position = after ?? (history === 0 ? since : null);
    for (;;) {
      this.#end.signal.throwIfAborted();
      try {
        if (this.#position === null) yield* this.#join(since);
        yield* this.#stream();
      } catch (error) {
        if (!(error instanceof Reset)) throw error;
        since = null;
        this.#badges = new Badges();
        this.#position = history > 0 ? null : error.version;
        yield { type: "reset" };
      }
    }
  }

  /** The version now, and as much of the history up to it as is wanted. */
  async *#join(since) {
    const { signal } = this.#end;
    let left = this.#options.history;
    yield this.#status("connecting");
    const { version, heads } = yield* this.#trying(() => this.#feed.heads({ signal, patience: 0 }));
    yield { type: "start", version, since: since && since <= version ? since : null };
    yield* this.#told(heads.map((head) => this.#badges.told(head)));
    for (let before; left > 0 && before !== null; ) {
      const query = { until: version, before, limit: Math.min(left, PAGE_MAX), signal, patience: 0 };
      const page = yield* this.#trying(() => this.#feed.page(query));
      yield { type: "history", ...page };
      left -= page.entries.length;
      before = page.next;
    }
    this.#position = version;
    await this.#save();
  }

  /** One live stream, from its request to its end and the pause behind it. */
  async *#stream() {
    const { controller, unlink } = linked(this.#end.signal);
    const { silence } = this.#options;
    this.#break = () => controller.abort(new Error("the stream fell silent"));
    const watchdog = setInterval(() => this.#silentFor(silence) && this.#break(), silence / 8);
    let broken;
    try {
      yield this.#status("connecting");
      this.#connections += 1;
      this.#caughtUp = 0;
      const waits = (waiting) => (this.#waiting = waiting ? Date.now() : null);
      const body = await this.#http.open(this.#feed.livePath(this.#position), controller.signal, waits);
      let live = false;
      for await (const { event, data, retry } of events(body, waits)) {
        if (retry !== null) this.#backoff.base = retry;
        if (data === "") continue;
        const told = JSON.parse(data);
        if (event === "bye") throw new NewsfeedError({ code: told.reason, detail: "the service ended the stream" });
        if (event === "reset") throw new Reset(told.version);
        this.#backoff.attempts = 0;
        yield* this.#heard(event, told, live);
        if (event !== "version" || live) continue;
        live = true;
        yield this.#status("live");
      }
      broken = NewsfeedError.of(new Error("the stream ended"));
    } catch (error) {
      this.#end.signal.throwIfAborted();
      if (error instanceof Reset) throw error;
      broken = NewsfeedError.of(error);
      if (!broken.temporary && !gone(broken)) throw broken;
    } finally {
      clearInterval(watchdog);
      this.#waiting = null;
      this.#break = () => {};
      unlink();
      controller.abort();
    }
    yield* this.#pause(broken);
    if (gone(broken)) throw new Reset(null);
  }

  async *#heard(event, told, live) {
    switch (event) {
      case "entry":
      case "notify": {
        if (told.version <= this.#position) return;
        this.#position = told.version;
        if (!live) this.#caughtUp += 1;
        yield { type: "entry", entry: told, notify: event === "notify", live };
        const feeds = event === "notify" ? told.feeds ?? [told.feed] : [];
        yield* this.#told(feeds.map((feed) => this.#badges.notified(feed, told)));
        return this.#save();
      }
      case "version":
        if (told.version < this.#position) return;
        this.#position = told.version;
        yield { type: "version", version: told.version };
        return this.#save();
      case "marker":
        return yield* this.#told([this.#badges.told(told)]);
      case "transient":
        yield { type: "transient", signal: told };
    }
  }

  async *#told(updates) {
    for (const update of updates) if (update) yield update;
  }

  /** After what the position stands for has been dealt with: the loop came back for more. */
  async #save() {
    const { cursor, storage } = this.#options;
    if (!cursor || this.#saved === this.#position) return;
    await storage.setItem(cursor, this.#position);
    this.#saved = this.#position;
  }

  /** Until it is answered. */
  async *#trying(request) {
    for (;;) {
      try {
        const answer = await request();
        this.#backoff.attempts = 0;
        return answer;
      } catch (error) {
        this.#end.signal.throwIfAborted();
        if (!error.temporary && !gone(error)) throw error;
        yield* this.#pause(error);
        if (gone(error)) throw new Reset(null);
      }
    }
  }

  async *#pause(error) {
    const delay = this.#backoff.next(error);
    yield this.#status("waiting", { error, delay });
    const { controller, unlink } = linked(this.#end.signal);
    const hurried = new Promise((resolve) => (this.#hurry = resolve));
    await Promise.race([sleep(delay, controller.signal), hurried]).finally(() => {
      this.#hurry = () => {};
      unlink();
      controller.abort();
    });
  }

  #status(state, more) {
    const reconnects = Math.max(0, this.#connections - 1);
    return { type: "status", state, version: this.#position, reconnects, caughtUp: this.#caughtUp, ...more };
  }
}

/** Calls `wake` when a browser's page is seen again or the network is back; the answer ends that. */
function whenAwake(wake) {
  const page = globalThis.document;
  if (!page || !globalThis.addEventListener) return () => {};
  const seen = () => page.visibilityState === "visible" && wake();
  globalThis.addEventListener("online", wake);
  globalThis.addEventListener("pageshow", seen);
  page.addEventListener("visibilitychange", seen);
  return () => {
    globalThis.removeEventListener("online", wake);
    globalThis.removeEventListener("pageshow", seen);
    page.removeEventListener("visibilitychange", seen);
  };
}
