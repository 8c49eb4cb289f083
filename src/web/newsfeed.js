/**
 * The client library of newsfeed: an ES module without dependencies, for browsers and Node.js (20 or newer).
 * newsfeed.d.ts has its types and says what each part does.
 *
 *     import { Newsfeed } from "./newsfeed.js";
 *     const feed = new Newsfeed({ url: "http://127.0.0.1:8080" }).feed("user:42");
 *     for await (const update of feed.follow()) console.log(update);
 */

import { Follow } from "./newsfeed/follow.js";
import { Http, NewsfeedError, PATIENCE, sleep } from "./newsfeed/http.js";

export { NewsfeedError };

/** Outcomes of single events of an array after which the same event may be sent again. */
const TEMPORARY = ["store_unavailable", "shutting_down", "internal"];
/** Between two tries of events whose outcome was one of these, in ms. */
const PAUSE = 1_000;

export class Newsfeed {
  #http;
  #storage;

  constructor({ url, token, storage, fetch, random = Math.random } = {}) {
    this.#http = new Http({
      url: url ?? globalThis.location?.origin ?? "http://127.0.0.1:8080",
      token,
      fetch: fetch ?? ((...request) => globalThis.fetch(...request)),
      random,
    });
    this.#storage = storage ?? defaultStorage();
  }

  feed(name) {
    return new Feed(this, this.#http, this.#storage, [name], false);
  }

  feeds(names) {
    return new Feed(this, this.#http, this.#storage, [...names], true);
  }

  async append(events, { signal, patience = PATIENCE } = {}) {
    const several = Array.isArray(events);
    const deadline = Date.now() + patience;
    // Made once: however often the request is sent, each event is stored once.
    const body = (several ? events : [events]).map((event) => ({ ...event, id: event.id ?? uuid() }));
    const send = (body) => this.#http.json("/v1/events", { method: "POST", body, signal, patience });
    if (!several) return send(body[0]);
    for (;;) {
      const results = await send(body);
      const again = results.some(({ error }) => TEMPORARY.includes(error?.code));
      if (!again || Date.now() + PAUSE >= deadline) return results;
      await sleep(PAUSE, signal);
    }
  }

  /** Tried once: a signal that comes late is worth nothing. */
  transient(signal, { signal: abort } = {}) {
    return this.#http.json("/v1/transient", { method: "POST", body: signal, signal: abort, patience: 0 });
  }
}

class Feed {
  #newsfeed;
  #http;
  #storage;
  #merged;

  constructor(newsfeed, http, storage, names, merged) {
    this.names = names;
    this.#newsfeed = newsfeed;
    this.#http = http;
    this.#storage = storage;
    this.#merged = merged;
  }

  async head(options) {
    const { version, heads } = await this.heads(options);
    return this.#merged ? { version, feeds: heads } : heads[0];
  }

  /** The lowest version is one that all of them have reached. */
  async heads(options) {
    const heads = await Promise.all(this.names.map((name) => this.#http.json(path(name), options)));
    return { version: heads.map(({ version }) => version).sort()[0], heads };
  }

  page({ until, before, after, kind, limit, signal, patience } = {}) {
    const query = { until, before, after, kind, limit };
    return this.#http.json(this.#path("entries", query), { signal, patience });
  }

  async *history(options = {}) {
    for (let before = options.before; before !== null; ) {
      const page = await this.page({ ...options, before });
      yield page;
      before = page.next;
    }
  }

  live(options = {}) {
    return this.follow({ ...options, history: 0 });
  }

  follow(options = {}) {
    const cursor = options.cursor && `newsfeed.cursor.${options.cursor}`;
    return new Follow(this, this.#http, { storage: this.#storage, ...options, cursor });
  }

  markRead(version, options) {
    return this.#mark("read", version, options);
  }

  markSeen(version, options) {
    return this.#mark("seen", version, options);
  }

  async #mark(marker, version, options) {
    const body = { version };
    const request = (name) => this.#http.json(path(name, `/markers/${marker}`), { ...options, method: "PUT", body });
    const states = await Promise.all(this.names.map(request));
    return this.#merged ? states : states[0];
  }

  append(events, options) {
    const named = (event) => ({ feeds: this.names, ...event });
    return this.#newsfeed.append(Array.isArray(events) ? events.map(named) : named(events), options);
  }

  transient(signal, options) {
    return this.#newsfeed.transient({ feeds: this.names, ...signal }, options);
  }

  livePath(after) {
    return this.#path("live", { after });
  }

  #path(what, query) {
    const params = new URLSearchParams(this.#merged ? this.names.map((name) => ["feed", name]) : []);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined && value !== null) params.append(name, value);
    }
    return `${this.#merged ? `/v1/${what}` : path(this.names[0], `/${what}`)}?${params}`;
  }
}

const path = (name, rest = "") => `/v1/feeds/${encodeURIComponent(name)}${rest}`;

/** `crypto.randomUUID` exists on https and localhost only. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** What a browser keeps of the site, or a memory that ends with the process. */
function defaultStorage() {
  try {
    // Node has one without a place to keep it; browsers refuse theirs when the user does.
    if (globalThis.document && globalThis.localStorage) return globalThis.localStorage;
  } catch {
    // Refused.
  }
  const memory = new Map();
  return { getItem: (key) => memory.get(key) ?? null, setItem: (key, value) => void memory.set(key, value) };
}
