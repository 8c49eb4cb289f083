/**
 * The client library of newsfeed: an ES module without dependencies, for browsers and Node.js (20 or newer).
 * newsfeed.d.ts has the types and documents each part.
 *
 *     import { Newsfeed } from "./newsfeed.js";
 *     const feed = new Newsfeed({ url: "http://127.0.0.1:8080" }).feed("user:42");
 *     for await (const update of feed.follow()) console.log(update);
 */

import { newsOf } from "./newsfeed/changes.js";
import { Follow } from "./newsfeed/follow.js";
import { Http, NewsfeedError, PATIENCE, idPrefix, onlyActor, sleep, textOf, versionAt } from "./newsfeed/http.js";
import { EntryList } from "./newsfeed/list.js";
import { CODES } from "./newsfeed/temporary.js";

export { EntryList, NewsfeedError, newsOf };

/** The path under which the service is published. The service replaces it when it serves this file. */
const BASE_PATH = "";
/** Pause before events of an array that were rejected for now are sent again, in ms. */
const PAUSE = 1_000;
/** Pause before the service is asked again how far an erasure is, in ms. */
const ERASURE_PAUSE = 500;
/** Feeds whose names make the URL longer than this are named in a body. */
const URL_CHARS_MAX = 4_000;
/** Maximum number of feeds whose states are asked for at once. */
const STATES_MAX = 1_000;
/** Maximum number of events of a page. */
const PAGE_MAX = 200;
/** Maximum length of an id, in bytes of UTF-8. */
const ID_BYTES_MAX = 255;

export class Newsfeed {
  #http;
  #storage;
  #share;

  constructor({ url, token, storage, fetch, share = true, random = Math.random } = {}) {
    this.#http = new Http({
      url: url ?? (globalThis.location ? location.origin + BASE_PATH : "http://127.0.0.1:8080"),
      token,
      fetch: fetch ?? ((...request) => globalThis.fetch(...request)),
      random,
    });
    this.#storage = storage ?? defaultStorage();
    // A `fetch` of the caller's own may send credentials that are unknown here.
    this.#share = share && !fetch;
  }

  feed(name) {
    return new Feed(this, this.#http, this.#following, [name], false);
  }

  feeds(names) {
    return new Feed(this, this.#http, this.#following, [...names], true);
  }

  /** All events, or those that pass the filter. */
  log({ kind, actor, feed, shard } = {}) {
    return new Log(this.#http, this.#storage, { kind, actor, feed, shard });
  }

  get #following() {
    return { storage: this.#storage, share: this.#share };
  }

  /** The event with this id; null if there is none, or if none of its feeds may be read. */
  async event(id, options) {
    try {
      return await this.#http.json(`/v1/events?id=${encoded(id)}`, options);
    } catch (error) {
      if (error.code === "event_not_found") return null;
      throw error;
    }
  }

  async append(events, { atomic = false, expect = [], signal, patience = PATIENCE } = {}) {
    const several = Array.isArray(events);
    const deadline = Date.now() + patience;
    const ids = new Map();
    const complete = (event, token) => {
      const whole = withActor(event, token);
      // Ids are chosen once, so that each event is stored once, however often the request is sent.
      if (!ids.has(event)) ids.set(event, event.id ?? newId(token, whole.actor));
      return { ...whole, id: ids.get(event) };
    };
    const body = (several ? events : [events]).map((event) => ({ ...event }));
    const path = atomic ? "/v1/events?atomic=true" : "/v1/events";
    const send = (body) => this.#http.json(path, { method: "POST", body, signal, patience });
    if (atomic) return send((token) => ({ events: body.map((event) => complete(event, token)), expect }));
    if (!several) return send((token) => complete(body[0], token));
    for (;;) {
      const results = await send((token) => body.map((event) => complete(event, token)));
      const again = results.some(({ error }) => CODES.includes(error?.code));
      if (!again || Date.now() + PAUSE >= deadline) return results;
      await sleep(PAUSE, signal);
    }
  }

  /** Each try has the same change id, so that the event is edited once. */
  async edit(id, data, { change = uuid(), revision, ...options } = {}) {
    return this.#http.json(path("events", [], { id }), { ...options, method: "PATCH", body: { data, change, revision } });
  }

  async erase(id, { revision, ...options } = {}) {
    return this.#http.json(path("events", [], { id, revision }), { ...options, method: "DELETE" });
  }

  async eraseAll(what, { progress = () => {}, ...options } = {}) {
    let erasure = await this.#http.json("/v1/erasures", { ...options, method: "POST", body: what });
    while (erasure.status === "running") {
      progress(erasure);
      await sleep(ERASURE_PAUSE, options.signal);
      erasure = await this.erasure(erasure.id, options);
    }
    return erasure;
  }

  async erasure(id, options) {
    return this.#http.json(`/v1/erasures/${encoded(id)}`, options);
  }

  versionAt(time, options) {
    return versionAt(this.#http, time, options);
  }

  /** Tried once, because a late signal is worthless. */
  transient(signal, { signal: abort } = {}) {
    return this.#http.json("/v1/transient", {
      method: "POST",
      body: (token) => withActor(signal, token),
      signal: abort,
      patience: 0,
    });
  }
}

class Feed {
  /** What updates call an event here. */
  item = "entry";
  #newsfeed;
  #http;
  #following;
  #merged;

  constructor(newsfeed, http, following, names, merged) {
    this.names = names;
    this.#newsfeed = newsfeed;
    this.#http = http;
    this.#following = following;
    this.#merged = merged;
  }

  async state(options) {
    const { version, states } = await this.states(options);
    return this.#merged ? { version, feeds: states } : states[0];
  }

  /** The state of each feed, and the version as of which all of them are known. */
  async states(options) {
    if (!this.#merged) {
      const state = await this.#http.json(path("state", this.names), options);
      return { version: state.version, states: [state] };
    }
    const names = [...new Set(this.names)];
    const answers = [];
    for (let at = 0; at === 0 || at < names.length; at += STATES_MAX) {
      answers.push(await this.#statesOf(names.slice(at, at + STATES_MAX), options));
    }
    // What follows the earliest version is news for some of the states; the others know that they are later.
    return { version: answers[0].version, states: answers.flatMap(({ feeds }) => feeds) };
  }

  #statesOf(names, options) {
    const url = path("feeds", names);
    // Proxies accept URLs of a few KiB.
    if (url.length <= URL_CHARS_MAX) return this.#http.json(url, options);
    return this.#http.json("/v1/feeds", { ...options, method: "POST", body: { feeds: names } });
  }

  page({ until, before, after, kept, kind, limit, signal, patience } = {}) {
    const query = { until, before, after, kept, kind, limit };
    return this.#http.json(path("entries", this.names, query), { signal, patience });
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
    return new Follow(this, this.#http, { ...this.#following, ...options, cursor });
  }

  markRead(version, options) {
    return this.#mark("read", version, options);
  }

  markSeen(version, options) {
    return this.#mark("seen", version, options);
  }

  async #mark(marker, version, options) {
    const body = { version };
    const request = (name) => this.#http.json(path(`markers/${marker}`, [name]), { ...options, method: "PUT", body });
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

  livePath(after, kind) {
    return path("live", this.names, { after, kind });
  }
}

class Log {
  item = "event";
  #http;
  #storage;
  #filter;

  constructor(http, storage, filter) {
    this.#http = http;
    this.#storage = storage;
    this.#filter = filter;
  }

  page({ until, before, after, kept, limit, signal, patience } = {}) {
    return this.#http.json(this.#path("log", { until, before, after, kept, limit }), { signal, patience });
  }

  /** Without `until`, up to the version that is current at the first page. */
  async *events({ after = "0", until, ...options } = {}) {
    // Whoever reads everything gets what is kept, also if more goes meanwhile.
    const kept = after === "0" || undefined;
    for (let next = after; next !== null; ) {
      const page = await this.page({ limit: PAGE_MAX, kept, ...options, after: next, until });
      until ??= page.version;
      yield* page.events;
      next = page.next;
    }
  }

  follow({ cursor, ...options } = {}) {
    const kept = cursor && `newsfeed.cursor.${cursor}`;
    return new Follow(this, this.#http, { storage: this.#storage, ...options, cursor: kept, history: 0, share: false });
  }

  /** The current version, for a follow that begins now. */
  async states(options) {
    const { version } = await this.#http.json(this.#path("log", { limit: 1 }), options);
    return { version, states: [] };
  }

  livePath(after) {
    return this.#path("log/live", { after });
  }

  #path(what, query) {
    return path(what, [], { ...this.#filter, ...query });
  }
}

/** An actor given with the event wins, also null. */
const withActor = (event, token) => {
  const actor = event.actor === undefined ? onlyActor(token) : undefined;
  return actor === undefined ? event : { ...event, actor };
};

/** Feeds are named in the query, because some proxies change `%2F` in paths. */
function path(what, names, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const each = ([name, value]) => [value].flat().map((one) => [name, textOf(one)]);
  const pairs = [...names.map((name) => ["feed", name]), ...given.flatMap(each)];
  return `/v1/${what}?${pairs.map(([name, value]) => `${name}=${encoded(value)}`).join("&")}`;
}

function encoded(value) {
  try {
    return encodeURIComponent(value);
  } catch (error) {
    throw new NewsfeedError({ status: 400, code: "invalid_query", detail: "a name has half of a surrogate pair" }, error);
  }
}

/** Without the prefix if it leaves no room. */
function newId(token, actor) {
  const id = uuid();
  const whole = idPrefix(token, actor) + id;
  return new TextEncoder().encode(whole).length > ID_BYTES_MAX ? id : whole;
}

/** `crypto.randomUUID` exists only with HTTPS and on localhost. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** `localStorage` in a browser, otherwise memory that ends with the process. */
function defaultStorage() {
  try {
    // Node has a `localStorage` without a file to keep it in. A browser throws if the user has blocked it.
    if (globalThis.document && globalThis.localStorage) return globalThis.localStorage;
  } catch {
    // Blocked.
  }
  const memory = new Map();
  return { getItem: (key) => memory.get(key) ?? null, setItem: (key, value) => void memory.set(key, value) };
}
