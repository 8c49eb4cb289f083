/**
 * Marks what is on screen as read: in the open chat, and in the person's newsfeed.
 *
 * The newsfeed has one `read` marker for the entries of all people. It moves over entries of chats that have been on screen
 * in this window, and stops before the first unread entry that was not, so that nothing is marked that nobody saw. An entry
 * that somebody has marked as unread stays unread: a marker would pass it, so the others are then marked one by one.
 */

import { nameOf } from "./words.js";

/** Interval between two tries, in ms. What is read in between is marked at once. */
const PAUSE = 1_000;
/** Entries looked at in one try. */
const PAGE = 200;

class Marker {
  #timer = 0;
  #busy = false;
  #again = false;
  #ended = false;
  #tried = 0;
  /** The last state of the feed: unread count and markers. */
  state = null;
  /** What was on screen, and the marker, at the last try. */
  #last = "";

  /**
   * `onScreen()` is what can be seen, with the `version` up to which it can be; null if nothing can. `marked()` are the
   * versions at which entries that are unread were marked so.
   */
  constructor(onScreen, marked) {
    this.onScreen = onScreen;
    this.marked = marked;
  }

  /** Takes the unread count and the markers of the feed. */
  told(state) {
    this.state = state;
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
    const shown = this.onScreen();
    if (!shown || !this.state?.unread.total) return;
    const { read } = this.state.markers;
    this.sees(shown);
    const now = `${shown.feed} ${shown.version} ${read}`;
    if ((read && shown.version <= read) || now === this.#last) return;
    this.#busy = true;
    this.#tried = Date.now();
    try {
      const { feed, upTo, entries } = await this.readable(shown, read ?? "0");
      const passes = this.marked().some((marked) => marked <= upTo);
      if (passes) for (const entry of entries) await feed.setState(entry, { read: true }, { patience: 0 });
      else if (upTo && upTo > (this.state.markers.read ?? "")) await feed.markRead(upTo, { patience: 0 });
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

  sees() {}
}

/** Marks the open chat. */
export class ChatReading extends Marker {
  #feed;
  #unread;

  /** `unread()` are the unread entries of the chat that were not marked so. */
  constructor(feed, { onScreen, marked, unread }) {
    super(onScreen, marked);
    this.#feed = feed;
    this.#unread = unread;
  }

  readable({ version }) {
    return { feed: this.#feed, upTo: version, entries: this.#unread().filter((entry) => entry.version <= version) };
  }
}

/** Marks the newsfeed. */
export class Reading extends Marker {
  #feed;
  /** For each person: the version up to which their chat was on screen. */
  #seen = new Map();

  /** `feed()` is the newsfeed. */
  constructor(feed, { onScreen, marked }) {
    super(onScreen, marked);
    this.#feed = feed;
  }

  sees({ partner, version }) {
    if (version > (this.#seen.get(partner) ?? "")) this.#seen.set(partner, version);
  }

  /** The version up to which everything after `read` and up to `version` was on screen, and what is unread of it. */
  async readable({ version }, read) {
    const feed = this.#feed();
    const { entries, next } = await feed.page({ after: read, until: version, state: "any", limit: PAGE, patience: 0 });
    const seen = [];
    let upTo = null;
    for (const entry of entries) {
      const unread = entry.state === "unread";
      const inChat = entry.kind === "message" && entry.actor?.startsWith("user:");
      if (unread && !(inChat && this.#seen.get(nameOf(entry)) >= entry.version)) return { feed, upTo, entries: seen };
      upTo = entry.version;
      if (unread && !entry.marked) seen.push(entry);
    }
    // Up to `next`, which may be that of a change, there was nothing else.
    return { feed, upTo: next ?? version, entries: seen };
  }
}
