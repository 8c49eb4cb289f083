// Rare answers, from a small fake service: expired tokens, refusals with Retry-After, silence, expired cursors, lost
// answers.
import assert from "node:assert/strict";
import http from "node:http";
import { afterEach, test } from "node:test";
import { Newsfeed } from "../../src/web/newsfeed.js";
import { events } from "../../src/web/newsfeed/sse.js";
import { Collector } from "./harness.mjs";

const FEED = "user:a";
const version = (n) => String(n).padStart(26, "0");
const frame = (event, data) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
const entry = (n) => frame("notify", { feed: FEED, version: version(n), id: `e-${n}`, kind: "message", actor: null, at: "", data: null });
const unread = { total: 0, kinds: {}, more: false };
const state = (n) => ({ feed: FEED, version: version(n), unread, markers: { read: null, seen: null } });
const arrived = (n) => frame("marker", state(n)) + frame("version", { version: version(n) });

let server;
afterEach(() => {
  server.closeAllConnections();
  server.close();
});

/** A service that answers each request with `answer`, which gets the number of the request. */
async function fake(answer) {
  const requests = [];
  server = http.createServer((request, response) => {
    let body = "";
    request.on("data", (data) => (body += data));
    request.on("end", () => {
      const { authorization } = request.headers;
      const number = requests.push({ method: request.method, path: request.url, token: authorization?.replace("Bearer ", ""), body: body && JSON.parse(body) });
      answer({ ...requests[number - 1], number, response });
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, requests };
}

const json = (response, value) => response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
const stream = (response, text) => response.writeHead(200, { "content-type": "text/event-stream" }).write(text);
function problem(response, status, code, headers = {}) {
  response.writeHead(status, { "content-type": "application/problem+json", ...headers });
  response.end(JSON.stringify({ type: "about:blank", title: "", status, code, detail: `because of ${code}` }));
}

/** A service whose tokens expire after a stream of one entry; the last of `streams` stays open. */
function expiring(good, streams = Infinity) {
  let served = 0;
  return ({ path, token, response }) => {
    if (token !== good.token) return problem(response, 401, token ? "token_expired" : "credentials_missing");
    if (path.startsWith("/v1/live?feed=user%3Aa")) {
      served += 1;
      stream(response, `retry: 1\n\n${entry(served)}${arrived(served)}`);
      if (served === streams) return;
      good.token = `t${served + 1}`;
      response.end(frame("bye", { reason: "token_expired" }));
    } else if (path.includes("entries")) {
      json(response, { feed: FEED, version: version(0), entries: [], next: null });
    } else {
      json(response, { ...state(0), latest: null });
    }
  };
}

test("an expired token is requested again, once for all waiting calls, and the stream continues", async () => {
  const good = { token: "t1" };
  const { url, requests } = await fake(expiring(good, 3));
  const asked = [];
  const token = async ({ error }) => {
    asked.push(error?.code ?? null);
    return good.token;
  };
  const newsfeed = new Newsfeed({ url, token, random: () => 0 });
  await Promise.all([newsfeed.feed(FEED).state(), newsfeed.feed(FEED).state()]);
  assert.deepEqual(asked, [null]);
  const follower = new Collector(newsfeed.feed(FEED).follow());
  await follower.until("three entries", () => follower.ids.length === 3);
  await follower.close();
  assert.deepEqual(follower.ids, ["e-1", "e-2", "e-3"]);
  assert.deepEqual(asked, [null, "token_expired", "token_expired"]);
  const after = requests.filter(({ path, token }) => path.includes("/live") && token === good.token).at(-1);
  assert.equal(new URL(after.path, url).searchParams.get("after"), version(2));
});

test("a token that is not renewed ends the follower with the service's error", async () => {
  const good = { token: "t1" };
  const { url } = await fake(expiring(good));
  for (const token of ["t1", () => "t1", ({ error }) => (error ? null : "t1")]) {
    good.token = "t1";
    const follower = new Collector(new Newsfeed({ url, token, random: () => 0 }).feed(FEED).follow());
    await assert.rejects(follower.done, { status: 401, code: "token_expired", detail: "because of token_expired" });
  }
  await assert.rejects(new Newsfeed({ url }).feed(FEED).state(), { status: 401, code: "credentials_missing" });
});

test("a token that the user has not entered yet is waited for, and waiting calls can be aborted", async () => {
  const { url } = await fake(expiring({ token: "t1" }, 1));
  const asked = Promise.withResolvers?.() ?? withResolvers();
  const newsfeed = new Newsfeed({ url, token: () => asked.promise, random: () => 0 });
  const follower = new Collector(newsfeed.feed(FEED).follow());
  const impatient = newsfeed.feed(FEED).state({ signal: AbortSignal.timeout(10) });
  await assert.rejects(impatient, { name: "TimeoutError" });
  asked.resolve("t1");
  await follower.until("an entry", () => follower.ids.length === 1);
  await follower.close();
});

function withResolvers() {
  const resolvers = {};
  resolvers.promise = new Promise((resolve, reject) => Object.assign(resolvers, { resolve, reject }));
  return resolvers;
}

test("a forbidden request is not repeated", async () => {
  const { url, requests } = await fake(({ response }) => problem(response, 403, "feed_forbidden"));
  await assert.rejects(new Collector(new Newsfeed({ url }).feed(FEED).follow()).done, { status: 403, code: "feed_forbidden" });
  assert.equal(requests.length, 1);
});

test("events are sent again with the same ids, also rejected ones of an array", async () => {
  const { url, requests } = await fake(({ number, body, response }) => {
    const rejected = { status: "rejected", error: { code: "store_unavailable", detail: "" } };
    const all = Array.isArray(body) ? body : [body];
    if (number === 1) return response.destroy(); // The outcome is unknown.
    if (number === 2) return problem(response, 503, "busy", { "retry-after": "0" });
    if (number === 3) return response.writeHead(200).write('{"id":', () => response.destroy());
    const results = all.map(({ id }, n) => (number === 4 && n === 1 ? { id, ...rejected } : { id, status: "appended", version: version(n) }));
    json(response, Array.isArray(body) ? results : results[0]);
  });
  const newsfeed = new Newsfeed({ url, random: () => 0 });
  const results = await newsfeed.feed(FEED).append([{ kind: "message" }, { kind: "message" }]);
  assert.deepEqual(results.map(({ status }) => status), ["appended", "appended"]);
  assert.equal(requests.length, 5);
  for (const { body } of requests) assert.deepEqual(body, requests[0].body);
  assert.ok(requests[0].body.every(({ id, feeds }) => /^[0-9a-f]{8}-[0-9a-f]{4}-4/.test(id) && feeds[0] === FEED));
});

test("followers wait for Retry-After, and calls without patience fail", async () => {
  const { url, requests } = await fake(({ response }) => problem(response, 429, "rate_limited", { "retry-after": "3600" }));
  const newsfeed = new Newsfeed({ url, random: () => 0 });
  await assert.rejects(newsfeed.feed(FEED).state(), { status: 429, retryAfter: 3_600_000, temporary: true });
  const follower = new Collector(newsfeed.feed(FEED).follow());
  await follower.until("a pause", () => follower.of("status").some(({ state, delay }) => state === "waiting" && delay === 3_600_000));
  const sofar = requests.length;
  follower.follow.wake();
  await follower.until("another try", () => requests.length === sofar + 1);
  await follower.close();
});

const RETRIED = [408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529, 530, 598, 599];

test("answers that may pass are retried by every call, and every other answer is final", async () => {
  let script = [];
  const { url, requests } = await fake(({ path, body, response }) => {
    const status = script.shift();
    // A problem of the service, or the page of a proxy.
    if (status % 2) return response.writeHead(status, { "content-type": "text/html" }).end("<!doctype html>");
    if (status) return problem(response, status, "of_the_test");
    if (path.includes("/live")) return stream(response, entry(1) + arrived(1));
    if (path.includes("/entries")) return json(response, { feed: FEED, version: version(0), entries: [], next: null });
    json(response, body ? { id: body.id, status: "appended", version: version(1) } : { ...state(0), latest: null });
  });
  const feed = new Newsfeed({ url, random: () => 0 }).feed(FEED);
  const calls = [() => feed.append({ kind: "message" }), () => feed.page(), () => feed.state(), () => feed.markRead("0")];
  for (const call of calls) {
    script = [...RETRIED];
    await call({ patience: Infinity });
    assert.deepEqual(script, []);
  }
  script = [...RETRIED, 0, ...RETRIED, 0, ...RETRIED];
  const follower = new Collector(feed.follow());
  await follower.until("an entry", () => follower.ids.length === 1);
  await follower.close();

  for (let status = 400; status < 600; status += 1) {
    // `fetch` acts on 407 and 421 by itself, and a follower starts again after 410.
    if ([...RETRIED, 407, 410, 421].includes(status)) continue;
    script = [status, status];
    const sofar = requests.length;
    const code = status % 2 ? `http_${status}` : "of_the_test";
    await assert.rejects(feed.append({ kind: "message" }), { status, code, temporary: false });
    await assert.rejects(new Collector(feed.live()).done, { status, code });
    assert.equal(requests.length, sofar + 2);
  }
});

test("each temporary code of a single event is retried, and the others stand", async () => {
  const codes = ["busy", "store_unavailable", "internal", "shutting_down", "body_timeout", "too_many_bytes"];
  const { url, requests } = await fake(({ number, body, response }) => {
    const rejected = (code) => ({ status: "rejected", error: { code, detail: "" } });
    const code = codes[number - 1];
    json(response, body.map(({ id }, n) => (n ? rejected("storage_full") : code ? rejected(code) : { id, status: "appended" })));
  });
  const feed = new Newsfeed({ url, random: () => 0 }).feed(FEED);
  const results = await feed.append([{ kind: "message" }, { kind: "message" }], { patience: Infinity });
  assert.deepEqual(results.map(({ status, error }) => error?.code ?? status), ["appended", "storage_full"]);
  assert.equal(requests.length, codes.length + 1);
});

test("the page of another server ends a call but not a follower that was connected", async () => {
  const page = (response) => response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html>");
  const { url, requests } = await fake(({ number, response }) => {
    if (number === 3) return stream(response, `retry: 1\n\n${entry(1)}${arrived(1)}`), response.end();
    if (number === 5) return stream(response, entry(2) + arrived(2));
    page(response);
  });
  const feed = new Newsfeed({ url, random: () => 0 }).feed(FEED);
  const foreign = { status: 200, code: "not_newsfeed", temporary: false };
  await assert.rejects(feed.state(), foreign);
  await assert.rejects(new Collector(feed.live({ after: "0" })).done, foreign);
  const follower = new Collector(feed.live({ after: "0" }));
  await follower.until("two entries", () => follower.ids.length === 2);
  await follower.close();
  assert.equal(requests.length, 5);
});

test("a silent stream is opened again after its last entry", async () => {
  // Long enough that on a busy machine an entry arrives before its stream counts as silent.
  const { url, requests } = await fake(({ number, response }) => stream(response, `${entry(number)}${arrived(number)}`));
  const follower = new Collector(new Newsfeed({ url, random: () => 0 }).feed(FEED).live({ after: "0", silence: 1_000 }));
  await follower.until("three streams", () => follower.ids.length >= 3);
  await follower.close();
  assert.deepEqual(follower.ids.slice(0, 3), ["e-1", "e-2", "e-3"]);
  assert.deepEqual(requests.slice(0, 3).map(({ path }) => path.split("after=")[1]), ["0", version(1), version(2)]);
});

test("repeated, out-of-order and incomplete events are ignored", async () => {
  const { url } = await fake(({ number, response }) => {
    if (number === 1) return stream(response, entry(2) + entry(1) + entry(2) + entry(3) + entry(4).slice(0, -1)), response.end();
    stream(response, entry(3) + entry(5) + arrived(5));
  });
  const follower = new Collector(new Newsfeed({ url, random: () => 0 }).feed(FEED).live({ after: "0" }));
  await follower.live(1);
  await follower.close();
  assert.deepEqual(follower.ids, ["e-2", "e-3", "e-5"]);
});

test("a badge is the last state plus later entries, in whatever order they arrive", async () => {
  const told = (n, total) => frame("marker", { ...state(n), unread: { total, kinds: { message: total }, more: false } });
  const frames = [entry(1), entry(2), told(2, 2), entry(4), told(3, 2), told(1, 9), entry(5), told(9, 5), entry(8), entry(10), arrived(10)];
  const { url } = await fake(({ response }) => stream(response, frames.join("")));
  const follower = new Collector(new Newsfeed({ url, random: () => 0 }).feed(FEED).live({ after: "0" }));
  await follower.live();
  await follower.close();
  assert.deepEqual(follower.of("unread").map(({ unread }) => unread.kinds.message ?? 0), [2, 3, 3, 4, 5, 5, 6, 0]);
});

const changed = (change, n, at) => frame(change, { feed: FEED, change, version: version(n), [change]: version(at), id: `e-${n}`, kind: "message", data: `at ${at}` });

test("changes are told once and in order, move the position, and correct the badge", async () => {
  const told = (n, total) => frame("marker", { ...state(n), unread: { total, kinds: { message: total }, more: false } });
  const { url, requests } = await fake(({ number, response }) => {
    if (number === 1) {
      // Repeated and late ones among them, as after a change of the node.
      const frames = [told(1, 1), entry(2), entry(3), changed("edited", 2, 4), changed("edited", 2, 4), changed("erased", 3, 5), entry(3), changed("erased", 1, 6), told(6, 1)];
      return stream(response, frames.join("")), response.end();
    }
    stream(response, changed("erased", 1, 6) + changed("erased", 2, 7) + arrived(8));
  });
  const kept = [];
  const storage = { getItem: () => null, setItem: (key, value) => void kept.push(value) };
  const follower = new Collector(new Newsfeed({ url, random: () => 0, storage }).feed(FEED).live({ after: "0", cursor: "c" }));
  await follower.live(1);
  await follower.close();
  const changes = follower.updates.filter(({ type }) => type === "edited" || type === "erased");
  assert.deepEqual(changes[0], { type: "edited", entry: { feed: FEED, version: version(2), edited: version(4), id: "e-2", kind: "message", data: "at 4" }, live: false });
  assert.deepEqual(changes.map(({ type, entry }) => [type, entry.id, entry[type]]), [["edited", "e-2", version(4)], ["erased", "e-3", version(5)], ["erased", "e-1", version(6)], ["erased", "e-2", version(7)]]);
  assert.deepEqual(follower.ids, ["e-2", "e-3"]);
  // 1 and 2 after the notifications, 2 without the erased one, 1 by the state, which counts another.
  assert.deepEqual(follower.of("unread").map(({ unread }) => unread.total), [1, 2, 3, 2, 1, 0]);
  assert.equal(new URL(requests[1].path, url).searchParams.get("after"), version(6));
  assert.deepEqual(kept.slice(0, 6), [2, 3, 4, 5, 6, 7].map(version));
});

const ANNA = "user:anna";
const told = (n, total, more) => frame("marker", { ...state(n), reader: ANNA, unread: { total, kinds: { message: total }, more: false }, ...more });
const notify = (n, more) => frame("notify", { feed: FEED, version: version(n), id: `e-${n}`, kind: "message", actor: null, at: "", data: null, ...more });

test("whatever a view for a reader asks for and does, it does as that reader", async () => {
  const { url, requests } = await fake(({ path, response }) => {
    const from = new URL(path, "http://fake").searchParams.get("from");
    if (path.startsWith("/v1/readers")) return json(response, { readers: [{ reader: from ?? "a", markers: { read: null, seen: null } }], next: from ? null : "b" });
    json(response, path.startsWith("/v1/feeds") ? { version: version(7), feeds: [] } : { ...state(9), entries: [], next: null });
  });
  const newsfeed = new Newsfeed({ url });
  const anna = newsfeed.feed("a").as(ANNA);
  const both = newsfeed.feeds(["a", "b"]).as(ANNA);
  const done = async (call, ...wanted) => {
    const answer = await call();
    assert.deepEqual(requests.splice(0).map(({ method, path, body }) => [method, decodeURIComponent(path.replace("/v1/", "")), body]), wanted);
    return answer;
  };
  await done(() => anna.state(), ["GET", "state?feed=a&reader=user:anna", ""]);
  await done(() => both.state(), ["GET", "feeds?feed=a&feed=b&reader=user:anna", ""]);
  await done(() => anna.page({ state: "archived", limit: 3 }), ["GET", "entries?feed=a&state=archived&limit=3&reader=user:anna", ""]);
  await done(() => anna.markRead("5"), ["PUT", "markers/read?feed=a&reader=user:anna", { version: "5" }]);
  const marks = (what) => [["a", "b"].map((feed) => ["PUT", `markers/${what}?feed=${feed}&reader=user:anna`, { version: "5" }])].flat();
  assert.equal((await done(() => both.markSeen("5"), ...marks("seen"))).length, 2);
  await done(() => both.archiveRead("5"), ...marks("archived"));
  const mark = (body, feed = "a") => ["PUT", `entries/5/state?feed=${feed}&reader=user:anna`, body];
  await done(() => anna.setState("5", { read: true, archived: true }), mark({ read: true, archived: true }));
  await done(() => anna.markUnread({ version: "5", feed: "b" }), mark({ read: false }));
  await done(() => both.archive({ version: "5", feed: "b" }), mark({ archived: true }, "b"));
  await done(() => both.unarchive({ version: "5", feed: "a", feeds: ["a", "b"] }), mark({ archived: false }), mark({ archived: false }, "b"));
  const readers = async () => {
    const names = [];
    for await (const { feed, reader } of anna.readers({ limit: 1 })) names.push([feed, reader]);
    return names;
  };
  assert.deepEqual(await done(readers, ["GET", "readers?feed=a&limit=1", ""], ["GET", "readers?feed=a&limit=1&from=b", ""]), [["a", "a"], ["a", "b"]]);
  await done(() => newsfeed.feed("a").page(), ["GET", "entries?feed=a", ""]);
});

test("all is marked as read up to what was told, and no further", async () => {
  const { url, requests } = await fake(({ path, response }) => {
    if (path.includes("/live")) return stream(response, entry(3) + arrived(4));
    json(response, { ...state(2), latest: null });
  });
  const feed = new Newsfeed({ url }).feed(FEED);
  const marked = () => requests.filter(({ method }) => method === "PUT").map(({ path, body }) => [path.split("?")[0], body.version]).at(-1);
  // Nothing was told: all that is there now.
  await feed.markAllRead();
  assert.deepEqual(marked(), ["/v1/markers/read", version(2)]);
  const follow = feed.live({ after: "0" });
  for await (const { type } of follow) if (type === "entry") break;
  await feed.archiveAllRead();
  assert.deepEqual(marked(), ["/v1/markers/archived", version(3)]);
  for await (const { type } of feed.live({ after: "0" })) if (type === "version") break;
  await feed.state();
  await feed.markAllRead();
  assert.deepEqual(marked(), ["/v1/markers/read", version(4)]);
});

test("a reader's badge is hers: without what she wrote, with the counts of the service, and whatever others read", async () => {
  const others = (n) => frame("marker", { feed: FEED, reader: "user:ben", version: version(n), markers: { read: version(n), seen: null } });
  const count = (total) => ({ total, kinds: { message: total }, more: false });
  const frames = [
    told(1, 1), notify(2, { actor: ANNA }), notify(3, { actor: "user:ben" }), others(3),
    // This service tells the count, and knows more than one can add up here.
    notify(4, { unread: count(9) }), notify(5, { actor: ANNA, unread: count(9) }), frame("marked", { feed: FEED, reader: ANNA, entry: version(2), state: "archived", marked: version(6) }),
    // Older than what was told already.
    told(4, 8), others(7), told(7, 0), notify(7, { unread: count(1) }),
  ];
  const { url } = await fake(({ response }) => stream(response, `${frames.join("")}${arrived(8)}`));
  const newsfeed = new Newsfeed({ url, random: () => 0 });
  const follower = new Collector(newsfeed.feed(FEED).as(ANNA).live({ after: "0" }));
  await follower.live();
  await follower.close();
  assert.deepEqual(follower.of("unread").map(({ unread, reader }) => [unread.total, reader]), [1, 1, 2, 9, 9, 8, 0, 0].map((total) => [total, ANNA]).concat([[0, undefined]]));
  assert.deepEqual(follower.of("entry").map(({ notify }) => notify), [false, true, true, false, true]);
  assert.deepEqual(follower.of("entry").map(({ entry }) => [entry.state, "unread" in entry]), ["read", "unread", "unread", "read", "unread"].map((state) => [state, false]));
  assert.deepEqual(follower.of("marker").map(({ reader, version, markers }) => [reader, version, markers.read]), [3, 7].map((n) => ["user:ben", version(n), version(n)]));
  assert.deepEqual(follower.of("marked"), [{ type: "marked", feed: FEED, reader: ANNA, entry: version(2), state: "archived", marked: version(6) }]);
  // The feed's own reader has no name, so nothing is its own; and without a reader, states must be asked for.
  const own = new Collector(newsfeed.feed(FEED).live({ after: "0" }));
  await own.live();
  await own.close();
  assert.deepEqual(own.of("entry").map(({ notify, entry }) => [notify, "state" in entry]), Array(5).fill([true, false]));
});

test("in several feeds, each has its count, and an entry its state in each", async () => {
  const read = (feed, n) => frame("marker", { ...state(1), feed, reader: ANNA, markers: { read: version(n), seen: null, archived: null } });
  const both = { feeds: ["a", "b"], feed: "a", unread: { ...unread, total: 5 }, unreads: [{ ...unread, total: 5 }, { ...unread, total: 6 }] };
  const { url } = await fake(({ response }) => stream(response, read("a", 1) + read("b", 9) + notify(3, both) + arrived(4)));
  const follower = new Collector(new Newsfeed({ url }).feeds(["a", "b"]).as(ANNA).live({ after: "0" }));
  await follower.live();
  await follower.close();
  assert.deepEqual([follower.badges.get("a"), follower.badges.get("b")], [5, 6]);
  const [{ entry }] = follower.of("entry");
  assert.deepEqual([entry.state, entry.states, entry.unreads], ["unread", ["unread", "read"], undefined]);
});

test("the badges of many chats take one stream, which begins with all of them after a break", async () => {
  const names = Array.from({ length: 1_000 }, (_, n) => `chat:${n}`);
  const listed = (feed, n, total) => frame("state", { ...state(n), feed, reader: ANNA, latest: version(n), unread: { ...unread, total } });
  const { url, requests } = await fake(({ number, response }) => {
    // An older state, as from another window's stream.
    if (number === 1) return stream(response, `retry: 1\n\n${listed("chat:0", 3, 1)}${listed("chat:1", 3, 0)}${frame("version", { version: version(3) })}${listed("chat:0", 5, 2)}${listed("chat:0", 4, 9)}`), response.end();
    stream(response, listed("chat:0", 6, 0) + listed("chat:1", 6, 1) + frame("version", { version: version(6) }));
  });
  const feeds = new Newsfeed({ url, random: () => 0 }).feeds([...names, names[0]]).as(ANNA);
  const follower = new Collector(feeds.badges());
  await follower.live(1);
  await follower.close();
  assert.deepEqual(follower.of("state").map(({ feed, unread, latest }) => [feed, unread.total, latest]), [["chat:0", 1, version(3)], ["chat:1", 0, version(3)], ["chat:0", 2, version(5)], ["chat:0", 0, version(6)], ["chat:1", 1, version(6)]]);
  assert.deepEqual(requests.map(({ method, path, body }) => [method, path, body]), Array(2).fill(["POST", "/v1/state/live?reader=user%3Aanna", { feeds: names }]));
  const few = new Newsfeed({ url }).feeds(["a", "b"]).badges();
  for await (const { type } of few) if (type === "version") break;
  assert.deepEqual([requests.at(-1).method, requests.at(-1).path], ["GET", "/v1/state/live?feed=a&feed=b"]);
});

test("an edit that is sent again is the same edit, and an erasure is waited for", async () => {
  let running = 2;
  const { url, requests } = await fake(({ number, path, body, response }) => {
    if (number === 1) return response.destroy();
    if (body?.data) return json(response, { id: "e 1", status: "edited", version: version(1), edited: version(2) });
    if (path === "/v1/erasures") return json(response, { id: "job", status: "running", erased: 0 });
    if (path === "/v1/erasures/job") return json(response, { id: "job", status: running-- > 0 ? "running" : "done", erased: 7 - running });
    json(response, { id: "e 1", status: "erased", version: version(1), erased: version(3) });
  });
  const newsfeed = new Newsfeed({ url, random: () => 0 });
  assert.equal((await newsfeed.edit("e 1", { text: "new" }, { revision: version(1) })).edited, version(2));
  const [lost, again] = requests;
  assert.deepEqual([lost.method, lost.path, lost.body], [again.method, again.path, again.body]);
  assert.deepEqual([again.method, again.path, again.body.data, again.body.revision], ["PATCH", "/v1/events?id=e%201", { text: "new" }, version(1)]);
  assert.match(again.body.change, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  await newsfeed.edit("e 1", { text: "new" }, { change: "mine" });
  assert.deepEqual(requests[2].body, { data: { text: "new" }, change: "mine" });
  assert.equal((await newsfeed.erase("e 1", { revision: version(2) })).erased, version(3));
  assert.deepEqual([requests[3].method, requests[3].path, requests[3].body], ["DELETE", `/v1/events?id=e%201&revision=${version(2)}`, ""]);
  const progress = [];
  const erasure = await newsfeed.eraseAll({ feed: FEED, everywhere: true }, { progress: ({ erased }) => progress.push(erased) });
  assert.deepEqual([erasure, progress], [{ id: "job", status: "done", erased: 8 }, [0, 6, 7]]);
  assert.deepEqual(requests[4].body, { feed: FEED, everywhere: true });
  running = Infinity;
  await assert.rejects(newsfeed.eraseAll({ actor: "user:a" }, { signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
});

test("an expired cursor starts again from the beginning, with a reset", async () => {
  let asStream = false;
  const { url } = await fake(({ path, response }) => {
    const reset = () => stream(response, frame("reset", { code: "cursor_expired", detail: "", version: version(9) }) + arrived(9));
    if (path.includes(`after=${version(1)}`)) return asStream ? reset() : problem(response, 410, "cursor_expired");
    if (path.includes("/live")) return stream(response, arrived(9));
    if (path.includes("/entries")) return json(response, { feed: FEED, version: version(9), entries: [], next: null });
    json(response, { ...state(9), latest: null });
  });
  for (asStream of [false, true]) {
    for (const history of [0, 5]) {
      const follower = new Collector(new Newsfeed({ url, random: () => 0 }).feed(FEED).follow({ after: version(1), history }));
      await follower.live();
      await follower.close();
      const types = follower.updates.map(({ type }) => type).filter((type) => ["reset", "start", "history"].includes(type));
      // The stream says where it continues.
      assert.deepEqual(types, history ? ["reset", "start", "history"] : asStream ? ["reset"] : ["reset", "start"]);
    }
  }
});

test("everything in the log is read page by page, also while retention removes something", async () => {
  const event = (n) => ({ feeds: [FEED], version: version(n), id: `e-${n}`, kind: "message", actor: null, at: "", data: null });
  const service = await fake(({ path, response }) => {
    const query = new URL(path, "http://fake").searchParams;
    // Something above the first page has gone.
    const isRefused = query.get("after") !== "0" && query.get("kept") !== "true";
    if (isRefused) return problem(response, 410, "cursor_expired");
    const n = query.get("after") === "0" ? 1 : 2;
    json(response, { version: version(9), events: [event(n)], next: n === 1 ? version(1) : null });
  });
  const ids = async (query) => {
    const found = [];
    for await (const { id } of new Newsfeed({ url: service.url }).log().events(query)) found.push(id);
    return found;
  };
  assert.deepEqual(await ids(), ["e-1", "e-2"]);
  await assert.rejects(ids({ after: version(1) }), { code: "cursor_expired" });
  const feed = new Newsfeed({ url: service.url }).feed(FEED);
  assert.equal((await feed.page({ after: version(1), kept: true })).next, null);
});

test("events do not depend on how their bytes are divided", async () => {
  server = http.createServer();
  const bytes = new TextEncoder().encode(": a comment\r\nretry: 7\n\nevent: x\r\ndata: é1\rdata:2\r\n\r\ndata\n\nid: 1\ndata: 😀\n\ndata: lost\n");
  const read = async (chunks) => {
    const body = new ReadableStream({ start: (to) => (chunks.forEach((chunk) => to.enqueue(chunk)), to.close()) });
    const all = [];
    for await (const event of events(body)) all.push(event);
    return all;
  };
  const wanted = [
    { event: "message", data: "", retry: 7 },
    { event: "x", data: "é1\n2", retry: null },
    { event: "message", data: "", retry: null },
    { event: "message", data: "😀", retry: null },
  ];
  for (let at = 0; at <= bytes.length; at += 1) {
    assert.deepEqual(await read([bytes.subarray(0, at), bytes.subarray(at)]), wanted, `divided at ${at}`);
  }
  assert.deepEqual(await read(Array.from(bytes, (byte) => Uint8Array.of(byte))), wanted);
});
