/** Unread counts that do not drift. No public part of the library. */

/** The service counts no further either. */
const UNREAD_MAX = 10_000;

/**
 * The state of each feed: what the service last told of it, and on top the notifications that came since, which are those
 * of a greater version. So all clients of a feed show the same, whatever order they heard it in.
 */
export class Badges {
  #feeds = new Map();

  #of(feed) {
    if (!this.#feeds.has(feed)) this.#feeds.set(feed, { state: null, later: [] });
    return this.#feeds.get(feed);
  }

  /** Takes a head or a `marker` event. */
  told(state) {
    const badge = this.#of(state.feed);
    if (badge.state && state.version < badge.state.version) return null;
    badge.state = state;
    badge.later = badge.later.filter(({ version }) => version > state.version);
    return this.#update(state.feed, badge);
  }

  /** Counts a notification; null while the feed's state is not known. */
  notified(feed, { version, kind }) {
    const badge = this.#of(feed);
    const counted = badge.state && version <= badge.state.version;
    if (!counted && badge.later.length < UNREAD_MAX) badge.later.push({ version, kind });
    return this.#update(feed, badge);
  }

  #update(feed, { state, later }) {
    if (!state) return null;
    const kinds = { ...state.unread.kinds };
    for (const { kind } of later) kinds[kind] = (kinds[kind] ?? 0) + 1;
    const total = state.unread.total + later.length;
    const more = state.unread.more || total > UNREAD_MAX;
    return { type: "unread", feed, unread: { total: Math.min(total, UNREAD_MAX), kinds, more }, markers: state.markers };
  }
}
