/** How far the other members of a chat have read it: who has seen a message last, told below it. */

import { $, h } from "./dom.js";
import { shown } from "./words.js";

/** Members whose markers are loaded when a chat is opened. Others are known once they move. */
const READERS_MAX = 1_000;
/** Maximum number of members named below a message. */
const NAMED_MAX = 3;

export class Seen {
  /** How far each of the others has read. */
  #read = new Map();
  #due = 0;
  #me;
  #messages;

  /** `me` is the reader who looks; `messages()` are the messages, newest first. */
  constructor(me, messages) {
    this.#me = me;
    this.#messages = messages;
  }

  /** Loads the markers of a feed. */
  async load(feed) {
    let left = READERS_MAX;
    try {
      for await (const { reader, markers } of feed.readers({ limit: READERS_MAX })) {
        this.marker({ reader, markers });
        if ((left -= 1) === 0) return;
      }
    } catch (error) {
      // The chat is shown without them.
      console.info("no markers of others:", error);
    }
  }

  marker({ reader, markers: { read } }) {
    if (reader === this.#me || !reader.startsWith("user:") || !read || read <= (this.#read.get(reader) ?? "")) return;
    this.#read.set(reader, read);
    this.draw();
  }

  /** Draws it anew with the next frame. */
  draw() {
    this.#due ||= requestAnimationFrame(() => this.#draw());
  }

  end() {
    cancelAnimationFrame(this.#due);
    this.#read.clear();
  }

  #draw() {
    this.#due = 0;
    const below = new Map();
    for (const [reader, read] of this.#read) {
      // That people have seen what they wrote goes without saying.
      const last = this.#messages().find(({ version, actor }) => version && version <= read && actor !== reader);
      if (last) below.set(last.version, [...(below.get(last.version) ?? []), shown(reader.slice("user:".length))]);
    }
    for (const line of $("messages").querySelectorAll(".seen")) {
      const version = line.previousElementSibling?.dataset.version;
      if (!below.has(version)) line.remove();
    }
    for (const bubble of $("messages").querySelectorAll(".bubble")) this.#tell(bubble, below.get(bubble.dataset.version)?.sort());
  }

  #tell(bubble, names) {
    const there = bubble.nextElementSibling?.classList.contains("seen") ? bubble.nextElementSibling : null;
    if (!names) return there?.remove();
    const more = names.length - NAMED_MAX;
    const text = `Seen by ${names.slice(0, NAMED_MAX).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
    if (there?.textContent === text) return;
    const mine = bubble.classList.contains("mine");
    // It is not announced, because it moves with every message.
    const line = h("li", { class: `seen ${mine ? "of-mine" : ""}`, "aria-live": "off", title: names.join(", ") }, text);
    if (there) there.replaceWith(line);
    else bubble.after(line);
  }
}
