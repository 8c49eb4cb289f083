/** Puts the parts of the page together. The page uses the service only through the client library. */

import { Newsfeed } from "../newsfeed.js";
import { Chats } from "./chat.js";
import { $, BASE, avatar, h } from "./dom.js";
import { Entries, PAGE } from "./entries.js";
import { Reading } from "./reading.js";
import { Session } from "./session.js";
import { Status } from "./status.js";
import { Toasts } from "./toasts.js";
import { askToken, kept, logOut } from "./token.js";
import { Typing } from "./typing.js";
import { NAMES, count, feedsOf, inFeed, isName, nameOf, shown } from "./words.js";

/** Maximum number of people named as typing. */
const NAMED_TYPING_MAX = 2;
/** Matches where the chats cover the feed. */
const phone = matchMedia("(max-width: 859px)");

let newsfeed = connect();
let user;
let session = null;
let reading = null;

const entries = new Entries({
  load: (before) => newsfeed.feeds([session.feed]).page({ before, limit: PAGE }),
  reply: openChat,
});
const chats = new Chats({ opened: openChat, position: () => session.position, moved: () => reading?.look() });
const toasts = new Toasts(openChat);
const status = new Status(() => session?.wake());
const typing = new Typing((names) => {
  const more = names.length - NAMED_TYPING_MAX;
  const words = names.slice(0, NAMED_TYPING_MAX).map(shown).join(", ") + (more > 0 ? ` and ${more} more` : "");
  const tell = (element, text) => text !== element.textContent && (element.textContent = text);
  tell($("feed-typing"), names.length ? `${words} ${names.length > 1 ? "are" : "is"} typing …` : "");
  $("feed-typing").hidden = names.length === 0;
  tell($("chat-typing"), names.includes(chats.partner) ? `${shown(chats.partner)} is typing …` : "");
});

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

/** From now on, an open chat is marked as read while somebody can see it. */
function read() {
  reading?.end();
  const onScreen = () => (document.visibilityState === "visible" ? chats.onScreen() : null);
  reading = new Reading(newsfeed.feed(session.feed), onScreen);
}
document.addEventListener("visibilitychange", () => reading?.look());

/** Shows the updates of the session. */
const view = {
  start({ version, since }) {
    status.version(version);
    entries.clear();
    entries.since(since);
    chats.load();
  },
  history(page) {
    // The history of the open chat is loaded separately.
    const own = page.entries.filter((entry) => feedsOf(entry).includes(session.feed)).map((entry) => inFeed(entry, session.feed));
    entries.history({ ...page, entries: own });
    own.forEach((entry) => chats.note(entry));
  },
  entry({ entry, notify, live }) {
    status.version(entry.version);
    const feeds = feedsOf(entry);
    const inChat = feeds.includes(chats.feed) && chats.heard(inFeed(entry, chats.feed));
    if (!feeds.includes(session.feed)) return;
    typing.stopped(nameOf(entry));
    entries.add(inFeed(entry, session.feed), live);
    chats.note(entry);
    const inList = entries.onTop && !$("feed").inert;
    if (notify && live && !inChat && !inList) toasts.notify(entry);
  },
  edited: changed,
  erased: changed,
  transient({ signal }) {
    if (signal.kind === "typing" && signal.actor !== session.feed) typing.started(nameOf(signal));
  },
  unread({ feed, unread, markers }) {
    if (feed !== session.feed) return;
    const total = `${unread.total.toLocaleString("en")}${unread.more ? "+" : ""}`;
    $("badge").textContent = total;
    $("read").disabled = unread.total === 0;
    $("read").title = unread.total ? "Mark all as read" : "Nothing unread";
    document.title = `${unread.total ? `(${total}) ` : ""}${shown(user)} · newsfeed`;
    entries.marked(markers, unread);
    reading.state({ markers, unread });
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
    const { partner } = chats;
    if (partner) chats.show(partner);
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
  if (!feeds.includes(session.feed)) return;
  entries.changed({ type, entry: inFeed(entry, session.feed) });
  toasts.changed({ type, entry });
  chats.noteChange({ type, entry }, entries.entries);
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

/** Shows what the URL names: `?user=anna&chat=ben`. */
function route() {
  const params = new URLSearchParams(location.search);
  const name = params.get("user");
  if (name !== user) become(name && isName(name) ? name : null);
  if (!user) return;
  const partner = params.get("chat");
  showChat(partner && isName(partner) ? partner : null, params.has("chats"));
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
  chats.be(name, newsfeed);
  chats.show(null);
  session = new Session(newsfeed, `user:${name}`, view);
  read();
  session.run();
}

function openChat(name) {
  if (name !== null && !isName(name)) return;
  go(name === null ? { user, chats: "" } : { user, chat: name });
}

function showChat(partner, list) {
  const open = partner !== null || list;
  document.body.classList.toggle("chats-open", open);
  $("chats-toggle").setAttribute("aria-expanded", open);
  cover();
  if (partner === chats.partner) return;
  const { partner: left } = chats;
  chats.show(partner);
  session.with(chats.feed);
  if (partner) $("text").focus();
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

$("chats-toggle").addEventListener("click", () => (document.body.classList.contains("chats-open") ? closeChats() : openChat(null)));
$("chats-close").addEventListener("click", closeChats);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]") && document.body.classList.contains("chats-open")) closeChats();
});
$("read").addEventListener("click", async () => {
  try {
    await newsfeed.feed(session.feed).markRead(session.position);
  } catch (error) {
    toasts.tell(`Could not mark as read: ${error.detail ?? error.message}`);
  }
});
$("token").addEventListener("click", changeToken);

/** A form with a field for a name. */
function named(form, input, use) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = input.value.trim().normalize("NFC");
    input.setCustomValidity(isName(name) ? "" : "A name has at most 100 bytes of UTF-8, without * and control characters.");
    if (!form.reportValidity()) return;
    input.value = "";
    use(name);
  });
  input.addEventListener("input", () => input.setCustomValidity(""));
}
named($("pick"), $("name"), (name) => go({ user: name }));
named($("write"), $("to"), openChat);

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
