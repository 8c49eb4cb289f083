/** The buttons with which a person marks single entries: as read or unread, archived or not. */

import { h, icon } from "./dom.js";
import { wordsOf } from "./words.js";

/** Each: what it does, its name, its icon, and for which entries it is there. */
const MARKS = {
  unread: [{ read: false }, "Mark as unread", "unread", ({ state }, mine) => state !== "unread" && !mine],
  read: [{ read: true }, "Mark as read", "read", ({ state }) => state === "unread"],
  archive: [{ archived: true }, "Archive", "archive", ({ state }) => state !== "archived"],
  restore: [{ archived: false }, "Take out of the archive", "restore", ({ state }) => state === "archived"],
};

/**
 * The buttons for an entry, or null if it has no state. `names` are those of MARKS that may be there; `act(entry, change)`
 * does what was clicked.
 */
export function marks(entry, names, mine, act) {
  if (!entry.state) return null;
  const { verb, text } = wordsOf(entry);
  const button = ([change, name, picture]) =>
    h("button", { class: "quiet", title: name, "aria-label": `${name}: ${text ?? verb}`, onclick: () => act(entry, change) }, icon(picture));
  return h("span", { class: "marks" }, ...names.map((name) => MARKS[name]).filter(([, , , isThere]) => isThere(entry, mine)).map(button));
}
