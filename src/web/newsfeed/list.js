/** A list of entries that stays as the feed is. */

/** Changes and marks told while entries are loaded. If there are more, the entries are loaded again. */
const MEANWHILE_MAX = 1_000;

export class EntryList {
  /** Newest first. Replaced, never changed. */
  #entries;
  #next;
  #stale = false;
  /** The markers of the list's reader in each feed. */
  #markers = new Map();
  /** The call of `older` or `reload` that is running, and what was told since it began; null if none is. */
  #older = null;
  #meanwhile = null;

  constructor({ entries = [], next } = {}) {
    this.#entries = entries;
    this.#next = next;
  }

  get entries() {
    return this.#entries;
  }

  get next() {
    return this.#next;
  }

  get stale() {
    return this.#stale;
  }

  apply(update) {
    const { type } = update;
    if (type === "start" || type === "reset") return this.#clear();
    if (type === "history") {
      this.#next = update.next;
      return this.#put(update.entries);
    }
    if (type === "entry") return this.#put([update.entry]);
    const change = type === "unread" ? this.#moved(update) : ["edited", "erased", "marked"].includes(type) ? update : null;
    if (change === null) return false;
    // A page that is under way may be older than this.
    if (this.#meanwhile && this.#meanwhile.length <= MEANWHILE_MAX) this.#meanwhile.push(change);
    return this.#change(change);
  }

  older(load) {
    return this.#older ?? this.#loading(this.#load(load, false));
  }

  reload(load) {
    return this.#loading(this.#load(load, true));
  }

  trim(max) {
    if (this.#entries.length <= max) return false;
    this.#entries = this.#entries.slice(0, max);
    this.#next = this.#entries.at(-1)?.version;
    return true;
  }

  #loading(load) {
    const loading = load.finally(() => this.#older === loading && (this.#older = this.#meanwhile = null));
    this.#older = loading;
    return loading;
  }

  /** Loads the next page, or the newest one in place of all there is. */
  async #load(load, anew) {
    const before = anew ? undefined : this.#next;
    if (before === null) return false;
    for (;;) {
      const meanwhile = [];
      this.#meanwhile = meanwhile;
      const page = await load(before);
      // What the page continues is not there any more.
      if (this.#meanwhile !== meanwhile || (!anew && this.#next !== before)) return false;
      if (meanwhile.length > MEANWHILE_MAX) continue;
      if (anew) this.#begin(page);
      this.#next = page.next;
      const changed = this.#put(page.entries) || anew;
      for (const update of meanwhile) this.#change(update);
      return changed;
    }
  }

  /** Drops what the page tells anew. */
  #begin({ version }) {
    this.#entries = this.#entries.filter((entry) => entry.version > version);
    this.#stale = false;
  }

  #clear() {
    const had = this.#entries.length > 0;
    this.#entries = [];
    this.#next = undefined;
    this.#stale = false;
    this.#markers.clear();
    this.#older = this.#meanwhile = null;
    return had;
  }

  /** Whether any of the entries was not there, or is newer than what was there. */
  #put(entries) {
    const all = [...this.#entries];
    let changed = false;
    for (const entry of entries) {
      const at = place(all, entry.version);
      const there = all[at]?.version === entry.version;
      if (there && revisionOf(all[at]) >= revisionOf(entry)) continue;
      all.splice(at, there ? 1 : 0, there ? { ...stateOf(all[at]), ...entry } : entry);
      changed = true;
    }
    if (changed) this.#entries = all;
    return changed;
  }

  /** Which markers of a feed have moved, and where to; null if none has. */
  #moved({ type, feed, markers }) {
    const { read, archived = null } = markers;
    const before = this.#markers.get(feed);
    if (before?.read === read && before.archived === archived) return null;
    this.#markers.set(feed, { read, archived });
    if (before) return { type, feed, read, archived: archived === before.archived ? null : archived };
    // What was read after the last archiving cannot be told from what was read before it.
    const isUnclear = ({ state, marked, version }) => state === "read" && archived && (marked ?? version) <= archived;
    this.#stale ||= this.#entries.some(isUnclear);
    return { type, feed, read, archived: null };
  }

  #change(update) {
    if (update.type === "unread") return this.#marked(update.feed, (entry) => afterMarkers(entry, update));
    if (update.type === "marked") return this.#mark(update);
    const { type, entry } = update;
    const at = place(this.#entries, entry.version);
    const old = this.#entries[at];
    if (old?.version !== entry.version) return false;
    if (type === "edited") return this.#put([entry]);
    // In other feeds of the list it may still be there.
    const left = without(old, feedsOf(entry));
    this.#entries = this.#entries.toSpliced(at, 1, ...(left ? [left] : []));
    return true;
  }

  #mark({ feed, entry: version, state, marked }) {
    // There were too many to tell.
    if (version === null) {
      this.#stale = true;
      return false;
    }
    const isOlder = (entry) => entry.marked !== undefined && entry.marked > marked;
    return this.#marked(feed, (entry) => (entry.version === version && !isOlder(entry) ? { state, marked } : entry));
  }

  /** Takes the state and the mark that `change` gives each entry of the feed. */
  #marked(feed, change) {
    const entries = this.#entries.map((entry) => inState(entry, feed, change));
    if (entries.every((entry, at) => entry === this.#entries[at])) return false;
    this.#entries = entries;
    return true;
  }
}

const feedsOf = ({ feed, feeds }) => feeds ?? (feed === undefined ? [] : [feed]);
/** The entry as it stands in its other feeds; null if there are none. */
function without(entry, gone) {
  const { feed, feeds, state, marked, states, ...rest } = entry;
  const left = feedsOf(entry).flatMap((feed, at) => (gone.includes(feed) ? [] : [{ feed, state: states?.[at] }]));
  if (left.length === 0) return null;
  const several = left.length > 1 && { feeds: left.map(({ feed }) => feed), ...(states && { states: left.map(({ state }) => state) }) };
  const first = left[0].feed === feed ? { state, marked } : { state: left[0].state ?? undefined };
  const told = Object.fromEntries(Object.entries(first).filter(([, value]) => value !== undefined));
  return { feed: left[0].feed, ...several, ...told, ...rest };
}

/** What an edit does not change. */
function stateOf({ state, marked, states }) {
  return { ...(state && { state }), ...(marked && { marked }), ...(states && { states }) };
}

/** The entry with the state that `change` makes of `{ version, state, marked }` in the feed. */
function inState(entry, feed, change) {
  const feeds = feedsOf(entry);
  const at = feeds.length > 0 ? feeds.indexOf(feed) : 0;
  const isFirst = at === 0;
  const state = isFirst ? entry.state : entry.states?.[at];
  if (!state) return entry;
  const { version } = entry;
  const before = isFirst ? { version, state, marked: entry.marked } : { version, state };
  const after = change(before);
  if (after === before || (after.state === state && after.marked === before.marked)) return entry;
  const states = entry.states && { states: entry.states.with(at, after.state) };
  if (!isFirst) return { ...entry, ...states };
  return { ...entry, state: after.state, ...(after.marked && { marked: after.marked }), ...states };
}

/** Marked unread later than the marker says, an entry stays unread; marked read later, it is not archived with the others. */
function afterMarkers(entry, { read, archived }) {
  const since = entry.marked ?? entry.version;
  let { state } = entry;
  if (state === "unread" && read && since <= read) state = "read";
  if (state === "read" && archived && since <= archived) state = "archived";
  return state === entry.state ? entry : { ...entry, state };
}

const revisionOf = ({ version, edited }) => edited ?? version;

/** The index of the entry with this version, or where it belongs. */
function place(entries, version) {
  let [low, high] = [0, entries.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (entries[middle].version > version) low = middle + 1;
    else high = middle;
  }
  return low;
}
