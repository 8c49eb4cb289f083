/** The list of a person's chats, those with one other person and groups: each with its last message and its badge. */

import { $, avatar, h } from "./dom.js";
import { ago, chatOf, groupFeed, groupOf, isName, nameOf, shown, whenOf, wordsOf } from "./words.js";

/** Maximum number of chats in the list. */
const CHATS_MAX = 50;
/** Maximum number of groups that are looked for when the list is made. */
const GROUPS_MAX = 40;

export class People {
  /** Each chat, by its feed: `{ feed, partner or group, members, name, entry, unread }`. */
  #chats = new Map();
  #me;
  /** The animation frame that draws the list next; 0 if none is requested. */
  #due = 0;

  /** `open(chat)` opens a chat; `changed()` is called when there may be others than before. */
  constructor({ open, changed }) {
    this.open = open;
    this.changed = changed;
  }

  /** The feeds of the chats in the list. */
  get feeds() {
    return this.#newest().map(({ feed }) => feed);
  }

  be(me) {
    if (me !== this.#me) this.#chats.clear();
    this.#me = me;
    this.#draw();
  }

  /** What is known of a chat. */
  chat(feed) {
    return this.#chats.get(feed) ?? null;
  }

  /** Looks for the person's groups and their last messages. */
  async load(session, newsfeed) {
    const me = this.#me;
    try {
      const { entries } = await session.own.page({ kind: "group", limit: GROUPS_MAX });
      if (me !== this.#me) return;
      for (const entry of entries) this.group(entry);
      const feeds = [...new Set(entries.map(groupOf).filter((of) => of !== null).map(({ group }) => groupFeed(group)))];
      if (feeds.length === 0) return;
      const page = await newsfeed.feeds(feeds).page({ kind: "message", limit: 2 * GROUPS_MAX });
      if (me === this.#me) for (const entry of page.entries) this.heard(entry);
    } catch (error) {
      console.info("no groups:", error);
    }
  }

  /** Takes an entry of the person's own feed. */
  note(entry) {
    this.group(entry);
    const name = nameOf(entry);
    if (entry.kind !== "message" || !entry.actor?.startsWith("user:") || !isName(name)) return;
    const feed = chatOf(this.#me, name);
    this.#last(this.#chats.get(feed) ?? { feed, partner: name, name: shown(name) }, entry);
  }

  /** Takes an entry that may tell of a group. */
  group(entry) {
    const of = groupOf(entry);
    if (of === null) return;
    const { group, members } = of;
    const feed = groupFeed(group);
    const others = members.filter((name) => name !== this.#me).map(shown);
    const chat = { ...this.#chats.get(feed), feed, group, members, name: of.name ?? others.join(", ") };
    this.#last(chat, entry);
  }

  /** Takes a message of a group. */
  heard(entry) {
    const chat = this.#chats.get(entry.feed);
    if (chat?.group && entry.kind === "message") this.#last(chat, entry);
  }

  /** Takes an edit or an erasure of an entry in the feed of a chat, or in the person's own, of which `entries` are left. */
  noteChange({ type, entry }, entries) {
    const chat = [...this.#chats.values()].find((chat) => chat.entry.id === entry.id);
    if (!chat) return;
    const isLeft = ({ kind, actor }) => kind === "message" && actor === `user:${chat.partner}`;
    const last = type === "edited" ? entry : (entries.find(isLeft) ?? { ...chat.entry, kind: "", data: null });
    if (chat.partner && last.kind === "") this.#chats.delete(chat.feed);
    else this.#chats.set(chat.feed, { ...chat, entry: last });
    this.#draw();
  }

  /** Takes the unread count of a chat. */
  unread(feed, unread) {
    const chat = this.#chats.get(feed);
    if (!chat || chat.unread?.total === unread.total) return;
    this.#chats.set(feed, { ...chat, unread });
    this.#draw();
  }

  #last(chat, entry) {
    const known = this.#chats.get(chat.feed);
    if ((known?.entry.version ?? "") >= entry.version) return;
    this.#chats.set(chat.feed, { ...chat, entry });
    this.#draw();
  }

  #newest() {
    return [...this.#chats.values()].sort(({ entry: a }, { entry: b }) => (a.version < b.version ? 1 : -1)).slice(0, CHATS_MAX);
  }

  #draw() {
    this.#due ||= requestAnimationFrame(() => {
      this.#due = 0;
      $("people").replaceChildren(...this.#newest().map((chat) => this.#row(chat)));
      this.changed();
    });
  }

  #row(chat) {
    const { name, group, entry, unread } = chat;
    const text = wordsOf(entry).text ?? "";
    const preview = group && entry.kind === "message" ? `${shown(nameOf(entry))}: ${text}` : text;
    const badge = unread?.total ? h("span", { class: "badge" }, `${unread.total}${unread.more ? "+" : ""}`, h("span", { class: "hidden" }, " unread")) : null;
    return h(
      "li",
      {},
      h(
        "button",
        { onclick: () => this.open(chat) },
        avatar(name),
        h("span", { class: "line" }, h("strong", {}, name), h("span", { class: "preview" }, preview)),
        h("span", { class: "side" }, h("time", { datetime: whenOf(entry) }, ago(whenOf(entry))), badge),
      ),
    );
  }
}
