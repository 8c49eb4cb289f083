/** The conversations of a person, and the panel with the open one. */

import { EntryList } from "../newsfeed.js";
import { $, avatar, editedMark, h } from "./dom.js";
import { Own } from "./own.js";
import { ago, chatOf, editedOf, nameOf, shown, timesOf, whenOf, whyOf, wordsOf } from "./words.js";

const PAGE = 30;
/** How long sending a message is retried, in ms. */
const SENDING_TIME_MAX = 120_000;
/** Interval between typing signals, in ms. */
const TYPING_PAUSE = 3_000;
/** Maximum number of people in the list of conversations. */
const PEOPLE_MAX = 50;

export class Chats {
  #me;
  #newsfeed;
  #people = new Map();
  #open = null;
  #own;
  #typed = 0;
  /** The animation frame that draws the list next; 0 if none is requested. */
  #due = 0;

  /**
   * `position()` is the version up to which live entries have arrived; `moved()` is called when other messages may be on
   * screen than before.
   */
  constructor({ opened, position, moved }) {
    this.opened = opened;
    this.position = position;
    this.moved = moved;
    this.#own = new Own({ newsfeed: () => this.#newsfeed, patience: SENDING_TIME_MAX });
    $("log").addEventListener("scroll", moved, { passive: true });
    $("chat-close").addEventListener("click", () => opened(null));
    $("chat-older").addEventListener("click", () => this.#older());
    $("compose").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send($("text").value.trim());
    });
    $("text").addEventListener("input", () => this.#type());
  }

  /** The person whose conversation is open. */
  get partner() {
    return this.#open?.partner ?? null;
  }

  get feed() {
    return this.#open?.feed ?? null;
  }

  /** The open conversation and the version of the last message on screen; null if there is none. */
  onScreen() {
    if (!this.#open?.loaded) return null;
    const { bottom } = $("log").getBoundingClientRect();
    for (let bubble = $("messages").lastElementChild; bubble; bubble = bubble.previousElementSibling) {
      const { version } = bubble.dataset;
      if (version && bubble.getBoundingClientRect().bottom <= bottom + 1) return { partner: this.#open.partner, version };
    }
    return null;
  }

  be(me, newsfeed) {
    if (me !== this.#me) {
      this.#people.clear();
      this.#list();
    }
    this.#me = me;
    this.#newsfeed = newsfeed;
  }

  /** Shows the conversation with `partner`, or the list of conversations. */
  show(partner) {
    $("people-panel").hidden = partner !== null;
    $("chat").hidden = partner === null;
    this.#open = null;
    if (partner === null) return;
    this.#open = { partner, feed: chatOf(this.#me, partner), list: new EntryList(), shown: new Map(), version: null, loaded: false };
    $("chat-title").replaceChildren(avatar(partner), shown(partner));
    $("messages").replaceChildren();
    $("chat-typing").textContent = "";
    for (const id of ["chat-older", "chat-first"]) $(id).hidden = true;
  }

  /** Loads the conversation up to the position of the live stream. */
  async load() {
    const open = this.#open;
    if (!open || open.version) return;
    open.version = this.position();
    await this.#older();
    $("log").scrollTop = $("log").scrollHeight;
    this.moved();
  }

  /** Takes an entry of the person's own feed, to sort the list by the last message. */
  note(entry) {
    if (entry.kind !== "message" || !entry.actor?.startsWith("user:")) return;
    const name = nameOf(entry);
    if ((this.#people.get(name)?.version ?? "") >= entry.version) return;
    this.#people.set(name, entry);
    if (!this.#due) this.#due = requestAnimationFrame(() => this.#list());
  }

  /** Takes an edit or an erasure of an entry of the person's own feed, of which `entries` are left. */
  noteChange({ type, entry }, entries) {
    const [name] = [...this.#people].find(([, { id }]) => id === entry.id) ?? [];
    if (name === undefined) return;
    this.#people.delete(name);
    for (const one of type === "edited" ? [entry] : entries) if (nameOf(one) === name) this.note(one);
    this.#due ||= requestAnimationFrame(() => this.#list());
  }

  /** Takes an entry of the open conversation. Returns whether it is on screen. */
  heard(entry) {
    const log = $("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    if (this.#open.list.apply({ type: "entry", entry })) this.#put(entry, "end");
    if (atEnd) log.scrollTop = log.scrollHeight;
    this.moved();
    return atEnd;
  }

  /** Takes an edit or an erasure of an entry of the open conversation. */
  changed({ type, entry }) {
    const { list, shown: known } = this.#open;
    const isNews = list.apply({ type, entry });
    const element = known.get(entry.id);
    if (!element) return;
    if (type === "erased") {
      // Also a draft of it, whose sending has not been answered.
      known.delete(entry.id);
      this.#own.remove(element);
      this.moved();
    } else if (isNews && !this.#own.isEditing(element)) {
      this.#put(entry, "end");
    }
  }

  #list() {
    this.#due = 0;
    const newest = [...this.#people].sort(([, a], [, b]) => (a.version < b.version ? 1 : -1)).slice(0, PEOPLE_MAX);
    const row = ([name, entry]) =>
      h(
        "li",
        {},
        h(
          "button",
          { onclick: () => this.opened(name) },
          avatar(name),
          h("span", { class: "line" }, h("strong", {}, shown(name)), h("span", { class: "preview" }, wordsOf(entry).text ?? "")),
          h("time", { datetime: whenOf(entry) }, ago(whenOf(entry))),
        ),
      );
    $("people").replaceChildren(...newest.map(row));
  }

  async #older() {
    const open = this.#open;
    const button = $("chat-older");
    try {
      const feed = this.#newsfeed.feed(open.feed);
      await open.list.older((before) => feed.page({ until: open.version, before, limit: PAGE }));
      if (this.#open !== open) return;
      const log = $("log");
      const below = log.scrollHeight - log.scrollTop;
      const isNew = ({ id }) => !open.shown.get(id)?.dataset.version;
      for (const entry of open.list.entries.filter(isNew)) this.#put(entry, "start");
      log.scrollTop = log.scrollHeight - below;
      open.loaded = true;
      button.textContent = "Load older messages";
      button.hidden = open.list.next === null;
      $("chat-first").hidden = open.list.next !== null;
    } catch (error) {
      if (this.#open !== open) return;
      button.hidden = false;
      button.textContent = `Could not load: ${error.detail ?? error.message}. Try again`;
    }
  }

  /** An entry replaces what was shown of it before: the draft of a message sent from this window, or the entry before an edit. */
  #put(entry, where) {
    const { shown: known } = this.#open;
    const element = this.#bubble(entry);
    const draft = known.get(entry.id);
    known.set(entry.id, element);
    const hadFocus = draft?.contains(document.activeElement);
    if (draft) draft.replaceWith(element);
    else if (where === "start") $("messages").prepend(element);
    else $("messages").append(element);
    if (hadFocus) element.querySelector(".acts button")?.focus();
  }

  #bubble(entry) {
    const mine = entry.actor === `user:${this.#me}`;
    return h(
      "li",
      { class: `bubble ${mine ? "mine" : "theirs"}`, "data-version": entry.version },
      h("span", { class: "hidden" }, mine ? "You: " : `${shown(nameOf(entry))}: `),
      h("span", { class: "text" }, wordsOf(entry).text ?? ""),
      editedMark(editedOf(entry)),
      entry.at ? h("time", { datetime: whenOf(entry), title: timesOf(entry) }, ago(whenOf(entry))) : h("span", { class: "note" }, "Sending …"),
      // A draft cannot be edited before it is stored.
      mine && entry.version ? this.#own.actions(entry, this.#changer(entry)) : null,
    );
  }

  /** What the actions of a bubble do with the open conversation. */
  #changer({ id }) {
    const open = this.#open;
    const current = () => open.list.entries.find((entry) => entry.id === id);
    return {
      current,
      bubble: () => open.shown.get(id),
      show: () => this.#open === open && current() && this.#put(current(), "end"),
      changed: (type, entry) => this.#open === open && this.changed({ type, entry: { ...entry, feed: open.feed } }),
    };
  }

  #event(kind, data) {
    const { partner, feed } = this.#open;
    return { kind, feeds: [`user:${partner}`, feed], actor: `user:${this.#me}`, data: { from: this.#me, to: partner, ...data } };
  }

  #send(text) {
    if (text === "") return;
    $("text").value = "";
    this.#typed = 0;
    // The id is chosen once, so that a manual retry does not send the message twice.
    const random = Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
    const event = this.#event("message", { text });
    // A token that allows only certain actors allows only ids that begin with the actor.
    event.id = `${event.actor}/${random}`;
    const open = this.#open;
    this.#put(event, "end");
    $("log").scrollTop = $("log").scrollHeight;
    this.#deliver(event, open);
  }

  async #deliver(event, open) {
    const note = (...content) => {
      // The entry may have arrived already and replaced the draft.
      open.shown.get(event.id)?.querySelector(".note")?.replaceChildren(...content);
    };
    try {
      const { status, version } = await this.#newsfeed.append(event, { patience: SENDING_TIME_MAX });
      // Deleted in another window, before this one was told that it had been sent.
      if (status === "erased" && this.#open === open) this.changed({ type: "erased", entry: { id: event.id, version, feed: open.feed } });
      note("Sent");
    } catch (error) {
      const why = whyOf(error);
      const again = h("button", { class: "link", onclick: () => (note("Sending …"), this.#deliver(event, open)) }, "Try again");
      note(`Not sent: ${why}. `, again);
    }
  }

  #type() {
    if (!this.#open || Date.now() - this.#typed < TYPING_PAUSE) return;
    this.#typed = Date.now();
    // A lost typing signal does not matter.
    this.#newsfeed.transient(this.#event("typing", {})).catch(() => {});
  }
}
