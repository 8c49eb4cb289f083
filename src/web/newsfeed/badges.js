/** Unread counts that do not drift. Not part of the library's public interface. */

/** The service stops counting here, too. */
const UNREAD_MAX = 10_000;

/**
 * The unread count of each feed: the last state from the service, plus the notifications of later versions. All clients of
 * a feed thus show the same count, whatever order they received states and notifications in.
 */
export class Badges {
  #feeds = new Map();

  #of(feed) {
    if (!this.#feeds.has(feed)) this.#feeds.set(feed, { state: null, later: [] });
    return this.#feeds.get(feed);
  }

  /** Takes a state, from a request or a `marker` event. */
  state(state) {
    const badge = this.#of(state.feed);
    if (badge.state && state.version < badge.state.version) return null;
    badge.state = state;
    badge.later = badge.later.filter(({ version }) => version > state.version);
    return this.#update(state.feed, badge);
  }

  /** Counts a notification. The result is null while the feed's state is unknown. */
  notification(feed, { version, kind }) {
    const badge = this.#of(feed);
    const counted = badge.state && version <= badge.state.version;
    if (!counted && badge.later.length < UNREAD_MAX) badge.later.push({ version, kind });
    return this.#update(feed, badge);
  }

  /** Forgets a notification that was erased. One that the last state counts stays until the next state, which follows. */
  erasure(feed, { version }) {
    const badge = this.#of(feed);
    const left = badge.later.filter((one) => one.version !== version);
    if (left.length === badge.later.length) return null;
    badge.later = left;
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
