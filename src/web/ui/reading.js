/**
 * Marks the open chat as read, up to what is on screen.
 *
 * A person's newsfeed has one `read` marker for the entries of all people. It moves over entries of chats that have been on
 * screen in this window, and stops before the first unread entry that was not, so that nothing is marked that nobody saw.
 */

import { nameOf } from "./words.js";

/** Interval between two tries, in ms. What is read in between is marked at once. */
const PAUSE = 1_000;
/** Entries looked at in one try. */
const PAGE = 200;

export class Reading {
  #feed;
  #onScreen;
  /** The last state of the feed: unread count and markers. */
  #state = null;
  /** For each person: the version up to which their chat was on screen. */
  #seen = new Map();
  #timer = 0;
  #busy = false;
  #again = false;
  #ended = false;
  #tried = 0;
  /** What was on screen, and the marker, at the last try. */
  #last = "";

  /** `onScreen()` is the open chat, as `{ partner, version }` up to which it is on screen, or null. */
  constructor(feed, onScreen) {
    this.#feed = feed;
    this.#onScreen = onScreen;
  }

  /** Takes the unread count and the markers of the feed. */
  state(state) {
    this.#state = state;
    this.look();
  }

  /** What is on screen may have changed. */
  look() {
    if (this.#ended) return;
    if (this.#busy) this.#again = true;
    else this.#timer ||= setTimeout(() => this.#mark(), Math.max(0, this.#tried + PAUSE - Date.now()));
  }

  end() {
    this.#ended = true;
    clearTimeout(this.#timer);
  }

  async #mark() {
    this.#timer = 0;
    const shown = this.#onScreen();
    if (!shown || !this.#state?.unread.total) return;
    const { partner, version } = shown;
    const { read } = this.#state.markers;
    if (version > (this.#seen.get(partner) ?? "")) this.#seen.set(partner, version);
    const now = `${partner} ${version} ${read}`;
    if ((read && version <= read) || now === this.#last) return;
    this.#busy = true;
    this.#tried = Date.now();
    try {
      const upTo = await this.#readable(read ?? "0", version);
      if (upTo && upTo > (this.#state.markers.read ?? "")) await this.#feed.markRead(upTo, { patience: 0 });
      this.#last = now;
    } catch (error) {
      // Without the right to mark, or to read pages, it stays as it is.
      this.#ended ||= !error.temporary;
    } finally {
      const again = this.#again;
      this.#busy = this.#again = false;
      if (again) this.look();
    }
  }

  /** The version up to which everything after `read` and up to `version` was on screen; null if nothing was. */
  async #readable(read, version) {
    const counts = this.#state.unread.kinds;
    const { entries, next } = await this.#feed.page({ after: read, until: version, limit: PAGE, patience: 0 });
    let upTo = null;
    for (const entry of entries) {
      const unread = Object.hasOwn(counts, entry.kind) && entry.actor !== this.#feed.names[0];
      const inChat = entry.kind === "message" && entry.actor?.startsWith("user:");
      if (unread && !(inChat && this.#seen.get(nameOf(entry)) >= entry.version)) return upTo;
      upTo = entry.version;
    }
    // Up to `next`, which may be that of a change, there was nothing else.
    return next ?? version;
  }
}
