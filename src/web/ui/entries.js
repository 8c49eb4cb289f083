/** The list of entries: newest first, with older pages down to the first entry. */

import { $, announce, avatar, h, icon } from "./dom.js";
import { ago, count, nameOf, shown, timesOf, whenOf, wordsOf } from "./words.js";

/** Entries per page of the history. */
export const PAGE = 30;
/** Entries kept while the top is shown. Older ones are removed, and loaded again on scrolling. */
const HELD_MAX = 600;
/** Scrolled no further than this, the newest entry is on screen, in px. */
const TOP = 60;

export class Entries {
  #list = $("entries");
  #items = [];
  #next = null;
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

  /** Whether the newest entry is within the part of the list that is shown. */
  get onTop() {
    return this.#onTop;
  }

  clear() {
    this.#items = [];
    this.#list.replaceChildren();
    this.#next = null;
    this.#since = null;
    this.#read = null;
    this.#tellFresh(0);
    for (const id of ["empty", "older", "first"]) $(id).hidden = true;
  }

  since(version) {
    this.#since = version;
  }

  history({ entries, next }) {
    for (const entry of entries) {
      const item = this.#item(entry);
      if (this.#since && entry.version <= this.#since) this.#divide();
      this.#items.push(item);
      this.#list.append(item.element);
    }
    this.#behind(next);
  }

  /** Adds a new entry at the top. */
  add(entry, live) {
    const item = this.#item(entry);
    if (live) item.element.classList.add("slides");
    this.#items.unshift(item);
    this.#list.prepend(item.element);
    const { verb, text } = wordsOf(entry);
    announce(`${shown(nameOf(entry))} ${verb}${text ? `: ${text}` : ""}`);
    $("empty").hidden = true;
    if (this.#onTop) this.#trim();
    else this.#tellFresh(this.#fresh + 1);
  }

  /** Applies the `read` marker and the kinds that count as unread. */
  marked(markers, unread) {
    const kinds = Object.keys(unread.kinds).filter((kind) => !this.#notifies.has(kind));
    if (kinds.length === 0 && markers.read === this.#read) return;
    this.#read = markers.read;
    for (const kind of kinds) this.#notifies.add(kind);
    for (const item of this.#items) this.#mark(item);
  }

  async older() {
    if (this.#loading || this.#next === null) return;
    this.#loading = true;
    const button = $("older");
    button.textContent = "Loading …";
    try {
      const before = this.#next;
      const page = await this.load(before);
      // Unless the list was cleared meanwhile.
      if (this.#next === before) this.history(page);
      button.textContent = "Load older entries";
    } catch (error) {
      button.textContent = `Could not load older entries: ${error.detail ?? error.message}. Try again`;
    } finally {
      this.#loading = false;
    }
  }

  #behind(next) {
    this.#next = next;
    $("older").hidden = next === null;
    $("first").hidden = next !== null || this.#items.length === 0;
    $("empty").hidden = next !== null || this.#items.length > 0;
  }

  #tellFresh(fresh) {
    this.#fresh = fresh;
    $("fresh").hidden = fresh === 0;
    $("fresh").textContent = `↑ ${count(fresh, "new entry", "new entries")}`;
  }

  #trim() {
    if (this.#items.length <= HELD_MAX + PAGE) return;
    for (const { element } of this.#items.splice(HELD_MAX)) element.remove();
    this.#behind(this.#items.at(-1).entry.version);
  }

  /** Inserts a divider above the entries of the last visit, if there are new ones. */
  #divide() {
    this.#since = null;
    if (this.#items.length === 0) return;
    this.#list.append(h("li", { class: "divider" }, h("span", {}, `${count(this.#items.length, "entry", "entries")} new since your last visit`)));
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
          h("p", { class: "who" }, dot, h("strong", {}, shown(name)), h("span", { class: "verb" }, ` ${verb}`), time),
          text === null ? null : h("p", { class: "text" }, text),
        ),
        mark === "message" && mine ? h("button", { class: "reply", onclick: () => this.reply(name), "aria-label": `Reply to ${shown(name)}` }, "Reply") : null,
      ),
    );
    const item = { entry, element, time, dot };
    this.#mark(item);
    return item;
  }
}
