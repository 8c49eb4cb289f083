/** Unread counts that do not drift. Not part of the library's public interface. */

import { naming } from "./http.js";

/** The service stops counting here, too. */
const UNREAD_MAX = 10_000;

/**
 * The unread count of each feed for one reader: the last state from the service, plus the notifications of later versions.
 * All clients of a feed and reader thus show the same count, whatever order they received states and notifications in. A
 * service that tells the count with each notification is believed.
 */
export class Badges {
  #reader;
  #feeds = new Map();

  /** `reader` is null for the feed's own reader. */
  constructor(reader) {
    this.#reader = reader;
  }

  #of(feed) {
    if (!this.#feeds.has(feed)) this.#feeds.set(feed, { state: null, later: [] });
    return this.#feeds.get(feed);
  }

  /** Whether a notification counts as unread: one's own never do. */
  counts({ actor }) {
    return this.#reader === null || actor !== this.#reader;
  }

  /** The states of a new notification, before anybody has marked it. */
  statesOf(entry) {
    const stateIn = (feed) => {
      const { read } = this.#of(feed).state?.markers ?? {};
      return this.counts(entry) && !(read && entry.version <= read) ? "unread" : "read";
    };
    return { state: stateIn(entry.feed), ...(entry.feeds && { states: entry.feeds.map(stateIn) }) };
  }

  /** Takes a state, from a request or a `marker` event. */
  state(state) {
    if (!this.#take(state)) return null;
    return this.#update(state.feed, this.#of(state.feed));
  }

  /** Takes a state from a stream of states. */
  listed(state) {
    return this.#take(state) ? { type: "state", ...state } : null;
  }

  #take(state) {
    const badge = this.#of(state.feed);
    if (badge.state && state.version < badge.state.version) return false;
    badge.state = state;
    badge.later = badge.later.filter(({ version }) => version > state.version);
    return true;
  }

  /**
   * Counts a notification. `unread` is the count that the service told with it, if it did. The result is null while the
   * feed's state is unknown.
   */
  notification(feed, entry, unread) {
    const badge = this.#of(feed);
    const { version, kind } = entry;
    if (badge.state && version <= badge.state.version) return this.#update(feed, badge);
    if (this.counts(entry) && badge.later.length < UNREAD_MAX) badge.later.push({ version, kind });
    return this.#update(feed, badge, unread);
  }

  /** Forgets a notification that was erased. One that the last state counts stays until the next state, which follows. */
  erasure(feed, { version }) {
    const badge = this.#of(feed);
    const left = badge.later.filter((one) => one.version !== version);
    if (left.length === badge.later.length) return null;
    badge.later = left;
    return this.#update(feed, badge);
  }

  #update(feed, { state, later }, told) {
    if (!state) return null;
    const { reader, markers } = state;
    const unread = told ?? sum(state.unread, later);
    return { type: "unread", feed, ...(reader !== undefined && { reader }), unread, markers };
  }
}

function sum(unread, later) {
  const kinds = { ...unread.kinds };
  for (const { kind } of later) kinds[kind] = (kinds[kind] ?? 0) + 1;
  const total = unread.total + later.length;
  return { total: Math.min(total, UNREAD_MAX), kinds, more: unread.more || total > UNREAD_MAX };
}

/** The stream of the states of many feeds. It has no position: it begins with all of them. */
export class StateStream {
  #names;

  constructor(names, reader) {
    this.#names = [...new Set(names)];
    this.reader = reader;
  }

  request() {
    return naming("state/live", this.#names, { reader: this.reader });
  }

  tells() {}
}
