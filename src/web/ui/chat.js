/** The conversations of a person, and the panel with the open one. */

import { NewsfeedError } from "../newsfeed.js";
import { $, avatar, h } from "./dom.js";
import { ago, chatOf, nameOf, shown, timesOf, whenOf, wordsOf } from "./words.js";

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
    this.#open = { partner, feed: chatOf(this.#me, partner), shown: new Map(), next: undefined, version: null, loaded: false };
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

  /** Takes an entry of the open conversation. Returns whether it is on screen. */
  heard(entry) {
    const log = $("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    this.#put(entry, "end");
    if (atEnd) log.scrollTop = log.scrollHeight;
    this.moved();
    return atEnd;
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
      const page = await this.#newsfeed.feed(open.feed).page({ until: open.version, before: open.next, limit: PAGE });
      if (this.#open !== open) return;
      const log = $("log");
      const below = log.scrollHeight - log.scrollTop;
      for (const entry of page.entries) this.#put(entry, "start");
      log.scrollTop = log.scrollHeight - below;
      open.next = page.next;
      open.loaded = true;
      button.textContent = "Load older messages";
      button.hidden = page.next === null;
      $("chat-first").hidden = page.next !== null;
    } catch (error) {
      if (this.#open !== open) return;
      button.hidden = false;
      button.textContent = `Could not load: ${error.detail ?? error.message}. Try again`;
    }
  }

  /** A message sent from this window replaces its draft. */
  #put(entry, where) {
    const { shown: known } = this.#open;
    const element = this.#bubble(entry);
    const draft = known.get(entry.id);
    known.set(entry.id, element);
    if (draft) draft.replaceWith(element);
    else if (where === "start") $("messages").prepend(element);
    else $("messages").append(element);
  }

  #bubble(entry) {
    const mine = entry.actor === `user:${this.#me}`;
    return h(
      "li",
      { class: `bubble ${mine ? "mine" : "theirs"}`, "data-version": entry.version },
      h("span", { class: "hidden" }, mine ? "You: " : `${shown(nameOf(entry))}: `),
      h("span", { class: "text" }, wordsOf(entry).text ?? ""),
      entry.at ? h("time", { datetime: whenOf(entry), title: timesOf(entry) }, ago(whenOf(entry))) : h("span", { class: "note" }, "Sending …"),
    );
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
      await this.#newsfeed.append(event, { patience: SENDING_TIME_MAX });
      note("Sent");
    } catch (error) {
      const why = error instanceof NewsfeedError ? error.detail : error.message;
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
