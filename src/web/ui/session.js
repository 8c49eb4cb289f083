/** Follows one person's newsfeed and chats, with one live stream for everything in the window, because browsers limit connections. */

import { BASE } from "./dom.js";
import { PAGE } from "./entries.js";
import { mayRead } from "./token.js";

/** Maximum number of feeds of a stream. */
const FEEDS_MAX = 100;

export class Session {
  #newsfeed;
  #view;
  /** The feed of the open chat, if there is one, and those of the other chats. */
  #open = null;
  #chats = [];
  #follow = null;
  #ended = false;
  #changed = false;
  /** Whether the current follower has begun with a history, which it then also loads again by itself. */
  #withHistory = false;

  /** Whether the history is still to come. Until then, the feeds stay the same, so that it is not lost. */
  #joining = false;
  /** Whether the feeds have changed meanwhile. */
  #late = false;
  /** Whether the current stream goes on from another one at once, and has not been broken. */
  #goesOn = false;

  /** The version up to which everything has been shown. */
  position = null;

  constructor(newsfeed, feed, view) {
    this.#newsfeed = newsfeed;
    this.#view = view;
    this.feed = feed;
    this.#rights();
  }

  /** A person reads as themselves, if the token allows it, else as the feed's own reader, which has no state in chats. */
  #rights() {
    this.reader = mayRead(this.feed) ? this.feed : null;
    this.#mayReadChats = true;
  }

  /** Whether all chats may be followed, and not only the open one. */
  #mayReadChats;

  of(feed) {
    const { reader } = this;
    return reader === null ? this.#newsfeed.feed(feed) : this.#newsfeed.feed(feed).as(reader);
  }

  /** The person's own feed. */
  get own() {
    return this.of(this.feed);
  }

  get #feeds() {
    const open = this.#open ? [this.#open] : [];
    const others = this.#mayReadChats && this.reader !== null ? this.#chats : [];
    const chats = [...new Set([...open, ...others])].slice(0, FEEDS_MAX - 1);
    // In the same order whichever is open, so that windows share the stream.
    return [this.feed, ...chats.sort()];
  }

  /** Follows other chats from the current position on, so that no entry is missed: the open one, or null, and the rest. */
  with(open, chats) {
    const before = this.#feeds.join("\n");
    [this.#open, this.#chats] = [open, chats];
    if (this.#feeds.join("\n") === before) return;
    if (this.#joining) this.#late = true;
    else this.#restart();
  }

  restart(newsfeed) {
    this.#newsfeed = newsfeed;
    this.#rights();
    this.#restart();
  }

  #restart() {
    this.#changed = true;
    this.#follow?.close();
  }

  wake() {
    this.#follow?.wake();
  }

  end() {
    this.#ended = true;
    this.#follow?.close();
  }

  async run() {
    this.#goesOn = false;
    do {
      this.#changed = false;
      this.#withHistory = this.#joining = this.position === null;
      this.#late = false;
      const where = this.#withHistory ? { history: PAGE } : { after: this.position, history: 0 };
      try {
        const feeds = this.#newsfeed.feeds(this.#feeds);
        const view = this.reader === null ? feeds : feeds.as(this.reader);
        this.#follow = view.follow({ ...where, state: "any", cursor: `page.${BASE}${this.feed}` });
        for await (const update of this.#follow) {
          if (this.#ended) return;
          this.#show(update);
        }
      } catch (error) {
        if (this.#ended) return;
        if (!this.#renounces(error)) return this.#view.failed(error);
      }
      this.#goesOn = true;
    } while (this.#changed && !this.#ended);
  }

  /** Goes on with less, if that is what a token in a cookie, which cannot be read here, does not allow. */
  #renounces({ code }) {
    if (code === "reader_forbidden" && this.reader !== null) this.reader = null;
    else if (code === "feed_forbidden" && this.#mayReadChats && this.#chats.length > 0) this.#mayReadChats = false;
    else return false;
    this.#changed = true;
    return true;
  }

  #show(update) {
    if (update.type === "version" || update.type === "start") this.position = update.version;
    if (update.type === "entry") this.position = update.entry.version;
    if (update.type === "edited" || update.type === "erased") this.position = update.entry[update.type];
    if (update.type === "reset") this.position = null;
    if (update.type === "status" && update.state === "waiting") this.#goesOn = false;
    // What came between the two streams is not news of the past.
    const isLive = update.type === "entry" && this.#goesOn;
    this.#view[update.type](isLive ? { ...update, live: true } : update);
    if (update.type === "reset" && this.#withHistory) this.#joining = true;
    if (update.type === "history") this.#joining = false;
    if ((update.type === "reset" && !this.#withHistory) || (this.#late && !this.#joining)) this.#restart();
  }
}
