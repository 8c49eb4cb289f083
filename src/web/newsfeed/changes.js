/** Edits and erasures of earlier entries, which are told beside new entries. */

/** Where an entry, or what is told of a change, stands in the order. A change has a version of its own. */
export const placeOf = (told) => (told.change ? told[told.change] : told.version);

/** The update that tells `told`, which is an entry or a change. */
export function updateOf({ change, ...entry }, more) {
  return { type: change ?? "entry", entry, ...more };
}

/** What a page that was read with `after` tells, in the order in which a follower would have told it. */
export function newsOf({ entries, changes = [] }) {
  const told = [...entries, ...changes].sort((a, b) => (placeOf(a) < placeOf(b) ? -1 : 1));
  return told.map((one) => updateOf(one));
}
