/** Names, kinds and times as text. */

/** The names that `newsfeed demo` uses. */
export const NAMES =
  "anna ben clara david elif felix greta hugo ines jonas katya luis mia noah olga paul quentin rosa samir tara uma viktor " +
  "wanda xenia yusuf zoe";

/** Longest name of a person, in bytes: the feed of a conversation has two of them in its name. */
const NAME_BYTES_MAX = 100;
/** Characters that names cannot have. */
const EXCLUDED = /[\p{Cc}\u2028-\u202e\u2066-\u2069\ufeff*]/u;

/** Whether the service accepts the text as part of a feed's name. */
export function isName(text) {
  const bytes = new TextEncoder().encode(text).length;
  const plain = !EXCLUDED.test(text) && text.isWellFormed() && text === text.trim() && text === text.normalize("NFC");
  return plain && bytes >= 1 && bytes <= NAME_BYTES_MAX;
}

export const shown = (name) => name.charAt(0).toUpperCase() + name.slice(1);

/** The name of who did it: the actor, or the `from` of the data, which is unchecked. */
export function nameOf({ actor, data }) {
  if (actor) return actor.replace(/^user:/, "");
  return typeof data?.from === "string" && data.from ? data.from : "somebody";
}

/** The feed of a conversation, named as in `newsfeed demo`. */
export const chatOf = (a, b) => `chat:${[a, b].sort().join("-")}`;

/** The feed of a group. */
export const groupFeed = (group) => `group:${group}`;

/** Maximum number of members of a group: one event tells all of them. */
export const MEMBERS_MAX = 50;

/** The group that an entry tells of, as `{ group, members, name }`; null if it is none. Its data is unchecked. */
export function groupOf({ kind, data }) {
  if (kind !== "group" || typeof data?.group !== "string" || !isName(data.group)) return null;
  const members = Array.isArray(data.members) ? data.members.filter((name) => typeof name === "string" && isName(name)) : [];
  const name = typeof data.name === "string" && data.name ? data.name : null;
  return { group: data.group, members: members.slice(0, MEMBERS_MAX), name };
}

export const feedsOf = ({ feed, feeds }) => feeds ?? [feed];

/** The entry, or what is told of it, as that of one feed only. */
export function inFeed({ feeds, states, ...entry }, feed) {
  if (feed === entry.feed) return entry;
  const { state, marked, ...rest } = entry;
  const there = states?.[feeds.indexOf(feed)];
  return { ...rest, feed, ...(there && { state: there }) };
}

/** What happened in words, and the text of the entry. */
export function wordsOf({ kind, data }) {
  const text = typeof data?.text === "string" ? data.text : null;
  switch (kind) {
    case "message":
      return { verb: "wrote to you", text: text ?? json(data), mark: "message" };
    case "flirt":
      return { verb: "flirts with you", text, mark: "flirt" };
    case "visit":
      return { verb: "visited your profile", text, mark: "visit" };
    case "group": {
      const { members = [], name } = groupOf({ kind, data }) ?? {};
      return { verb: `formed the group${name ? ` “${name}”` : ""}`, text: members.map(shown).join(", "), mark: "message" };
    }
    default:
      return { verb: kind, text: text ?? json(data), mark: "other" };
  }
}

/** Why something failed. */
export const whyOf = (error) => error.detail ?? error.message;

const json = (data) => (data === null || data === undefined ? null : JSON.stringify(data));

export function count(number, what, whats = `${what}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? what : whats}`;
}

/** The middle of a version, which differs most between versions. */
export const shortVersion = (version) => `v…${version.slice(9, 19)}…`;

const STEPS = [
  [60, "s"],
  [60, "m"],
  [24, "h"],
  [7, "d"],
];

/** When it happened, if its producer said so; else when the service accepted it. */
export const whenOf = ({ at, time }) => time ?? at;

/** Both times of an entry, to show on request. */
export const timesOf = ({ at, time }) => (time ? `${time} (accepted ${at})` : at);

/** When an entry was edited, in words; null if it never was. The page that edited it has noted the time in the data. */
export function editedOf({ edited, data }) {
  if (!edited) return null;
  return typeof data?.edited_at === "string" ? `Edited ${data.edited_at}` : "Edited after it was written";
}

/** The age of a time, in short form. */
export function ago(at) {
  let value = (Date.now() - Date.parse(at)) / 1000;
  if (Number.isNaN(value)) return "";
  if (value < 5) return "now";
  for (const [next, unit] of STEPS) {
    if (value < next) return `${Math.floor(value)}${unit}`;
    value /= next;
  }
  return new Date(at).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}
