/**
 * The client library of newsfeed: an ES module without dependencies, for browsers and Node.js (20 or newer).
 * newsfeed.d.ts has the types and documents each part.
 *
 *     import { Newsfeed } from "./newsfeed.js";
 *     const feed = new Newsfeed({ url: "http://127.0.0.1:8080" }).feed("user:42");
 *     for await (const update of feed.follow()) console.log(update);
 */

import { StateStream } from "./newsfeed/badges.js";
import { newsOf } from "./newsfeed/changes.js";
import { Follow } from "./newsfeed/follow.js";
import { Http, NewsfeedError, PATIENCE, encoded, idPrefix, naming, onlyActor, path, sleep, versionAt } from "./newsfeed/http.js";
import { EntryList } from "./newsfeed/list.js";
import { CODES } from "./newsfeed/temporary.js";

export { EntryList, NewsfeedError, newsOf };

/** The path under which the service is published. The service replaces it when it serves this file. */
const BASE_PATH = "";
/** Pause before events of an array that were rejected for now are sent again, in ms. */
const PAUSE = 1_000;
/** Pause before the service is asked again how far an erasure is, in ms. */
const ERASURE_PAUSE = 500;
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
      return await this.#http.json(path("events", [], { id }), options);
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
  /** The version up to which states and updates of this object have told everything; null if there was none. */
  #known = null;

  constructor(newsfeed, http, following, names, merged, reader = null) {
    this.names = names;
    this.reader = reader;
    this.#newsfeed = newsfeed;
    this.#http = http;
    this.#following = following;
    this.#merged = merged;
  }

  as(reader) {
    return new Feed(this.#newsfeed, this.#http, this.#following, this.names, this.#merged, reader);
  }

  async state(options) {
    const { version, states } = await this.states(options);
    return this.#merged ? { version, feeds: states } : states[0];
  }

  /** The state of each feed, and the version as of which all of them are known. */
  async states(options) {
    const { version, states } = await this.#states(options);
    this.tells(version);
    return { version, states };
  }

  async #states(options) {
    if (!this.#merged) {
      const state = await this.#http.json(this.#path("state"), options);
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
    const { path, ...request } = naming("feeds", names, { reader: this.reader });
    return this.#http.json(path, { ...options, ...request });
  }

  /** Everything up to `version` has been told. */
  tells(version) {
    if (version > (this.#known ?? "")) this.#known = version;
  }

  page({ until, before, after, kept, kind, state, limit, signal, patience } = {}) {
    const query = { until, before, after, kept, kind, state, limit };
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
    return new Follow(this, this.#http, { ...this.#following, ...options, cursor });
  }

  badges({ signal, silence, share } = {}) {
    const states = new StateStream(this.names, this.reader);
    const options = { ...this.#following, signal, silence, ...(share !== undefined && { share }) };
    return new Follow(states, this.#http, { ...options, history: 0, from: "0" });
  }

  markRead(version, options) {
    return this.#mark("read", version, options);
  }

  markSeen(version, options) {
    return this.#mark("seen", version, options);
  }

  archiveRead(version, options) {
    return this.#mark("archived", version, options);
  }

  async markAllRead(options) {
    return this.markRead(await this.#told(options), options);
  }

  async archiveAllRead(options) {
    return this.archiveRead(await this.#told(options), options);
  }

  /** What came after this, the caller has not been told of. */
  async #told(options) {
    return this.#known ?? (await this.states(options)).version;
  }

  async #mark(marker, version, options) {
    return this.#inEach(this.names, (feed) => path(`markers/${marker}`, [feed], { reader: this.reader }), { version }, options);
  }

  async #inEach(feeds, pathOf, body, options) {
    const states = await Promise.all(feeds.map((feed) => this.#http.json(pathOf(feed), { ...options, method: "PUT", body })));
    return this.#merged ? states : states[0];
  }

  /** `entry` is an entry or its version. */
  async setState(entry, { read, archived }, options) {
    const what = `entries/${encoded(entry.version ?? entry)}/state`;
    const feeds = this.#merged ? entry.feeds ?? [entry.feed] : this.names;
    return this.#inEach(feeds, (feed) => path(what, [feed], { reader: this.reader }), { read, archived }, options);
  }

  markUnread(entry, options) {
    return this.setState(entry, { read: false }, options);
  }

  archive(entry, options) {
    return this.setState(entry, { archived: true }, options);
  }

  unarchive(entry, options) {
    return this.setState(entry, { archived: false }, options);
  }

  async *readers({ limit, ...options } = {}) {
    for (const feed of this.names) {
      for (let from; from !== null; ) {
        const { readers, next } = await this.#http.json(path("readers", [feed], { limit, from }), options);
        yield* readers.map((reader) => ({ feed, ...reader }));
        from = next;
      }
    }
  }

  append(events, options) {
    const named = (event) => ({ feeds: this.names, ...event });
    return this.#newsfeed.append(Array.isArray(events) ? events.map(named) : named(events), options);
  }

  transient(signal, options) {
    return this.#newsfeed.transient({ feeds: this.names, ...signal }, options);
  }

  /** The request for a stream. */
  request(after, kind) {
    return { path: this.#path("live", { after, kind }) };
  }

  #path(what, query) {
    return path(what, this.names, { ...query, reader: this.reader });
  }
}

class Log {
  item = "event";
  reader = null;
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

  request(after) {
    return { path: this.#path("log/live", { after }) };
  }

  tells() {}

  #path(what, query) {
    return path(what, [], { ...this.#filter, ...query });
  }
}

/** An actor given with the event wins, also null. */
const withActor = (event, token) => {
  const actor = event.actor === undefined ? onlyActor(token) : undefined;
  return actor === undefined ? event : { ...event, actor };
};

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
