// The list of entries that the library keeps, and the order of the news of a page. No service is needed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { EntryList, newsOf } from "../../src/web/newsfeed.js";

const version = (n) => String(n).padStart(26, "0");
const entry = (n, more) => ({ feed: "a", version: version(n), id: `e-${n}`, kind: "message", data: n, ...more });
const history = (entries, next = null) => ({ type: "history", version: version(999), entries, next });
const edited = (n, at, data) => ({ type: "edited", entry: entry(n, { edited: version(at), data }) });
const erased = (n, at, more) => ({ type: "erased", entry: { feed: "a", version: version(n), erased: version(at), id: `e-${n}`, kind: "message", ...more } });
const data = (list) => list.entries.map(({ data }) => data);

test("updates are applied once, whatever was there, and a new array says so", () => {
  const list = new EntryList();
  assert.deepEqual([list.entries, list.next], [[], undefined]);
  list.apply({ type: "start", version: version(9), since: null });
  assert.equal(list.apply(history([entry(5), entry(3)], version(3))), true);
  const before = list.entries;
  for (const [update, changes] of [
    [{ type: "entry", entry: entry(7) }, true],
    [{ type: "entry", entry: entry(7) }, false],
    [edited(3, 8, "three"), true],
    [edited(3, 8, "three"), false],
    // What a page has shown is newer than what is told later.
    [{ type: "entry", entry: entry(3) }, false],
    [edited(3, 7, "older"), false],
    [erased(5, 9), true],
    [erased(5, 9), false],
    // About entries that the list does not have.
    [edited(1, 10, "one"), false],
    [erased(2, 11), false],
    [{ type: "version", version: version(12) }, false],
    [{ type: "status", state: "live" }, false],
  ]) {
    const { entries } = list;
    assert.equal(list.apply(update), changes, JSON.stringify(update));
    assert.equal(list.entries !== entries, changes);
  }
  assert.deepEqual(data(list), [7, "three"]);
  assert.deepEqual(before.map(({ data }) => data), [5, 3]);
  assert.equal(list.apply({ type: "reset" }), true);
  assert.deepEqual([list.entries, list.next], [[], undefined]);
});

test("an entry erased from one of several feeds stays in the others", () => {
  const list = new EntryList();
  list.apply(history([entry(1, { feeds: ["a", "b", "c"] })]));
  list.apply(erased(1, 2, { feeds: ["a"] }));
  assert.deepEqual(list.entries, [{ ...entry(1), feed: "b", feeds: ["b", "c"] }]);
  list.apply(erased(1, 3, { feed: "c" }));
  assert.deepEqual(list.entries, [{ ...entry(1), feed: "b" }]);
  list.apply(erased(1, 4, { feed: "b" }));
  assert.deepEqual(list.entries, []);
});

test("older entries are loaded once at a time, and down to the first", async () => {
  const list = new EntryList();
  list.apply(history([entry(9)], version(9)));
  const asked = [];
  const load = async (before) => (asked.push(before), before === version(9) ? history([entry(8), entry(7)], version(7)) : history([entry(1)]));
  const both = [list.older(load), list.older(load)];
  assert.deepEqual(await Promise.all(both), [true, true]);
  assert.equal(await list.older(load), true);
  assert.equal(await list.older(load), false);
  assert.deepEqual(asked, [version(9), version(7)]);
  assert.deepEqual(data(list), [9, 8, 7, 1]);
  assert.equal(list.trim(2), true);
  assert.deepEqual([data(list), list.next, list.trim(2)], [[9, 8], version(8), false]);
  await assert.rejects(list.older(() => Promise.reject(new Error("away"))), { message: "away" });
  assert.equal(await list.older(async () => history([entry(7)], version(7))), true);
  assert.deepEqual(data(list), [9, 8, 7]);
});

test("what is told while older entries are loaded is not lost", async () => {
  const list = new EntryList();
  list.apply(history([entry(9)], version(9)));
  const told = async (updates, page) => {
    const loading = list.older(async () => (await null, page));
    for (const update of updates) list.apply(update);
    return loading;
  };
  // The page was read before they were made.
  await told([edited(8, 20, "eight"), erased(7, 21), { type: "entry", entry: entry(22) }], history([entry(8), entry(7), entry(6)], version(6)));
  assert.deepEqual(data(list), [22, 9, "eight", 6]);
  // Read after they were made, and even later.
  await told([edited(5, 23, "five"), erased(4, 25)], history([entry(5, { edited: version(24), data: "FIVE" })], version(5)));
  assert.deepEqual(data(list), [22, 9, "eight", 6, "FIVE"]);

  // More than it remembers: the page is read again.
  let loads = 0;
  const many = Array.from({ length: 2_000 }, (_, n) => edited(3, 100 + n, `three ${n}`));
  await list.older(async () => {
    loads += 1;
    if (loads === 1) for (const update of many) list.apply(update);
    return history([loads === 1 ? entry(3) : many.at(-1).entry], version(3));
  });
  assert.deepEqual([loads, list.entries.at(-1).data], [2, "three 1999"]);

  // The list begins anew, or is cut, meanwhile: the page is not put behind a gap.
  const stale = () => history([entry(2)], version(2));
  const cut = list.older(async () => stale());
  list.trim(2);
  assert.equal(await cut, false);
  assert.deepEqual(data(list), [22, 9]);
  const cleared = list.older(async () => stale());
  list.apply({ type: "reset" });
  assert.equal(await cleared, false);
  assert.deepEqual([list.entries, list.next], [[], undefined]);
});

test("a list with random histories, changes and pages under way is what the feed is in the end", async () => {
  let seed = 1;
  const random = (below) => (seed = (seed * 48_271) % 2_147_483_647) % below;
  for (let round = 0; round < 300; round += 1) {
    const feed = new Map();
    let now = 0;
    const told = [];
    const act = () => {
      now += 1;
      const [victim] = [...feed.keys()].slice(random(feed.size + 1));
      if (victim === undefined || random(3) === 0) {
        feed.set(now, entry(now));
        told.push({ type: "entry", entry: feed.get(now) });
      } else if (random(2) === 0) {
        feed.set(victim, entry(victim, { edited: version(now), data: `edit ${now}` }));
        told.push({ type: "edited", entry: feed.get(victim) });
      } else {
        feed.delete(victim);
        told.push(erased(victim, now));
      }
    };
    const page = (before = version(10_000)) => {
      const all = [...feed.values()].filter((one) => one.version < before).sort((a, b) => (a.version < b.version ? 1 : -1));
      const entries = all.slice(0, 2);
      return history(entries, all.length > 2 ? entries.at(-1).version : null);
    };
    const list = new EntryList();
    const hear = () => told.splice(0, random(told.length + 1)).forEach((update) => list.apply(update));
    for (let n = 0; n < 15; n += 1) act();
    told.length = 0;
    list.apply(page());
    for (let n = 0; n < 20; n += 1) {
      act();
      if (random(2)) hear();
      if (random(3)) continue;
      const loading = list.older(async (before) => {
        const read = page(before);
        for (let more = random(4); more > 0; more -= 1) act();
        hear();
        return read;
      });
      hear();
      await loading;
    }
    told.forEach((update) => list.apply(update));
    while (list.next !== null) await list.older(async (before) => page(before));
    assert.deepEqual(list.entries, [...feed.values()].sort((a, b) => (a.version < b.version ? 1 : -1)), `round ${round}`);
  }
});

const markers = (read, archived = null, feed = "a") => ({
  type: "unread",
  feed,
  unread: {},
  markers: { read: read && version(read), seen: null, archived: archived && version(archived) },
});
const marked = (n, state, at, feed = "a") => ({ type: "marked", feed, entry: version(n), state, marked: version(at) });
const states = (list) => list.entries.map(({ state }) => state).join(" ");

test("the states of entries follow the markers and the marks of their reader", () => {
  const list = new EntryList();
  list.apply(markers(1));
  const before = [entry(5, { state: "unread" }), entry(4), entry(3, { state: "unread" }), entry(2, { state: "unread", marked: version(6) }), entry(1, { state: "read" })];
  list.apply(history(before));
  for (const [update, wanted, changes = true] of [
    [markers(1), "unread  unread unread read", false],
    [markers(3), "unread  read unread read"],
    [marked(3, "unread", 7), "unread  unread unread read"],
    [marked(4, "read", 7), "unread  unread unread read", false],
    // Marked unread later than the marker says.
    [markers(5), "read  unread unread read"],
    [markers(6), "read  unread read read"],
    [markers(7), "read  read read read"],
    [marked(5, "archived", 8), "archived  read read read"],
    [marked(5, "archived", 8), "archived  read read read", false],
    [marked(5, "unread", 7), "archived  read read read", false],
    [marked(1, "read", 20), "archived  read read read"],
    // What was marked read later is not archived with the others.
    [markers(7, 10), "archived  archived archived read"],
    [marked(2, "read", 21), "archived  archived read read"],
    [marked(8, "read", 22), "archived  archived read read", false],
    [marked(5, "unread", 23, "b"), "archived  archived read read", false],
    // What is read after the last archiving stays.
    [{ type: "entry", entry: entry(9, { state: "unread" }) }, "unread archived  archived read read"],
    [markers(9, 10), "read archived  archived read read"],
    // An edit is no mark.
    [{ type: "edited", entry: entry(3, { edited: version(24), data: "three" }) }, "read archived  archived read read"],
  ]) {
    const { entries } = list;
    assert.equal(list.apply(update), changes, JSON.stringify(update));
    assert.equal(list.entries !== entries, changes);
    assert.equal(states(list), wanted, JSON.stringify(update));
  }
  assert.deepEqual([list.entries[3].data, list.entries[4].marked, list.stale], ["three", version(21), false]);
  assert.equal(before[0].state, "unread");
});

test("an entry in several feeds has a state in each", () => {
  const list = new EntryList();
  list.apply(history([entry(1, { feeds: ["a", "b", "c"], state: "unread", states: ["unread", "unread", null] })]));
  list.apply(marked(1, "archived", 5, "b"));
  assert.deepEqual([list.entries[0].state, list.entries[0].states, list.entries[0].marked], ["unread", ["unread", "archived", null], undefined]);
  list.apply(markers(3));
  list.apply(markers(3, null, "c"));
  assert.deepEqual([list.entries[0].state, list.entries[0].states], ["read", ["read", "archived", null]]);
  list.apply(marked(1, "unread", 6));
  list.apply(erased(1, 7, { feed: "c" }));
  assert.deepEqual(list.entries, [entry(1, { feeds: ["a", "b"], state: "unread", marked: version(6), states: ["unread", "archived"] })]);
  list.apply(erased(1, 7, { feed: "a" }));
  assert.deepEqual(list.entries, [entry(1, { feed: "b", state: "archived" })]);
});

test("a list that has missed marks is read again, and what is told meanwhile is not lost", async () => {
  const list = new EntryList();
  list.apply(history([entry(5, { state: "unread" }), entry(3, { state: "unread" })], version(3)));
  assert.equal(list.apply({ type: "marked", feed: "a", entry: null }), false);
  assert.equal(list.stale, true);
  const load = async (before) => {
    assert.equal(before, undefined);
    list.apply({ type: "entry", entry: entry(12, { state: "unread" }) });
    list.apply(marked(4, "unread", 13));
    list.apply(erased(3, 14));
    return { ...history([entry(5, { state: "archived" }), entry(4, { state: "read" }), entry(3, { state: "read" })], version(2)), version: version(10) };
  };
  assert.equal(await list.reload(load), true);
  assert.deepEqual([data(list), states(list), list.stale, list.next], [[12, 5, 4], "unread archived unread", false, version(2)]);
  // A page that was under way continues nothing.
  const older = list.older(async () => history([entry(1)]));
  await list.reload(async () => ({ ...history([entry(5)]), version: version(12) }));
  assert.deepEqual([await older, data(list)], [false, [5]]);

  // What was kept over a restart: whether it was read before or after the last archiving is unknown.
  for (const [archived, stale] of [[null, false], [2, false], [3, true]]) {
    const kept = new EntryList({ entries: [entry(3, { state: "read" })], next: null });
    assert.equal(kept.apply(markers(4, archived)), false);
    assert.equal(kept.stale, stale);
  }
});

test("the news of a page come in the order of their versions", () => {
  const { entry: edit } = edited(2, 5, "two");
  const { entry: erasure } = erased(1, 3);
  const page = {
    entries: [entry(2, { edited: version(5), data: "two" }), entry(4), entry(6)],
    changes: [{ change: "erased", ...erasure }, { change: "edited", ...edit }],
  };
  const news = newsOf(page);
  assert.deepEqual(news.map(({ type, entry }) => [type, entry.id]), [["entry", "e-2"], ["erased", "e-1"], ["entry", "e-4"], ["edited", "e-2"], ["entry", "e-6"]]);
  assert.deepEqual([news[1].entry, news[3].entry], [erasure, edit]);
  assert.deepEqual(newsOf({ entries: [] }), []);
});
