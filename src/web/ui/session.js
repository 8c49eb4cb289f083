/** Follows one person's newsfeed, with one live stream for everything in the window, because browsers limit connections. */

import { BASE } from "./dom.js";
import { PAGE } from "./entries.js";

export class Session {
  #newsfeed;
  #view;
  #feeds;
  #follow = null;
  #ended = false;
  #changed = false;
  /** Whether the current follower has begun with a history, which it then also loads again by itself. */
  #withHistory = false;

  /** The version up to which everything has been shown. */
  position = null;

  constructor(newsfeed, feed, view) {
    this.#newsfeed = newsfeed;
    this.#view = view;
    this.feed = feed;
    this.#feeds = [feed];
  }

  /** Follows another feed, or none, besides the person's own, from the current position, so that no entry is missed. */
  with(feed) {
    this.#feeds = feed ? [this.feed, feed] : [this.feed];
    this.restart();
  }

  restart(newsfeed = this.#newsfeed) {
    this.#newsfeed = newsfeed;
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
    do {
      this.#changed = false;
      this.#withHistory = this.position === null;
      const where = this.#withHistory ? { history: PAGE } : { after: this.position, history: 0 };
      try {
        this.#follow = this.#newsfeed.feeds(this.#feeds).follow({ ...where, cursor: `page.${BASE}${this.feed}` });
        for await (const update of this.#follow) {
          if (this.#ended) return;
          this.#show(update);
        }
      } catch (error) {
        if (!this.#ended) this.#view.failed(error);
        return;
      }
    } while (this.#changed && !this.#ended);
  }

  #show(update) {
    if (update.type === "version" || update.type === "start") this.position = update.version;
    if (update.type === "entry") this.position = update.entry.version;
    if (update.type === "edited" || update.type === "erased") this.position = update.entry[update.type];
    if (update.type === "reset") this.position = null;
    this.#view[update.type](update);
    if (update.type === "reset" && !this.#withHistory) this.restart();
  }
}
