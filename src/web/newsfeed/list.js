/** A list of entries that stays as the feed is. */

/** Changes told while older entries are loaded. If there are more, the older entries are loaded again. */
const MEANWHILE_MAX = 1_000;

export class EntryList {
  /** Newest first. Replaced, never changed. */
  #entries;
  #next;
  /** The call of `older` that is running, and the changes told since it began; null if none is. */
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

  apply(update) {
    const { type } = update;
    if (type === "start" || type === "reset") return this.#clear();
    if (type === "history") {
      this.#next = update.next;
      return this.#put(update.entries);
    }
    if (type === "entry") return this.#put([update.entry]);
    if (type !== "edited" && type !== "erased") return false;
    // A page that is under way may be older than this.
    if (this.#meanwhile && this.#meanwhile.length <= MEANWHILE_MAX) this.#meanwhile.push(update);
    return this.#change(update);
  }

  older(load) {
    if (!this.#older) {
      const older = this.#load(load).finally(() => this.#older === older && (this.#older = this.#meanwhile = null));
      this.#older = older;
    }
    return this.#older;
  }

  trim(max) {
    if (this.#entries.length <= max) return false;
    this.#entries = this.#entries.slice(0, max);
    this.#next = this.#entries.at(-1)?.version;
    return true;
  }

  async #load(load) {
    const before = this.#next;
    if (before === null) return false;
    for (;;) {
      const meanwhile = [];
      this.#meanwhile = meanwhile;
      const page = await load(before);
      // What the page continues is not there any more.
      if (this.#meanwhile !== meanwhile || this.#next !== before) return false;
      if (meanwhile.length > MEANWHILE_MAX) continue;
      this.#next = page.next;
      const changed = this.#put(page.entries);
      for (const update of meanwhile) this.#change(update);
      return changed;
    }
  }

  #clear() {
    const had = this.#entries.length > 0;
    this.#entries = [];
    this.#next = undefined;
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
      all.splice(at, there ? 1 : 0, entry);
      changed = true;
    }
    if (changed) this.#entries = all;
    return changed;
  }

  #change({ type, entry }) {
    const at = place(this.#entries, entry.version);
    const old = this.#entries[at];
    if (old?.version !== entry.version) return false;
    if (type === "edited") return this.#put([entry]);
    // In other feeds of the list it may still be there.
    const feeds = feedsOf(old).filter((feed) => !feedsOf(entry).includes(feed));
    const { feed, feeds: several, ...rest } = old;
    const left = feeds.length > 0 ? [{ feed: feeds[0], ...(feeds.length > 1 && { feeds }), ...rest }] : [];
    this.#entries = this.#entries.toSpliced(at, 1, ...left);
    return true;
  }
}

const feedsOf = ({ feed, feeds }) => feeds ?? (feed === undefined ? [] : [feed]);
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
