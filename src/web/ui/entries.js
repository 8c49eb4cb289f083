/** The list of entries: newest first, with older pages down to the first entry; all of them, or those in one state. */

import { EntryList } from "../newsfeed.js";
import { $, announce, avatar, editedMark, h, icon } from "./dom.js";
import { marks } from "./marks.js";
import { ago, count, editedOf, nameOf, shown, timesOf, whenOf, wordsOf } from "./words.js";

/** Entries per page of the history. */
export const PAGE = 30;
/** Entries kept while the top is shown. Older ones are removed, and loaded again on scrolling. */
const HELD_MAX = 600;
/** What the list says if it is empty. */
const EMPTY = {
  any: "No entries yet. Open another window as somebody else and write to this person.",
  unread: "Nothing is unread.",
  archived: "Nothing is archived.",
};
/** Scrolled no further than this, the newest entry is on screen, in px. */
const TOP = 60;

export class Entries {
  #list = $("entries");
  #held = new EntryList();
  /** What is shown of each entry, by its id. */
  #items = new Map();
  #loading = false;
  /** The ids of entries that came while the list was scrolled down. */
  #fresh = new Set();
  /** Whether the entries in the state could not be loaded. */
  #failed = false;
  #since = null;
  /** The state of the entries that are shown; `any` for all. */
  #filter = "any";
  /** The marker of what is archived; undefined before it is known. */
  #archived;
  /** Cached, because reading `scrollY` forces a layout of the page. */
  #onTop = true;

  /**
   * `load(before, state)` returns the page of older entries in a state; `reply(entry)` opens the chat of an entry, and
   * `mark(entry, change)` changes its state. `isOwn(entry)` is whether the person did it.
   */
  constructor({ load, reply, mark, isOwn }) {
    this.load = load;
    this.reply = reply;
    this.mark = mark;
    this.isOwn = isOwn;
    for (const button of $("filter").querySelectorAll("button")) button.addEventListener("click", () => this.show(button.value));
    $("older").addEventListener("click", () => this.older());
    $("fresh").addEventListener("click", () => {
      scrollTo({ top: 0, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
      this.#list.querySelector("article")?.focus({ preventScroll: true });
    });
    const nearEnd = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.older(), { rootMargin: "400px" });
    nearEnd.observe($("older"));
    const scrolled = () => {
      this.#onTop = scrollY < TOP;
      if (this.#onTop) this.#tellFresh(null);
    };
    addEventListener("scroll", scrolled, { passive: true });
    setInterval(() => this.#items.forEach(({ time, entry }) => (time.textContent = ago(whenOf(entry)))), 20_000);
  }

  /** Newest first. */
  get entries() {
    return this.#held.entries;
  }

  /** When the entries that are unread again were marked so. */
  get marked() {
    return this.entries.flatMap(({ state, marked }) => (state === "unread" && marked ? [marked] : []));
  }

  /** Shows the entries in a state, or `any`. */
  show(filter) {
    this.#filter = filter;
    for (const button of $("filter").querySelectorAll("button")) button.setAttribute("aria-pressed", button.value === filter);
    this.#items.clear();
    this.#list.replaceChildren();
    this.#since = null;
    this.#tellFresh(null);
    return this.#reload();
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
    this.#archived = undefined;
    this.#tellFresh(null);
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
    const { verb, text } = wordsOf(entry);
    announce(`${shown(nameOf(entry))} ${verb}${text ? `: ${text}` : ""}`);
    if (!this.#shows(entry)) return;
    const { element } = this.#item(entry);
    if (live) element.classList.add("slides");
    this.#list.prepend(element);
    $("empty").hidden = true;
    if (this.#onTop) this.#trim();
    else this.#tellFresh(entry.id);
  }

  /** Shows an entry as it is after an edit, or not at all after an erasure. */
  changed({ type, entry }) {
    if (this.#held.apply({ type, entry })) this.#redraw();
  }

  /** Takes the mark of an entry, or the markers with the unread count. */
  told(update) {
    if (this.#held.apply(update)) this.#redraw();
    if (this.#isIncomplete(update)) this.#reload();
  }

  /** Whether entries that are to be shown may be missing, because their state has changed and they were not loaded. */
  #isIncomplete({ type, entry, state, markers }) {
    if (this.#held.stale) return true;
    if (type === "marked") return state === this.#filter && !this.entries.some(({ version }) => version === entry);
    const before = this.#archived;
    this.#archived = markers.archived;
    return this.#filter === "archived" && before !== undefined && before !== markers.archived;
  }

  async #reload() {
    const filter = this.#filter;
    try {
      await this.#held.reload((before) => this.load(before, filter));
      if (filter !== this.#filter) return;
      this.#failed = false;
      $("older").textContent = "Load older entries";
      this.#redraw();
    } catch (error) {
      if (filter === this.#filter) this.#fail(error);
    }
  }

  #fail(error) {
    this.#failed = true;
    $("older").hidden = false;
    $("older").textContent = `Could not load entries: ${error.detail ?? error.message}. Try again`;
  }

  #shows({ state }) {
    return this.#filter === "any" || state === this.#filter;
  }

  /** Shows the entries as they are now, and leaves those alone that have not changed. */
  #redraw() {
    const wanted = new Map(this.entries.filter((entry) => this.#shows(entry)).map((entry) => [entry.id, entry]));
    for (const id of [...this.#items.keys()]) if (!wanted.has(id)) this.#remove(id);
    let above = null;
    for (const entry of wanted.values()) {
      const item = this.#items.get(entry.id);
      above = item?.entry === entry ? item.element : this.#put(item, entry, above);
    }
    this.#behind();
  }

  /** Shows an entry in place of what was shown of it, or below `above`. */
  #put(before, entry, above) {
    const { element } = this.#item(entry);
    const hadFocus = before?.element.contains(document.activeElement);
    if (before) before.element.replaceWith(element);
    else if (above) above.after(element);
    else this.#list.prepend(element);
    if (hadFocus) (element.querySelector(".marks button") ?? element.querySelector("article")).focus();
    return element;
  }

  /** What had the focus in the entry passes it on. */
  #remove(id) {
    const { element } = this.#items.get(id);
    const next = element.nextElementSibling ?? element.previousElementSibling;
    if (element.contains(document.activeElement)) (next?.querySelector("article") ?? $("content")).focus();
    element.remove();
    this.#items.delete(id);
    if (this.#fresh.delete(id)) this.#tellFresh();
  }

  async older() {
    if (this.#failed) return this.#reload();
    if (this.#loading || !this.#held.next) return;
    this.#loading = true;
    const button = $("older");
    button.textContent = "Loading …";
    try {
      await this.#held.older((before) => this.load(before, this.#filter));
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
    for (const entry of this.entries.filter((entry) => this.#shows(entry) && !this.#items.has(entry.id))) {
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
    $("empty").textContent = EMPTY[this.#filter];
  }

  /** Tells of one more entry, of no entry, or again of those there are. */
  #tellFresh(id) {
    if (id) this.#fresh.add(id);
    if (id === null) this.#fresh.clear();
    const { size } = this.#fresh;
    $("fresh").hidden = size === 0;
    $("fresh").textContent = `↑ ${count(size, "new entry", "new entries")}`;
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

  #item(entry) {
    const name = nameOf(entry);
    const { verb, text, mark } = wordsOf(entry);
    const time = h("time", { datetime: whenOf(entry), title: timesOf(entry) }, ago(whenOf(entry)));
    const state = h("span", { class: "hidden" }, { unread: "Unread: ", archived: "Archived: " }[entry.state] ?? "");
    const isChat = mark === "message" && (entry.kind === "group" || entry.actor?.startsWith("user:"));
    const element = h(
      "li",
      { class: `entry ${mark} ${entry.state ?? ""}` },
      h(
        "article",
        { tabindex: "-1" },
        h("span", { class: "face" }, avatar(name), h("span", { class: "kind" }, icon(mark))),
        h(
          "div",
          { class: "body" },
          h("p", { class: "who" }, state, h("strong", {}, shown(name)), h("span", { class: "verb" }, ` ${verb}`), editedMark(editedOf(entry)), time),
          text === null ? null : h("p", { class: "text" }, text),
        ),
        isChat ? this.#reply(entry, name) : null,
        marks(entry, ["unread", "read", "archive", "restore"], this.isOwn(entry), this.mark),
      ),
    );
    const item = { entry, element, time };
    this.#items.set(entry.id, item);
    return item;
  }

  #reply(entry, name) {
    const [label, text] = entry.kind === "group" ? [`Open the group of ${shown(name)}`, "Open"] : [`Reply to ${shown(name)}`, "Reply"];
    return h("button", { class: "reply", onclick: () => this.reply(entry), "aria-label": label }, text);
  }
}
