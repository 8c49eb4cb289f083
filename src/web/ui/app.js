/** Puts the parts of the page together. The page uses the service only through the client library. */

import { Newsfeed } from "../newsfeed.js";
import { Chats } from "./chat.js";
import { $, BASE, avatar, h } from "./dom.js";
import { Entries, PAGE } from "./entries.js";
import { People } from "./people.js";
import { Reading } from "./reading.js";
import { Session } from "./session.js";
import { Status } from "./status.js";
import { Toasts } from "./toasts.js";
import { askToken, kept, logOut } from "./token.js";
import { Typing } from "./typing.js";
import { MEMBERS_MAX, NAMES, chatOf, count, feedsOf, groupFeed, groupOf, inFeed, isName, nameOf, shown, whyOf } from "./words.js";

/** Matches where the chats cover the feed. */
const phone = matchMedia("(max-width: 859px)");

let newsfeed = connect();
let user;
let session = null;
let reading = null;
/** The last update of each feed's unread count. */
const told = new Map();

const entries = new Entries({
  load: (before, state) => session.own.page({ before, state, limit: PAGE }),
  reply: openChatOf,
  mark,
  isOwn: ({ actor }) => actor === session.reader,
});
const people = new People({
  open: openRow,
  changed() {
    session?.with(chats.feed, people.feeds);
    const chat = people.chat(chats.feed);
    if (chat?.group) chats.name(chat);
  },
});
const chats = new Chats({ closed: () => go({ user, chats: "" }), session: () => session, mark, moved: () => reading?.look() });
const toasts = new Toasts(openChatOf);
const status = new Status(() => session?.wake());
/** Who is typing to the person, and in the open chat. */
const typing = new Typing((words) => {
  tell($("feed-typing"), words);
  $("feed-typing").hidden = words === "";
});
const chatTyping = new Typing((words) => tell($("chat-typing"), words));
const tell = (element, text) => text !== element.textContent && (element.textContent = text);

function connect() {
  return new Newsfeed({ token: ({ error }) => (error ? newToken(error) : kept()) });
}

/** Asks for a token. Whoever removes it is logged out before anything else is requested. */
async function newToken(error) {
  const token = await askToken(error);
  if (token !== "") return token;
  try {
    await logOut();
  } catch (error) {
    toasts.tell(`The token is removed, but this browser may still keep a cookie and pages: ${error.message}`);
  }
  return token;
}

/** From now on, what is on screen of an open chat is marked as read in the newsfeed, too. */
function read() {
  reading?.end();
  const onScreen = () => (chats.partner === null ? null : chats.onScreen());
  reading = new Reading(() => session.own, { onScreen, marked: () => entries.marked });
}
document.addEventListener("visibilitychange", () => (reading?.look(), chats.look()));

/** Changes the state of an entry, here at once and in other windows when they are told. */
async function mark({ feed, version }, change) {
  try {
    const { entry, state, marked } = await session.of(feed).setState(version, change);
    if (marked !== null) applied({ type: "marked", feed, entry, state, marked });
  } catch (error) {
    toasts.tell(`Not marked: ${whyOf(error)}`);
  }
}

/** Gives an update about states to whatever shows the feed. */
function applied(update) {
  if (update.feed === session.feed) entries.told(update);
  if (update.feed === chats.feed) chats.marked(update);
}

/** Shows the updates of the session. */
const view = {
  start({ version, since }) {
    status.version(version);
    entries.clear();
    entries.since(since);
    chats.load();
    people.load(session, newsfeed);
  },
  history(page) {
    // The history of the open chat is loaded separately.
    const own = page.entries.filter((entry) => feedsOf(entry).includes(session.feed)).map((entry) => inFeed(entry, session.feed));
    entries.history({ ...page, entries: own });
    own.forEach((entry) => people.note(entry));
  },
  entry({ entry, notify, live }) {
    status.version(entry.version);
    const feeds = feedsOf(entry);
    const inChat = feeds.includes(chats.feed) && chats.heard(inFeed(entry, chats.feed));
    for (const each of [typing, chatTyping]) each.stopped(nameOf(entry));
    if (!feeds.includes(session.feed)) {
      people.heard(entry);
      if (notify && live && !inChat && people.chat(entry.feed)?.group) toasts.notify(entry);
      return;
    }
    entries.add(inFeed(entry, session.feed), live);
    people.note(entry);
    const inList = entries.onTop && !$("feed").inert;
    if (notify && live && !inChat && !inList) toasts.notify(entry);
  },
  edited: changed,
  erased: changed,
  transient({ signal }) {
    if (signal.kind !== "typing" || signal.actor === session.feed) return;
    const feeds = feedsOf(signal);
    if (feeds.includes(session.feed)) typing.started(nameOf(signal));
    if (feeds.includes(chats.feed)) chatTyping.started(nameOf(signal));
  },
  unread(update) {
    const { feed, unread } = update;
    // Without a reader of their own, people have no states in chats.
    if (feed !== session.feed && session.reader === null) return;
    told.set(feed, update);
    applied(update);
    people.unread(feed, unread);
    if (feed !== session.feed) return;
    const total = `${unread.total.toLocaleString("en")}${unread.more ? "+" : ""}`;
    $("badge").textContent = total;
    $("read").disabled = unread.total === 0;
    $("read").title = unread.total ? "Mark all as read" : "Nothing unread";
    document.title = `${unread.total ? `(${total}) ` : ""}${shown(user)} · newsfeed`;
    $("archive").disabled = update.markers.read === null;
    reading.told(update);
  },
  marked: (update) => (update.feed === session.feed || session.reader !== null) && applied(update),
  marker(update) {
    if (update.feed === chats.feed) chats.marker(update);
  },
  version({ version }) {
    status.version(version);
  },
  status(update) {
    status.show(update);
    $("failure").hidden = true;
    if (update.state !== "live") return;
    chats.load();
    if (update.reconnects > 0 && update.caughtUp > 0) toasts.tell(`Caught up ${count(update.caughtUp, "entry", "entries")}`);
  },
  reset() {
    toasts.tell("The service's data was reset. Everything has been reloaded.");
    told.clear();
    if (chats.feed) chats.show(chatNow());
  },
  failed(error) {
    status.failed(error);
    const again = h("button", { onclick: () => (resume(), $("content").focus()) }, "Try again");
    const other = h("button", { onclick: changeToken }, "Enter a token");
    const refused = error.status === 401 || error.status === 403;
    $("failure").replaceChildren(h("p", {}, `${error.detail ?? error.message} `), ...(refused ? [again, other] : [again]));
    $("failure").hidden = false;
    console.info("newsfeed stopped:", error);
  },
};

/** Applies an edit or an erasure to whatever shows the entry. */
function changed({ type, entry }) {
  status.version(entry[type]);
  const feeds = feedsOf(entry);
  if (feeds.includes(chats.feed)) chats.changed({ type, entry: inFeed(entry, chats.feed) });
  if (!feeds.includes(session.feed)) return people.noteChange({ type, entry }, []);
  entries.changed({ type, entry: inFeed(entry, session.feed) });
  toasts.changed({ type, entry });
  people.noteChange({ type, entry }, entries.entries);
}

/** Continues after a permanent failure. */
function resume() {
  $("failure").hidden = true;
  session.run();
}

async function changeToken() {
  if ((await newToken(null)) === null) return;
  newsfeed = connect();
  if (!session) return;
  chats.be(user, newsfeed);
  read();
  session.restart(newsfeed);
  if (!$("failure").hidden) resume();
}

/** Shows what the URL names: `?user=anna&chat=ben` or `?user=anna&group=…`. */
function route() {
  const params = new URLSearchParams(location.search);
  const name = params.get("user");
  if (name !== user) become(name && isName(name) ? name : null);
  if (!user) return;
  showChat(chatNow(params), params.has("chats"));
}

/** The chat that the URL names; null if there is none. */
function chatNow(params = new URLSearchParams(location.search)) {
  const [partner, group] = ["chat", "group"].map((name) => params.get(name)).map((name) => (name && isName(name) ? name : null));
  if (partner) return { feed: chatOf(user, partner), partner, name: shown(partner) };
  if (!group) return null;
  const feed = groupFeed(group);
  const { name = group, members } = people.chat(feed) ?? {};
  return { feed, group, partner: null, name, members };
}

function go(params) {
  const query = new URLSearchParams(params).toString();
  history.pushState(null, "", `${BASE}/${query && `?${query}`}`);
  route();
}

function become(name) {
  session?.end();
  reading?.end();
  session = reading = null;
  user = name;
  toasts.clear();
  typing.clear();
  status.clear();
  entries.clear();
  $("failure").hidden = true;
  $("welcome").hidden = name !== null;
  for (const id of ["feed", "chats", "status", "chats-toggle", "read", "user"]) $(id).hidden = name === null;
  document.title = name ? `${shown(name)} · newsfeed` : "newsfeed";
  if (name === null) return;
  $("feed-title").textContent = `${shown(name)}’s newsfeed`;
  $("user").replaceChildren(avatar(name), h("span", { class: "label" }, shown(name)));
  $("badge").textContent = "0";
  told.clear();
  people.be(name);
  chats.be(name, newsfeed);
  chats.show(null);
  session = new Session(newsfeed, `user:${name}`, view);
  read();
  session.run();
}

function openRow({ partner, group }) {
  go(group ? { user, group } : { user, chat: partner });
}

/** Opens the chat to which an entry belongs. */
function openChatOf(entry) {
  const group = groupOf(entry)?.group ?? people.chat(entry.feed)?.group;
  const partner = nameOf(entry);
  if (group || isName(partner)) openRow({ partner, group });
}

/** Opens the chat with one person, or forms a group of several. */
async function openChatWith(names) {
  if (names.length === 1) return openRow({ partner: names[0] });
  const members = [...new Set([user, ...names])];
  const group = Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) => part.toString(36)).join("");
  const feeds = [...members.map((name) => `user:${name}`), groupFeed(group)];
  try {
    await newsfeed.append({ kind: "group", feeds, actor: `user:${user}`, data: { from: user, group, members } });
    go({ user, group });
  } catch (error) {
    toasts.tell(`The group was not formed: ${whyOf(error)}`);
  }
}

function showChat(chat, list) {
  const open = chat !== null || list;
  document.body.classList.toggle("chats-open", open);
  $("chats-toggle").setAttribute("aria-expanded", open);
  cover();
  const { feed: left } = chats;
  if ((chat?.feed ?? null) === left) return;
  chatTyping.clear();
  chats.show(chat, told.get(chat?.feed));
  // What is followed already has been told up to now.
  session.with(chats.feed, people.feeds);
  if (session.position) chats.load();
  if (chat) $("text").focus();
  else if (left) $("to").focus();
}

/** On a phone the chats cover the feed, which must not be reachable then. */
function cover() {
  $("feed").inert = phone.matches && document.body.classList.contains("chats-open");
}
phone.addEventListener("change", cover);

function closeChats() {
  go({ user });
  $("chats-toggle").focus();
}

$("chats-toggle").addEventListener("click", () => (document.body.classList.contains("chats-open") ? closeChats() : go({ user, chats: "" })));
$("chats-close").addEventListener("click", closeChats);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]") && document.body.classList.contains("chats-open")) closeChats();
});
$("read").addEventListener("click", async () => {
  try {
    await session.own.markRead(session.position);
  } catch (error) {
    toasts.tell(`Could not mark as read: ${whyOf(error)}`);
  }
});
$("archive").addEventListener("click", async () => {
  try {
    await session.own.archiveRead(session.position);
  } catch (error) {
    toasts.tell(`Could not archive: ${whyOf(error)}`);
  }
});
$("token").addEventListener("click", changeToken);

/** A form with a field for a name, or for several. */
function named(form, input, use, max = 1) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const names = (max > 1 ? input.value.split(",") : [input.value]).map((name) => name.trim().normalize("NFC")).filter((name) => name !== "");
    const wrong = names.length > max ? `At most ${max} names.` : "A name has at most 100 bytes of UTF-8, without * and control characters.";
    input.setCustomValidity(names.length <= max && names.length > 0 && names.every(isName) ? "" : wrong);
    if (!form.reportValidity()) return;
    input.value = "";
    use(names);
  });
  input.addEventListener("input", () => input.setCustomValidity(""));
}
named($("pick"), $("name"), ([name]) => go({ user: name }));
named($("write"), $("to"), openChatWith, MEMBERS_MAX - 1);

for (const link of [document.querySelector(".brand"), $("user")]) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    go({});
    $("name").focus();
  });
}
$("names").append(...NAMES.split(" ").map((name) => h("option", { value: name })));
$("suggestions").append(
  ...NAMES.split(" ").slice(0, 12).map((name) => h("button", { onclick: () => go({ user: name }) }, avatar(name), shown(name))),
);
addEventListener("popstate", route);
route();
