/** Version, history up to it, live from it, and a reconnect after every break. Not part of the library's public interface. */

import { Badges } from "./badges.js";
import { placeOf } from "./changes.js";
import { Backoff, NewsfeedError, isTime, linked, sleep, versionAt } from "./http.js";
import { SharedStream, canShare } from "./share.js";
import { events } from "./sse.js";

/** A stream that is silent for this long counts as a lost connection, in ms. The service sends something every 15 s. */
const SILENCE_MAX = 40_000;
/** The same when there is a reason for doubt: the machine woke up or the network came back. */
const SILENCE_DOUBTFUL = 20_000;
/** Maximum number of entries of a page. */
const PAGE_MAX = 200;

/** Our position cannot be continued: the service has not reached it, or no longer has the entries after it. */
class Reset extends Error {
  /** `version` is where the stream continues; null if it must be asked for. */
  constructor(version) {
    super("reset");
    this.version = version;
  }
}

/** Instead of the service, which was there before, something else answers. */
const foreign = (error) => error.code === "not_newsfeed";
const gone = (error) => error.status === 410 || error.code === "version_ahead";
/** A stored position that is no position of this store. */
const unusable = (error) => gone(error) || error.code === "invalid_version";

export class Follow {
  #feed;
  #http;
  #options;
  #updates;
  #end = new AbortController();
  #badges;
  #backoff;
  /** Everything up to this version has been given to the loop: entries, and changes of earlier ones. */
  #position = null;
  #saved = null;
  #connections = 0;
  #caughtUp = 0;
  /** Whether a stream of the service was open. */
  #known = false;
  /** When the current read began to wait, by the wall clock, which also runs while the machine sleeps; null if none does. */
  #waiting = null;
  #break = () => {};
  #hurry = () => {};

  constructor(feed, http, options) {
    const { history = 50, silence = SILENCE_MAX } = options;
    Object.assign(this, { [Symbol.asyncIterator]: () => this });
    this.#feed = feed;
    this.#http = http;
    this.#options = { ...options, history, silence };
    this.#badges = new Badges(feed.reader);
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

  /** Retries now instead of later, and reconnects a stream that has been silent. Events of the browser call this. */
  wake() {
    this.#hurry();
    if (this.#silentFor(SILENCE_DOUBTFUL)) this.#break();
  }

  /** Whether entries have their states. */
  get #tellsStates() {
    return this.#feed.reader !== null || this.#options.state !== undefined;
  }

  #silentFor(ms) {
    return this.#waiting !== null && Date.now() - this.#waiting > ms;
  }

  async *#run() {
    const { signal } = this.#options;
    const close = () => this.close();
    signal?.addEventListener("abort", close);
    if (signal?.aborted) this.close();
    const unlisten = listen({ wake: () => this.wake(), leave: () => this.#break() });
    try {
      yield* this.#follow();
    } catch (error) {
      if (!this.#end.signal.aborted) throw error;
    } finally {
      unlisten();
      signal?.removeEventListener("abort", close);
      this.close();
    }
  }

  async *#follow() {
    const { from, history, cursor, storage } = this.#options;
    let { after } = this.#options;
    if (isTime(after)) {
      const { signal } = this.#end;
      after = yield* this.#trying(() => versionAt(this.#http, after, { signal, patience: 0 }));
    }
    let since = after || !cursor ? null : await storage.getItem(cursor);
    this.#position = after ?? (history === 0 ? since ?? from ?? null : null);
    for (;;) {
      this.#end.signal.throwIfAborted();
      try {
        if (this.#position === null) yield* this.#join(since);
        yield* this.#stream();
      } catch (error) {
        if (!(error instanceof Reset)) throw error;
        since = null;
        this.#badges = new Badges(this.#feed.reader);
        this.#position = history > 0 ? null : from ?? error.version;
        yield { type: "reset" };
      }
    }
  }

  /** The current version, and the wanted part of the history up to it. */
  async *#join(since) {
    const { signal } = this.#end;
    const { kind, state } = this.#options;
    let left = this.#options.history;
    yield this.#status("connecting");
    if (since && !(yield* this.#trying(() => this.#canContinue(since)))) {
      since = null;
      yield { type: "reset" };
    }
    const { version, states } = yield* this.#trying(() => this.#feed.states({ signal, patience: 0 }));
    yield { type: "start", version, since };
    yield* this.#given(states.map((state) => this.#badges.state(state)));
    for (let before; left > 0 && before !== null; ) {
      const query = { until: version, before, kind, state, limit: Math.min(left, PAGE_MAX), signal, patience: 0 };
      const page = yield* this.#trying(() => this.#feed.page(query));
      yield { type: "history", ...page };
      left -= page.entries.length;
      before = page.next;
    }
    this.#position = version;
    await this.#save();
  }

  /** Whether a stored position is of this store, which may have been restored or replaced since. */
  async #canContinue(since) {
    try {
      await this.#feed.page({ after: since, limit: 1, signal: this.#end.signal, patience: 0 });
      return true;
    } catch (error) {
      if (unusable(error)) return false;
      throw error;
    }
  }

  /** One live stream, from the request to its end and the pause after it. */
  async *#stream() {
    const { controller, unlink } = linked(this.#end.signal);
    const { silence } = this.#options;
    this.#break = () => controller.abort(new Error("the stream was given up"));
    const watchdog = setInterval(() => this.#silentFor(silence) && this.#break(), silence / 8);
    let broken;
    try {
      yield this.#status("connecting");
      this.#connections += 1;
      this.#caughtUp = 0;
      const waits = (waiting) => (this.#waiting = waiting ? Date.now() : null);
      let live = false;
      for await (const { event, data, retry } of this.#events(controller.signal, waits)) {
        this.#known = true;
        if (retry !== null) this.#backoff.base = retry;
        if (data === "") continue;
        const value = JSON.parse(data);
        if (event === "bye") throw new NewsfeedError({ code: value.reason, detail: "the service ended the stream" });
        if (event === "reset") throw new Reset(value.version);
        this.#backoff.attempts = 0;
        yield* this.#received(event, value, live);
        if (event !== "version" || live) continue;
        live = true;
        yield this.#status("live");
      }
      broken = NewsfeedError.of(new Error("the stream ended"));
    } catch (error) {
      this.#end.signal.throwIfAborted();
      if (error instanceof Reset) throw error;
      broken = NewsfeedError.of(error);
      if (!this.#passes(broken)) throw broken;
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

  /** The events of a stream of this window's own, or of one that it shares with other windows. */
  async *#events(signal, waits) {
    const request = (after) => this.#feed.request(after, this.#options.kind);
    const connect = async (after, signal, waits) => {
      const { body, token } = await this.#http.open(request(after), signal, waits);
      return { events: events(body, waits), token };
    };
    if (this.#options.share && canShare()) {
      const service = { url: this.#http.url, request: request(null) };
      const position = () => this.#position;
      yield* new SharedStream({ service, connect, position, signal, waits }).events();
    } else {
      yield* (await connect(this.#position, signal, waits)).events;
    }
  }

  async *#received(event, value, live) {
    switch (event) {
      case "entry":
      case "notify": {
        if (value.version <= this.#position) return;
        this.#moved(value.version);
        if (!live) this.#caughtUp += 1;
        const { unread, unreads, ...entry } = value;
        if (event !== "notify") {
          yield { type: "entry", entry, notify: false, live };
          return this.#save();
        }
        const states = this.#tellsStates ? this.#badges.statesOf(entry) : {};
        yield { type: "entry", entry: { ...entry, ...states }, notify: this.#badges.counts(entry), live };
        const feeds = entry.feeds ?? [entry.feed];
        const counts = unreads ?? [unread];
        yield* this.#given(feeds.map((feed, at) => this.#badges.notification(feed, entry, counts[at])));
        return this.#save();
      }
      case "event":
        if (value.version <= this.#position) return;
        this.#moved(value.version);
        if (!live) this.#caughtUp += 1;
        yield { type: "event", event: value, live };
        return this.#save();
      case "edited":
      case "erased": {
        if (placeOf(value) <= this.#position) return;
        this.#moved(placeOf(value));
        const { change, ...changed } = value;
        yield { type: change, [this.#feed.item]: changed, live };
        const feeds = change === "erased" && value.feed ? value.feeds ?? [value.feed] : [];
        yield* this.#given(feeds.map((feed) => this.#badges.erasure(feed, value)));
        return this.#save();
      }
      case "version":
        if (value.version < this.#position) return;
        this.#moved(value.version);
        yield { type: "version", version: value.version };
        return this.#save();
      case "marker":
        // Only that of our own reader has the count.
        if (value.unread) return yield* this.#given([this.#badges.state(value)]);
        return yield { type: "marker", ...value };
      case "marked":
        return yield { type: "marked", ...value };
      case "state":
        return yield* this.#given([this.#badges.listed(value)]);
      case "transient":
        yield { type: "transient", signal: value };
    }
  }

  #moved(position) {
    this.#position = position;
    this.#feed.tells(position);
  }

  async *#given(updates) {
    for (const update of updates) if (update) yield update;
  }

  /** Called when the loop asks for more, which means that it has handled everything up to the position. */
  async #save() {
    const { cursor, storage } = this.#options;
    if (!cursor || this.#saved === this.#position) return;
    await storage.setItem(cursor, this.#position);
    this.#saved = this.#position;
  }

  /** Retries `request` until it succeeds or fails for good. */
  async *#trying(request) {
    for (;;) {
      try {
        const answer = await request();
        this.#backoff.attempts = 0;
        return answer;
      } catch (error) {
        this.#end.signal.throwIfAborted();
        if (!this.#passes(error)) throw error;
        yield* this.#pause(error);
        if (gone(error)) throw new Reset(null);
      }
    }
  }

  #passes(error) {
    return error.temporary || gone(error) || (this.#known && foreign(error));
  }

  async *#pause(error) {
    const delay = this.#backoff.next(error);
    yield this.#status("waiting", { error, delay });
    const { controller, unlink } = linked(this.#end.signal);
    const woken = new Promise((resolve) => (this.#hurry = resolve));
    await Promise.race([sleep(delay, controller.signal), woken]).finally(() => {
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

/**
 * Calls `wake` when a page becomes visible again or the network is back, and `leave` when the page goes away, maybe into
 * the back-forward cache, where it cannot keep a connection or a lock. The result stops that.
 */
function listen({ wake, leave }) {
  const page = globalThis.document;
  if (!page || !globalThis.addEventListener) return () => {};
  const seen = () => page.visibilityState === "visible" && wake();
  globalThis.addEventListener("online", wake);
  globalThis.addEventListener("pageshow", seen);
  globalThis.addEventListener("pagehide", leave);
  page.addEventListener("visibilitychange", seen);
  return () => {
    globalThis.removeEventListener("online", wake);
    globalThis.removeEventListener("pageshow", seen);
    globalThis.removeEventListener("pagehide", leave);
    page.removeEventListener("visibilitychange", seen);
  };
}
