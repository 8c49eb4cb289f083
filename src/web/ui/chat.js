/** The panel with the open chat: with one other person, or with a group. */

import { EntryList } from "../newsfeed.js";
import { $, avatar, editedMark, h } from "./dom.js";
import { marks } from "./marks.js";
import { Own } from "./own.js";
import { ChatReading } from "./reading.js";
import { Seen } from "./seen.js";
import { ago, editedOf, nameOf, shown, timesOf, whenOf, whyOf, wordsOf } from "./words.js";

const PAGE = 30;
/** How long sending a message is retried, in ms. */
const SENDING_TIME_MAX = 120_000;
/** Interval between typing signals, in ms. */
const TYPING_PAUSE = 3_000;

export class Chats {
  #me;
  #newsfeed;
  #open = null;
  #own;
  #typed = 0;

  /**
   * `session()` is the session; `mark(entry, change)` changes the state of an entry; `moved()` is called when other messages
   * may be on screen than before.
   */
  constructor({ closed, session, mark, moved }) {
    this.session = session;
    this.mark = mark;
    this.moved = () => {
      this.#open?.reading?.look();
      moved();
    };
    this.#own = new Own({ newsfeed: () => this.#newsfeed, patience: SENDING_TIME_MAX });
    $("log").addEventListener("scroll", this.moved, { passive: true });
    $("chat-close").addEventListener("click", closed);
    $("chat-older").addEventListener("click", () => this.#older());
    $("compose").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send($("text").value.trim());
    });
    $("text").addEventListener("input", () => this.#type());
  }

  /** The person whose chat is open; null if there is none, or a group's. */
  get partner() {
    return this.#open?.partner ?? null;
  }

  get feed() {
    return this.#open?.feed ?? null;
  }

  /** The open chat and the version of the last message on screen; null if there is none. */
  onScreen() {
    if (!this.#open?.loaded || document.visibilityState !== "visible") return null;
    const { feed, partner } = this.#open;
    const { bottom } = $("log").getBoundingClientRect();
    for (let bubble = $("messages").lastElementChild; bubble; bubble = bubble.previousElementSibling) {
      const { version } = bubble.dataset;
      if (version && bubble.getBoundingClientRect().bottom <= bottom + 1) return { feed, partner, version };
    }
    return null;
  }

  be(me, newsfeed) {
    this.#me = me;
    this.#newsfeed = newsfeed;
  }

  /** Shows a chat, as `{ feed, partner or group, name }`, or the list of chats. `told` is the chat's last update of its unread count. */
  show(chat, told) {
    $("people-panel").hidden = chat !== null;
    $("chat").hidden = chat === null;
    this.#open?.reading?.end();
    this.#open?.seen.end();
    this.#open = null;
    if (chat === null) return;
    const list = new EntryList();
    if (told) list.apply(told);
    const seen = new Seen(`user:${this.#me}`, () => list.entries);
    this.#open = { ...chat, list, seen, told, reading: null, shown: new Map(), version: null, loaded: false };
    this.name(chat);
    $("messages").replaceChildren();
    for (const id of ["chat-older", "chat-first"]) $(id).hidden = true;
  }

  /** Shows what a chat is called. */
  name({ name, members }) {
    const others = members?.filter((member) => member !== this.#me).map(shown).join(", ") ?? name;
    $("chat-title").replaceChildren(avatar(name), h("span", {}, name, others === name ? null : h("span", { class: "members" }, others)));
  }

  /** Loads the chat up to the position of the live stream. */
  async load() {
    const open = this.#open;
    if (!open || open.version) return;
    const session = this.session();
    open.version = session.position;
    if (session.reader !== null) this.#asReader(open, session);
    await this.#older();
    if (this.#open !== open) return;
    $("log").scrollTop = $("log").scrollHeight;
    this.moved();
  }

  /** What only a reader of the chat has: a marker of their own, and states. */
  #asReader(open, session) {
    const feed = session.of(open.feed);
    open.seen.load(feed);
    const unread = () => open.list.entries.filter(({ state }) => state === "unread");
    open.reading = new ChatReading(feed, {
      onScreen: () => (this.#open === open ? this.onScreen() : null),
      marked: () => unread().flatMap(({ marked }) => marked ?? []),
      unread: () => unread().filter(({ marked }) => !marked),
    });
    if (open.told) open.reading.told(open.told);
  }

  /** Takes the markers of the person in the open chat, with the unread count, or the mark of an entry. */
  marked(update) {
    const open = this.#open;
    if (update.type === "unread") {
      open.told = update;
      open.reading?.told(update);
    }
    const before = new Map(open.list.entries.map((entry) => [entry.id, entry]));
    if (!open.list.apply(update)) return;
    for (const entry of open.list.entries) {
      const element = open.shown.get(entry.id);
      if (entry !== before.get(entry.id) && element && !this.#own.isEditing(element)) this.#put(entry, "end");
    }
  }

  /** Takes how far somebody else has read the open chat. */
  marker(update) {
    this.#open.seen.marker(update);
  }

  look() {
    this.#open?.reading?.look();
  }

  /** Takes an entry of the open chat. Returns whether it is on screen. */
  heard(entry) {
    const log = $("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    if (this.#open.list.apply({ type: "entry", entry })) this.#put(entry, "end");
    if (atEnd) log.scrollTop = log.scrollHeight;
    this.moved();
    return atEnd;
  }

  /** Takes an edit or an erasure of an entry of the open chat. */
  changed({ type, entry }) {
    const { list, shown: known } = this.#open;
    const isNews = list.apply({ type, entry });
    const element = known.get(entry.id);
    if (!element) return;
    if (type === "erased") {
      // Also a draft of it, whose sending has not been answered.
      known.delete(entry.id);
      this.#own.remove(element);
      this.#open.seen.draw();
      this.moved();
    } else if (isNews && !this.#own.isEditing(element)) {
      this.#put(entry, "end");
    }
  }

  async #older() {
    const open = this.#open;
    const button = $("chat-older");
    try {
      const feed = this.session().of(open.feed);
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
    if (hadFocus) element.querySelector(".acts button, .marks button")?.focus();
    this.#open.seen.draw();
  }

  #bubble(entry) {
    const mine = entry.actor === `user:${this.#me}`;
    return h(
      "li",
      { class: `bubble ${mine ? "mine" : "theirs"} ${entry.state === "unread" ? "unread" : ""}`, "data-version": entry.version },
      h("span", { class: mine || this.#open.partner ? "hidden" : "name" }, mine ? "You: " : `${shown(nameOf(entry))}: `),
      h("span", { class: "hidden" }, entry.state === "unread" ? "Unread: " : ""),
      h("span", { class: "text" }, entry.kind === "group" ? wordsOf(entry).verb : (wordsOf(entry).text ?? "")),
      editedMark(editedOf(entry)),
      entry.at ? h("time", { datetime: whenOf(entry), title: timesOf(entry) }, ago(whenOf(entry))) : h("span", { class: "note" }, "Sending …"),
      // A draft cannot be edited before it is stored.
      mine && entry.version ? this.#own.actions(entry, this.#changer(entry)) : null,
      mine || !entry.version ? null : marks(entry, ["unread", "read"], false, this.mark),
    );
  }

  /** What the actions of a bubble do with the open chat. */
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
    const to = partner && { to: partner };
    return { kind, feeds: [...(partner ? [`user:${partner}`] : []), feed], actor: `user:${this.#me}`, data: { from: this.#me, ...to, ...data } };
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
