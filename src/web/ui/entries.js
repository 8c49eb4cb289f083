/** The list of entries: newest first, with older pages down to the first entry. */

import { EntryList } from "../newsfeed.js";
import { $, announce, avatar, editedMark, h, icon } from "./dom.js";
import { ago, count, editedOf, nameOf, shown, timesOf, whenOf, wordsOf } from "./words.js";

/** Entries per page of the history. */
export const PAGE = 30;
/** Entries kept while the top is shown. Older ones are removed, and loaded again on scrolling. */
const HELD_MAX = 600;
/** Scrolled no further than this, the newest entry is on screen, in px. */
const TOP = 60;

export class Entries {
  #list = $("entries");
  #held = new EntryList();
  /** What is shown of each entry, by its id. */
  #items = new Map();
  #loading = false;
  #fresh = 0;
  #since = null;
  #read = null;
  /** Cached, because reading `scrollY` forces a layout of the page. */
  #onTop = true;
  #notifies = new Set(["message"]);

  /** `load(before)` returns the page of older entries; `reply(name)` opens a chat. */
  constructor({ load, reply }) {
    this.load = load;
    this.reply = reply;
    $("older").addEventListener("click", () => this.older());
    $("fresh").addEventListener("click", () => {
      scrollTo({ top: 0, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
      this.#list.querySelector("article")?.focus({ preventScroll: true });
    });
    const nearEnd = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.older(), { rootMargin: "400px" });
    nearEnd.observe($("older"));
    const scrolled = () => {
      this.#onTop = scrollY < TOP;
      if (this.#onTop) this.#tellFresh(0);
    };
    addEventListener("scroll", scrolled, { passive: true });
    setInterval(() => this.#items.forEach(({ time, entry }) => (time.textContent = ago(whenOf(entry)))), 20_000);
  }

  /** Newest first. */
  get entries() {
    return this.#held.entries;
  }

  /** Whether the newest entry is within the part of the list that is shown. */
  get onTop() {
    return this.#onTop;
  }

  clear() {
    this.#held = new EntryList();
    this.#items.clear();
    this.#list.replaceChildren();
    this.#since = null;
    this.#read = null;
    this.#tellFresh(0);
    for (const id of ["empty", "older", "first"]) $(id).hidden = true;
  }

  since(version) {
    this.#since = version;
  }

  history(page) {
    this.#held.apply(page);
    this.#append();
  }

  /** Adds a new entry at the top. */
  add(entry, live) {
    if (!this.#held.apply({ type: "entry", entry })) return;
    const { element } = this.#item(entry);
    if (live) element.classList.add("slides");
    this.#list.prepend(element);
    const { verb, text } = wordsOf(entry);
    announce(`${shown(nameOf(entry))} ${verb}${text ? `: ${text}` : ""}`);
    $("empty").hidden = true;
    if (this.#onTop) this.#trim();
    else this.#tellFresh(this.#fresh + 1);
  }

  /** Shows an entry as it is after an edit, or not at all after an erasure. */
  changed({ type, entry }) {
    const fresh = this.entries.slice(0, this.#fresh).some(({ id }) => id === entry.id);
    const { element } = this.#items.get(entry.id) ?? {};
    if (!this.#held.apply({ type, entry }) || !element) return;
    if (type === "edited") return element.replaceWith(this.#item(entry).element);
    element.remove();
    this.#items.delete(entry.id);
    if (fresh) this.#tellFresh(this.#fresh - 1);
    this.#behind();
  }

  /** Applies the `read` marker and the kinds that count as unread. */
  marked(markers, unread) {
    const kinds = Object.keys(unread.kinds).filter((kind) => !this.#notifies.has(kind));
    if (kinds.length === 0 && markers.read === this.#read) return;
    this.#read = markers.read;
    for (const kind of kinds) this.#notifies.add(kind);
    for (const item of this.#items.values()) this.#mark(item);
  }

  async older() {
    if (this.#loading || !this.#held.next) return;
    this.#loading = true;
    const button = $("older");
    button.textContent = "Loading …";
    try {
      await this.#held.older(this.load);
      this.#append();
      button.textContent = "Load older entries";
    } catch (error) {
      button.textContent = `Could not load older entries: ${error.detail ?? error.message}. Try again`;
    } finally {
      this.#loading = false;
    }
  }

  /** Shows the entries that were added at the end. */
  #append() {
    for (const entry of this.entries.filter(({ id }) => !this.#items.has(id))) {
      if (this.#since && entry.version <= this.#since) this.#divide();
      this.#list.append(this.#item(entry).element);
    }
    this.#behind();
  }

  #behind() {
    const { next } = this.#held;
    $("older").hidden = !next;
    $("first").hidden = next !== null || this.#items.size === 0;
    $("empty").hidden = next !== null || this.#items.size > 0;
  }

  #tellFresh(fresh) {
    this.#fresh = fresh;
    $("fresh").hidden = fresh === 0;
    $("fresh").textContent = `↑ ${count(fresh, "new entry", "new entries")}`;
  }

  #trim() {
    if (this.#items.size <= HELD_MAX + PAGE) return;
    for (const { id } of this.entries.slice(HELD_MAX)) {
      this.#items.get(id)?.element.remove();
      this.#items.delete(id);
    }
    this.#held.trim(HELD_MAX);
    this.#behind();
  }

  /** Inserts a divider above the entries of the last visit, if there are new ones. */
  #divide() {
    this.#since = null;
    if (this.#items.size === 0) return;
    this.#list.append(h("li", { class: "divider" }, h("span", {}, `${count(this.#items.size, "entry", "entries")} new since your last visit`)));
  }

  #mark({ element, entry, dot }) {
    const unread = this.#notifies.has(entry.kind) && !(this.#read && entry.version <= this.#read);
    element.classList.toggle("unread", unread);
    dot.textContent = unread ? "Unread: " : "";
  }

  #item(entry) {
    const name = nameOf(entry);
    const { verb, text, mark } = wordsOf(entry);
    const time = h("time", { datetime: whenOf(entry), title: timesOf(entry) }, ago(whenOf(entry)));
    const dot = h("span", { class: "hidden" });
    const mine = entry.actor?.startsWith("user:");
    const element = h(
      "li",
      { class: `entry ${mark}` },
      h(
        "article",
        { tabindex: "-1" },
        h("span", { class: "face" }, avatar(name), h("span", { class: "kind" }, icon(mark))),
        h(
          "div",
          { class: "body" },
          h("p", { class: "who" }, dot, h("strong", {}, shown(name)), h("span", { class: "verb" }, ` ${verb}`), editedMark(editedOf(entry)), time),
          text === null ? null : h("p", { class: "text" }, text),
        ),
        mark === "message" && mine ? h("button", { class: "reply", onclick: () => this.reply(name), "aria-label": `Reply to ${shown(name)}` }, "Reply") : null,
      ),
    );
    const item = { entry, element, time, dot };
    this.#items.set(entry.id, item);
    this.#mark(item);
    return item;
  }
}
