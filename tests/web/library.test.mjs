// The client library with a real service.
import assert from "node:assert/strict";
import { cp, rm } from "node:fs/promises";
import { after, before, test } from "node:test";
import { EntryList, Newsfeed, NewsfeedError, newsOf } from "../../src/web/newsfeed.js";
import { Collector, Service, until } from "./harness.mjs";

let service;
let newsfeed;
before(async () => {
  service = await Service.start();
  newsfeed = new Newsfeed({ url: service.url, random: () => 0 });
});
after(() => service.stop());

const visits = (prefix, count) => Array.from({ length: count }, (_, n) => ({ id: `${prefix}-${n}`, kind: "visit" }));
const ids = (events) => events.map(({ id }) => id);

test("an event that says when it happened has that time in pages, streams and transients", async () => {
  const feed = newsfeed.feed("user:timed");
  const time = "2004-04-15T16:56:01.500+02:00";
  const { version } = await feed.state();
  const follow = feed.live({ after: version });
  const kinds = [];
  for await (const update of follow) {
    if (update.type === "status" && update.state === "live") {
      await feed.transient({ kind: "typing", time });
      await feed.append([{ kind: "message", time }, { kind: "visit" }]);
    }
    const it = update.entry ?? update.signal;
    if (it) kinds.push([it.kind, it.time]);
    if (kinds.length === 3) break;
  }
  assert.deepEqual(kinds.sort(), [["message", time], ["typing", time], ["visit", undefined]]);
  const { entries } = await feed.page();
  assert.deepEqual(entries.map((entry) => entry.time), [undefined, time]);
});

test("an event is appended once, alone or among others, and gets an id if it has none", async () => {
  const feed = newsfeed.feed("user:append");
  const event = { id: "append-1", kind: "message", data: { text: "hi" } };
  const first = await feed.append(event);
  assert.deepEqual(await feed.append(event), { ...first, status: "duplicate" });
  const made = await feed.append([{ kind: "visit" }, { kind: "visit" }]);
  assert.equal(new Set(ids(made)).size, 2);
  const pages = await collect(feed.history());
  assert.deepEqual(ids(pages[0].entries), [made[1].id, made[0].id, "append-1"]);
});

test("events of an atomic append are all there or none is", async () => {
  const slots = ["slot:6", "slot:7"];
  const book = (who) => slots.map((feed) => ({ id: `${who}-${feed}`, kind: "booking", feeds: [feed], expect: { feed, version: null } }));
  const booked = await newsfeed.append(book("anna"), { atomic: true });
  assert.deepEqual(booked.map(({ id, status }) => [id, status]), [["anna-slot:6", "appended"], ["anna-slot:7", "appended"]]);
  assert.deepEqual((await newsfeed.append(book("anna"), { atomic: true })).map(({ status }) => status), ["duplicate", "duplicate"]);
  const failure = await newsfeed.append([{ kind: "visit", feeds: ["slot:8"] }, ...book("ben")], { atomic: true }).catch((error) => error);
  assert.deepEqual([failure.code, failure.problem.index, failure.problem.feed], ["version_conflict", 1, "slot:6"]);
  const expect = [{ feed: "slot:8", version: null }, { feed: "slot:7", version: null }];
  const other = newsfeed.feed("slot:8").append([{ kind: "visit" }], { atomic: true, expect });
  await assert.rejects(other, (error) => error.code === "version_conflict" && error.problem.expect_index === 1);
  assert.equal((await newsfeed.feed("slot:8").state()).latest, null);
});

test("an event is found by its id, whatever characters it has", async () => {
  const id = "https://example.social/notes/1?a=b c&d";
  const { version } = await newsfeed.append({ id, kind: "visit", feeds: ["found:2", "found:1"], data: 1 });
  const { at, ...event } = await newsfeed.event(id);
  assert.deepEqual(event, { feeds: ["found:2", "found:1"], version, id, kind: "visit", actor: null, data: 1 });
  assert.equal(await newsfeed.event("missing"), null);
  await assert.rejects(newsfeed.event(""), { code: "invalid_id" });
});

test("the states of several feeds take one request, also with long names", async () => {
  for (const name of ["several", "ü".repeat(100)]) {
    const names = Array.from({ length: 100 }, (_, n) => `${name}:${n}`);
    await newsfeed.feed(names[7]).append({ kind: "message" });
    const requests = [];
    const counting = new Newsfeed({ url: service.url, fetch: (url, init) => (requests.push(init.method), fetch(url, init)) });
    const { version, feeds } = await counting.feeds(names).state();
    assert.deepEqual(feeds.map(({ feed }) => feed), names);
    assert.ok(feeds.every((state) => state.version === version));
    assert.deepEqual(feeds.map(({ unread }) => unread.total).filter((total) => total > 0), [1]);
    assert.deepEqual(requests, [name === "several" ? "GET" : "POST"]);
    requests.length = 0;
    for await (const update of counting.feeds(names).follow({ history: 0 })) if (update.type === "version") break;
    // The states and the stream.
    assert.equal(requests.length, 2, requests.join());
  }
});

test("the states of more feeds than a request takes come in blocks, and follow their earliest version", async () => {
  const names = Array.from({ length: 2_001 }, (_, n) => `block:${n}`);
  const requests = [];
  const counting = new Newsfeed({ url: service.url, fetch: (url, init) => (requests.push(init.method), fetch(url, init)) });
  const { version, feeds } = await counting.feeds([...names, names[0]]).state();
  assert.deepEqual(feeds.map(({ feed }) => feed), names);
  assert.deepEqual(requests, ["POST", "POST", "GET"]);
  assert.ok(feeds.every((state) => state.version >= version) && feeds[0].version === version);
});

async function collect(iterable) {
  const all = [];
  for await (const item of iterable) all.push(item);
  return all;
}

test("errors have a status, a code and a detail", async () => {
  const failure = await newsfeed.feed(" space first").state().catch((error) => error);
  assert.ok(failure instanceof NewsfeedError);
  assert.deepEqual([failure.status, failure.code, failure.temporary], [400, "invalid_feed", false]);
  assert.match(failure.detail, /must not begin or end with a space/);
  const reused = newsfeed.append({ id: "append-1", kind: "visit", feeds: ["user:other"] });
  await assert.rejects(reused, { status: 409, code: "id_reused" });
  const nobody = new Newsfeed({ url: "http://127.0.0.1:1" }).feed("a").state({ patience: 0 });
  await assert.rejects(nobody, { status: 0, code: "network", temporary: true });
  await assert.rejects(new Collector(newsfeed.feed(" space first").follow()).done, { code: "invalid_feed" });
});

test("history pages reach the first entry, of one feed and of several", async () => {
  const events = visits("paged", 23);
  await newsfeed.feeds(["user:paged", "user:paged2"]).append(events);
  for (const feed of [newsfeed.feed("user:paged"), newsfeed.feeds(["user:paged", "user:paged2"])]) {
    const { version } = await feed.state();
    await newsfeed.feed("user:paged").append({ id: `later-${version}`, kind: "visit" });
    const pages = await collect(feed.history({ until: version, limit: 10 }));
    assert.ok(pages.every((page) => page.version <= version));
    const all = pages.flatMap(({ entries }) => ids(entries)).filter((id) => !id.startsWith("later"));
    assert.deepEqual(all, ids(events).reverse());
    assert.equal(pages.at(-1).next, null);
  }
});

test("a follower gets the history up to vN and everything after it, once, in order", async () => {
  const feed = newsfeed.feed("user:joined");
  const events = visits("joined", 450);
  await feed.append(events.slice(0, 440));
  const all = new Collector(feed.follow({ history: Infinity }));
  const some = new Collector(feed.follow({ history: 7 }));
  const live = new Collector(feed.live());
  const rest = new Collector(feed.live({ after: "0" }));
  for (const follower of [all, some, live, rest]) await follower.live();
  for (const event of events.slice(440)) await feed.append(event);
  await feed.transient({ kind: "typing", actor: "user:a" });
  for (const [follower, wanted] of [[all, events], [some, events.slice(433)], [live, events.slice(440)], [rest, events]]) {
    await follower.until("the transient", () => follower.of("transient").length);
    assert.equal(follower.of("transient")[0].signal.actor, "user:a");
    await follower.close();
    assert.deepEqual(follower.ids, ids(wanted));
  }
  assert.equal(all.of("history").length, 3);
  assert.deepEqual(rest.of("status").at(-1).caughtUp, 440);
});

test("a follower of some kinds is sent only these, in the history and live", async () => {
  const urls = [];
  const counting = new Newsfeed({ url: service.url, fetch: (url, init) => (urls.push(String(url)), fetch(url, init)) });
  const feed = counting.feed("user:kinds");
  const kinds = ["visit", "message", "flirt"];
  const events = Array.from({ length: 30 }, (_, n) => ({ id: `kinds-${n}`, kind: kinds[n % 3] }));
  await feed.append(events.slice(0, 15));
  const wanted = (...some) => ids(events.filter(({ kind }) => some.includes(kind)));
  const one = new Collector(feed.follow({ kind: "flirt" }));
  const two = new Collector(counting.feeds(["user:kinds", "user:kinds2"]).follow({ kind: ["visit", "message"], history: 3 }));
  const live = new Collector(feed.live({ kind: "message", after: "0" }));
  for (const follower of [one, two, live]) await follower.live();
  await feed.append(events.slice(15));
  await feed.append({ id: "kinds-end", kind: "flirt" });
  await one.until("the end", () => one.ids.includes("kinds-end"));
  await two.until("the last message", () => two.ids.includes("kinds-28"));
  await live.until("the last message", () => live.ids.includes("kinds-28"));
  for (const follower of [one, two, live]) await follower.close();
  assert.deepEqual(one.ids, [...wanted("flirt"), "kinds-end"]);
  assert.deepEqual(two.ids, wanted("visit", "message").slice(-13));
  assert.deepEqual(live.ids, wanted("message"));
  const streams = urls.filter((url) => url.includes("/live?"));
  assert.ok(streams.length >= 3 && streams.every((url) => url.includes("kind=")), streams.join());
});

test("several feeds are merged, and an entry in two of them is yielded once", async () => {
  const merged = newsfeed.feeds(["user:m1", "user:m2"]);
  await merged.append({ id: "m-both", kind: "message" });
  const follower = new Collector(merged.follow());
  await follower.live();
  await newsfeed.feed("user:m2").append({ id: "m-2", kind: "message" });
  await merged.append({ id: "m-both-2", kind: "message" });
  await follower.until("badges", () => follower.badges.get("user:m1") === 2 && follower.badges.get("user:m2") === 3);
  await follower.close();
  assert.deepEqual(follower.ids, ["m-both", "m-2", "m-both-2"]);
});

test("all clients of a feed have the same badge, whenever they joined", async () => {
  const feed = newsfeed.feed("user:badge");
  await feed.append(Array.from({ length: 5 }, () => ({ kind: "message" })));
  const followers = [new Collector(feed.follow()), new Collector(feed.follow({ history: 0 }))];
  for (const follower of followers) await follower.live();
  const { version } = await feed.append({ kind: "message" });
  await feed.append([{ kind: "message" }, { kind: "flirt" }]);
  followers.push(new Collector(feed.live()));
  const all = (total) => Promise.all(followers.map((one) => one.until(`${total} unread`, () => one.badges.get("user:badge") === total)));
  await all(7);
  const state = await feed.markRead(version);
  assert.deepEqual([state.unread.total, state.markers.read], [1, version]);
  await all(1);
  await feed.append({ kind: "message" });
  await all(2);
  for (const follower of followers) await follower.close();
});

test("a named cursor continues after the last confirmed entry", async () => {
  const feed = newsfeed.feed("user:cursor");
  const kept = new Map();
  const storage = { getItem: async (key) => kept.get(key) ?? null, setItem: async (key, value) => void kept.set(key, value) };
  const options = { cursor: "worker", storage, history: 0 };
  const first = new Collector(feed.follow(options));
  await first.live();
  const events = visits("cursor", 9);
  await feed.append(events.slice(0, 3));
  await first.until("three", () => first.ids.length === 3);
  await until("the cursor is kept", () => [...kept.values()][0] >= first.of("entry")[2].entry.version);
  await first.close();
  await feed.append(events.slice(3));

  const seen = [];
  for await (const update of feed.follow(options)) {
    if (update.type !== "entry") continue;
    seen.push(update.entry.id);
    if (seen.length === 2) break; // The second is not confirmed: the loop does not ask for more.
  }
  assert.deepEqual(seen, ["cursor-3", "cursor-4"]);
  const last = new Collector(feed.follow(options));
  await last.until("the rest", () => last.ids.length === 5);
  await last.close();
  assert.deepEqual(last.ids, ids(events.slice(4)));
  const page = new Collector(feed.follow({ ...options, history: 4 }));
  await page.live();
  await page.close();
  const { since, version } = page.of("start")[0];
  assert.ok(since >= last.of("entry").at(-1).entry.version && since <= version);
  assert.equal(page.ids.length, 4);
});

test("edits and erasures reach followers, pages, the log, lists and badges, also after a while offline", async () => {
  const names = ["user:changes", "chat:changes"];
  const merged = newsfeed.feeds(names);
  await merged.append(["e-1", "e-2", "e-3", "e-4"].map((id) => ({ id, kind: "message", data: "first" })));
  const kept = new Map();
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => void kept.set(key, value) };
  const options = { cursor: "list", storage, history: 0 };
  const list = new EntryList();
  await list.older((before) => merged.page({ before }));
  // This one goes offline, with its list and its cursor.
  const offline = new Collector(merged.follow(options));
  await offline.live();
  await until("the cursor is kept", () => kept.size === 1);
  await offline.close();
  const followers = [new Collector(newsfeed.feed(names[0]).follow()), new Collector(merged.follow())];
  for (const follower of followers) await follower.live();
  const log = { feed: names, kind: "message" };
  const { version: before } = await newsfeed.log(log).page({ limit: 1 });
  const worker = new Collector(newsfeed.log(log).follow({ after: before }));

  const one = await newsfeed.edit("e-1", "second");
  assert.deepEqual([one.id, one.status], ["e-1", "edited"]);
  const { version: revision } = await newsfeed.event("e-2");
  const two = await newsfeed.edit("e-2", "second", { change: "c", revision });
  assert.deepEqual(await newsfeed.edit("e-2", "second", { change: "c", revision }), { ...two, status: "duplicate" });
  const late = newsfeed.edit("e-2", "third", { revision: one.version });
  await assert.rejects(late, (error) => error.code === "revision_conflict" && error.problem.current > one.edited);
  const three = await newsfeed.erase("e-3");
  assert.equal(three.status, "erased");
  assert.deepEqual(await newsfeed.erase("e-3"), { id: "e-3", status: "duplicate", version: three.version });
  await assert.rejects(newsfeed.edit("e-3", "back"), { status: 410, code: "event_erased" });
  await assert.rejects(newsfeed.erase("missing"), { status: 404, code: "event_not_found" });
  assert.deepEqual((await merged.append({ id: "e-3", kind: "message", data: "first" })).status, "erased");
  assert.equal(await newsfeed.event("e-3"), null);
  const { status, erased } = await newsfeed.eraseAll({ events: ["e-4"] });
  assert.deepEqual([status, erased], ["done", 1]);
  await merged.append({ id: "e-5", kind: "message", data: "first" });

  const wanted = [["edited", "e-1"], ["edited", "e-2"], ["erased", "e-3"], ["erased", "e-4"]];
  const changesOf = ({ updates }, item) => updates.filter(({ type }) => type === "edited" || type === "erased").map((update) => [update.type, update[item].id]);
  for (const follower of followers) {
    await follower.until("the last entry", () => follower.of("entry").length === 1);
    await follower.until("the badge", () => follower.badges.get(names[0]) === 3);
    await follower.close();
    assert.deepEqual(changesOf(follower, "entry"), wanted);
  }
  const [edited] = followers[1].of("edited");
  assert.deepEqual([edited.entry.feeds, edited.entry.version, edited.entry.edited, edited.entry.data], [names, one.version, one.edited, "second"]);
  await worker.until("the last event", () => worker.of("event").length === 1);
  await worker.close();
  assert.deepEqual(changesOf(worker, "event"), wanted);
  assert.deepEqual(worker.of("erased")[0].event.feeds, names);
  const inLog = await collect(newsfeed.log(log).events({ after: before }));
  assert.deepEqual(inLog.map(({ change, id }) => [change ?? "entry", id]), [...wanted, ["entry", "e-5"]]);

  // By pages and by a stream, each from its own copy of the list.
  const current = (await merged.page()).entries;
  assert.deepEqual(current.map(({ id, data }) => [id, data]), [["e-5", "first"], ["e-2", "second"], ["e-1", "second"]]);
  const paged = new EntryList(list);
  const news = newsOf(await merged.page({ after: [...kept.values()][0] }));
  assert.deepEqual(news.map(({ type, entry }) => [type, entry.id]), [...wanted, ["entry", "e-5"]]);
  for (const one of news) paged.apply(one);
  assert.deepEqual(paged.entries, current);
  const online = new Collector(merged.follow(options));
  await online.live();
  await online.close();
  assert.deepEqual([online.of("start").length, changesOf(online, "entry")], [0, wanted]);
  for (const update of online.updates) list.apply(update);
  assert.deepEqual(list.entries, current);
});

test("what is erased from one feed stays in another, until it is erased there or everywhere", async () => {
  const merged = newsfeed.feeds(["gone:1", "gone:2"]);
  await merged.append([1, 2].map((n) => ({ id: `gone-${n}`, kind: "visit", actor: "gone:somebody" })));
  const list = new EntryList();
  const follow = new Collector(merged.follow());
  const shows = async (wanted) => {
    await follow.until("the list", () => {
      for (const update of follow.updates.splice(0)) list.apply(update);
      return JSON.stringify(list.entries.map(({ id, feed, feeds }) => [id, ...(feeds ?? [feed])])) === JSON.stringify(wanted);
    });
  };
  await shows([["gone-2", "gone:1", "gone:2"], ["gone-1", "gone:1", "gone:2"]]);
  const { id, ...done } = await newsfeed.eraseAll({ feed: "gone:1" });
  assert.deepEqual(done, { status: "done", erased: 2 });
  await shows([["gone-2", "gone:2"], ["gone-1", "gone:2"]]);
  assert.deepEqual(await newsfeed.erasure(id), { id, ...done });
  await newsfeed.append({ id: "gone-3", kind: "visit", feeds: ["gone:2", "gone:3"] });
  await newsfeed.eraseAll({ actor: "gone:somebody" });
  await shows([["gone-3", "gone:2"]]);
  await newsfeed.eraseAll({ feed: "gone:3", everywhere: true });
  await shows([]);
  await follow.close();
});

test("readers of a chat have counts, states and badges of their own, also after a while offline", async () => {
  const chat = newsfeed.feed("chat:members");
  const [anna, ben] = ["user:anna", "user:ben"].map((reader) => chat.as(reader));
  await chat.append(["members-1", "members-2", "members-3"].map((id) => ({ id, kind: "message", actor: "user:ben" })));
  const names = ["chat:members", ...Array.from({ length: 999 }, (_, n) => `chat:idle-${n}`)];
  const badges = new Collector(newsfeed.feeds(names).as("user:anna").badges());
  await badges.live();
  const badge = () => badges.of("state").findLast(({ feed }) => feed === "chat:members").unread.total;
  assert.deepEqual([badges.of("state").length, badge()], [1_000, 3]);
  const list = new EntryList();
  const away = new Collector(anna.follow());
  await away.live();
  await away.close();
  for (const update of away.updates) list.apply(update);
  const states = () => list.entries.map(({ id, state }) => `${id} ${state}`).join();
  assert.equal(states(), "members-3 unread,members-2 unread,members-1 unread");

  // Meanwhile, on another device.
  const device = newsfeed.feed("chat:members").as("user:anna");
  const { entries } = await device.page({ state: "unread" });
  await device.state();
  const { version } = await chat.append({ id: "members-4", kind: "message", actor: "user:ben" });
  assert.equal((await device.markAllRead()).unread.total, 1);
  assert.equal((await device.archive(entries[0])).state, "archived");
  const again = await device.markUnread(entries[2].version);
  assert.deepEqual([again.state, again.unread.total], ["unread", 2]);
  await chat.append({ id: "members-5", kind: "message", actor: "user:anna" });
  await badges.until("the badge", () => badge() === 2);
  const wanted = "members-5 read,members-4 unread,members-3 archived,members-2 read,members-1 unread";
  const back = new Collector(anna.live({ after: away.of("version").at(-1).version }));
  await back.live();
  for (const update of back.updates.splice(0)) list.apply(update);
  assert.equal(states(), wanted);
  const page = (await anna.page()).entries;
  assert.deepEqual(list.entries, page);
  await list.reload((before) => anna.page({ before }));
  assert.deepEqual(list.entries, page);

  // What others do is told, and touches nobody else.
  await ben.markRead(version);
  await back.until("Ben's marker", () => back.of("marker").some(({ reader, markers }) => reader === "user:ben" && markers.read === version));
  const others = await collect(chat.readers({ limit: 1 }));
  assert.deepEqual(others.map(({ reader }) => reader), ["user:anna", "user:ben"]);
  assert.equal((await anna.state()).unread.total, 2);
  await anna.archiveAllRead();
  await back.until("the archive", () => back.of("unread").some(({ markers }) => markers.archived !== null));
  await back.close();
  for (const update of back.updates) list.apply(update);
  assert.equal(states(), "members-5 archived,members-4 unread,members-3 archived,members-2 archived,members-1 unread");
  assert.deepEqual((await anna.page({ state: "archived" })).entries.map(({ id }) => id), ["members-5", "members-3", "members-2"]);
  await assert.rejects(anna.markUnread((await anna.page({ limit: 1 })).entries[0]), { status: 409, code: "own_entry" });
  await badges.close();
});

test("a follower ends at once when it is told to", async () => {
  const feed = newsfeed.feed("user:ends");
  const already = new Collector(feed.follow({ signal: AbortSignal.abort() }));
  await already.done;
  const controller = new AbortController();
  const live = new Collector(feed.follow({ signal: controller.signal }));
  await live.live();
  controller.abort();
  await live.done;
  const away = new Newsfeed({ url: "http://127.0.0.1:1", random: () => 1 });
  const waiting = new Collector(away.feed("a").follow());
  await waiting.until("a pause", () => waiting.updates.some(({ state }) => state === "waiting"));
  await waiting.close();
});

test("a killed and a stopped service lose nothing and double nothing", async () => {
  const feed = newsfeed.feed("user:crash");
  const patient = new Newsfeed({ url: service.url, random: () => 0.02 }).feed("user:crash");
  const follower = new Collector(patient.follow());
  await follower.live();
  const written = [];
  let writing = true;
  const writer = (async () => {
    for (let n = 0; writing; n += 1) {
      const { id } = await patient.append({ id: `crash-${n}`, kind: "message" }, { patience: Infinity });
      written.push(id);
    }
  })();
  for (const [round, signal] of ["SIGKILL", "SIGTERM", "SIGKILL"].entries()) {
    const sofar = written.length;
    await until("entries", () => written.length > sofar + 30);
    await service.kill(signal);
    await service.again();
    await follower.live(round + 1);
  }
  writing = false;
  await writer;
  await follower.until("all", () => follower.ids.length >= written.length);
  await follower.until("the badge", () => follower.badges.get("user:crash") === written.length);
  assert.deepEqual(follower.ids, written);
  assert.equal((await feed.state()).unread.total, written.length);
  await follower.close();
});

test("in a store that is behind the position, everything is read again", async () => {
  await newsfeed.feed("user:reset").append({ id: "of-the-old-store", kind: "message" });
  const page = new Collector(newsfeed.feed("user:reset").follow());
  const worker = new Collector(newsfeed.feed("user:reset").live());
  for (const follower of [page, worker]) await follower.live();
  await service.kill();
  await rm(service.folder, { recursive: true });
  // The clock is an hour back, so the old versions are ahead of the new store.
  await service.again("--wall-offset-s", "-3600");
  for (const follower of [page, worker]) {
    await follower.until("a reset", () => follower.of("reset").length === 1);
    await follower.until("live again", () => follower.updates.at(-1).state === "live");
  }
  await newsfeed.feed("user:reset").append({ id: "of-the-new-store", kind: "message" });
  for (const follower of [page, worker]) {
    await follower.until("the new entry", () => follower.of("entry").length === 1);
    await follower.until("its badge", () => follower.badges.get("user:reset") === 1);
    await follower.close();
  }
  assert.equal(page.of("start").length, 2);
});

/** Follows from a stored cursor, with and without a history, until it is live. */
async function fromStored(kept, options) {
  const storage = new Map(kept);
  const client = new Newsfeed({ url: service.url, storage: { getItem: (key) => storage.get(key) ?? null, setItem: (key, value) => void storage.set(key, value) }, random: () => 0 });
  const follower = new Collector(options.log ? client.log().follow({ cursor: "c", from: "0" }) : client.feed("user:lives").follow({ cursor: "c", ...options }));
  await follower.live();
  await follower.until("the cursor is kept", () => storage.get("newsfeed.cursor.c") >= follower.of("version").at(-1).version);
  await follower.close();
  return { follower, storage };
}

test("a stored cursor of another life of the store starts over, and says so", async () => {
  const feed = newsfeed.feed("user:lives");
  await feed.append({ id: "in-both", kind: "visit" });
  await service.kill("SIGTERM");
  const copy = `${service.folder}-copy`;
  await cp(service.folder, copy, { recursive: true });
  await service.again();
  const { version: known } = await feed.state();
  await feed.append({ id: "of-the-lost-life", kind: "visit" });
  const { storage } = await fromStored([], { history: 5 });
  const kept = [...storage];
  assert.ok(kept[0][1] > known);
  // In its own life it continues.
  const own = await fromStored(kept, { history: 5 });
  assert.deepEqual([own.follower.of("reset").length, own.follower.of("start")[0].since], [0, kept[0][1]]);

  for (const life of ["copied back", "deleted"]) {
    await service.kill();
    await rm(service.folder, { recursive: true });
    if (life === "copied back") await cp(copy, service.folder, { recursive: true });
    await service.again();
    for (const appended of [false, true]) {
      const here = [...(life === "copied back" ? ["in-both"] : []), ...(appended ? [life] : [])];
      if (appended) await feed.append({ id: life, kind: "visit" });
      const page = (await fromStored(kept, { history: 5 })).follower;
      assert.deepEqual(page.updates.map(({ type }) => type).filter((type) => ["reset", "start", "history"].includes(type)), ["reset", "start", "history"]);
      assert.deepEqual([page.of("start")[0].since, page.ids], [null, here], life);
      const worker = (await fromStored(kept, { history: 0 })).follower;
      assert.deepEqual([worker.of("reset").length, worker.ids], [1, []], life);
      const log = await fromStored(kept, { log: true });
      assert.equal(log.follower.of("reset").length, 1);
      const inLog = log.follower.of("event").map(({ event }) => event.id).filter((id) => id === "in-both" || id === life);
      assert.deepEqual(inLog, here, life);
      // The new position is kept: the next time it continues.
      const again = await fromStored(log.storage, { log: true });
      assert.deepEqual([again.follower.of("reset").length, again.follower.of("event").length], [0, 0]);
    }
    // A position from before the copy was made is of both lives.
    if (life === "deleted") continue;
    const old = await fromStored([["newsfeed.cursor.c", (await feed.page({ after: "0" })).entries[0].version]], { history: 5 });
    assert.equal(old.follower.of("reset").length, 0);
  }
  await rm(copy, { recursive: true });
});

test("a stored cursor that is no version starts over", async () => {
  const { follower } = await fromStored([["newsfeed.cursor.c", "garbage"]], { history: 5 });
  assert.deepEqual([follower.of("reset").length, follower.of("start")[0].since], [1, null]);
});

test("pages and followers begin after a time", async () => {
  const feed = newsfeed.feed("user:since");
  const { id, version } = await feed.append({ id: "since-1", kind: "visit" });
  // Before the store has noted its first version, which is before everything.
  const hourAgo = new Date(Date.now() - 3_600_000);
  for (const after of [hourAgo, hourAgo.toISOString(), "2004-04-15T16:56:01+02:00"]) {
    assert.equal(await newsfeed.versionAt(after), "0");
    assert.deepEqual(ids((await feed.page({ after })).entries), [id]);
    for (const follow of [feed.live({ after }), newsfeed.log({ feed: "user:since" }).follow({ after })]) {
      const follower = new Collector(follow);
      await follower.live();
      await follower.close();
      const got = [...follower.of("entry"), ...follower.of("event")].map(({ entry, event }) => (entry ?? event).version);
      assert.deepEqual(got, [version]);
    }
  }
  const ahead = feed.live({ after: new Date(Date.now() + 3_600_000) });
  await assert.rejects(ahead.next(), { code: "time_ahead" });
});

test("the log has every event once, in pages and live, and a follow continues where it was", async () => {
  const mine = { feed: ["log-a:*", "log-b"], kind: ["visit", "message"] };
  const sent = [
    { id: "log-1", kind: "visit", feeds: ["log-a:1", "log-b"] },
    { id: "log-2", kind: "flirt", feeds: ["log-b"] },
    { id: "log-3", kind: "message", feeds: ["other", "log-b"] },
    { id: "log-4", kind: "visit", feeds: ["other"] },
  ];
  await newsfeed.append(sent);
  const log = newsfeed.log(mine);
  const events = await collect(log.events());
  assert.deepEqual(events.map(({ id, feeds }) => [id, feeds]), [["log-1", sent[0].feeds], ["log-3", sent[2].feeds]]);
  for (const [filter, found] of [[{ kind: "message" }, ["log-3"]], [{ feed: "log-a:*" }, ["log-1"]], [{ actor: "log:nobody" }, []]]) {
    assert.deepEqual(ids(await collect(newsfeed.log({ ...mine, ...filter }).events())), found);
  }
  const { events: newest, next } = await log.page({ limit: 1 });
  assert.deepEqual([ids(newest), next], [["log-3"], newest[0].version]);
  const shards = await Promise.all(["0/2", "1/2"].map((shard) => collect(newsfeed.log({ ...mine, shard }).events())));
  assert.deepEqual(ids(shards.flat()).sort(), ["log-1", "log-3"]);

  const kept = new Map();
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => void kept.set(key, value) };
  const seen = [];
  // Left in the middle, it comes back with the event that was not handled.
  for await (const update of log.follow({ cursor: "log", from: "0", storage })) {
    if (update.type !== "event") continue;
    seen.push(update.event.id);
    if (seen.length === 2) break;
  }
  for await (const update of log.follow({ cursor: "log", from: "0", storage })) {
    if (update.type === "status" && update.state === "live") {
      await newsfeed.append({ id: "log-5", kind: "visit", feeds: ["log-b"] });
    }
    if (update.type === "event") seen.push(update.event.id);
    if (update.event?.id === "log-5") break;
  }
  assert.deepEqual(seen, ["log-1", "log-3", "log-3", "log-5"]);
  // Without a position it begins now.
  for await (const update of log.follow()) {
    assert.notEqual(update.type, "event");
    if (update.type === "version") break;
  }
});
