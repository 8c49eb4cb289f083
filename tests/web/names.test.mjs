// The client library with names of real systems, and with redirects.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { Newsfeed, NewsfeedError } from "../../src/web/newsfeed.js";
import { isName } from "../../src/web/ui/words.js";
import { Collector, Service } from "./harness.mjs";

const NAMES = [
  "repo:owner/name",
  "dependabot[bot]",
  "https://example.social/users/anna",
  "at://did:plc:abc/app.bsky.feed.post/3k",
  "#channel",
  "anna+news@example.com",
  "auth0|5f7c",
  "Zoë",
  "日本語",
  "a b",
  "👩\u200d💻 & 🚀",
  'say "hi" \\o/',
  "100%25?&=;,<>",
];

let service;
let newsfeed;
before(async () => {
  service = await Service.start();
  newsfeed = new Newsfeed({ url: service.url });
});
after(() => service.stop());

test("each name works everywhere", async () => {
  const all = new Collector(newsfeed.feeds(NAMES).follow());
  await all.live();
  for (const name of NAMES) {
    const feed = newsfeed.feed(name);
    const own = new Collector(feed.follow());
    await own.live();
    const appended = await feed.append({ id: name, kind: "message", actor: name, data: name });
    assert.deepEqual([appended.id, appended.status], [name, "appended"]);
    for (const follower of [own, all]) {
      await follower.until(`the entry of ${name}`, ({ ids }) => ids.includes(name));
      const { entry } = follower.of("entry").at(-1);
      assert.deepEqual([entry.feed, entry.actor, entry.data], [name, name, name]);
    }
    assert.equal((await feed.page({ kind: "message" })).entries[0].actor, name);
    const state = await feed.state();
    assert.deepEqual([state.feed, state.unread.total], [name, 1]);
    const marked = await feed.markRead(state.version);
    assert.deepEqual([marked.feed, marked.unread.total], [name, 0]);
    assert.equal((await feed.markSeen(state.version)).markers.seen, state.version);
    await own.close();
  }
  const { feeds } = await newsfeed.feeds(NAMES).state();
  assert.deepEqual(feeds.map(({ feed }) => feed), NAMES);
  await all.close();
});

test("a name that is not valid is refused, not changed", async () => {
  const wrong = (code, detail) => (error) => error instanceof NewsfeedError && error.code === code && detail.test(error.detail);
  await assert.rejects(newsfeed.feed("Zoe\u0308").state(), wrong("invalid_feed", /normalize it to NFC/));
  await assert.rejects(newsfeed.feed("a*").state(), wrong("invalid_feed", /must not contain `\*`/));
  // Half of an emoji; an encoder that replaces it would read another feed.
  await assert.rejects(newsfeed.feed("👋".slice(0, 1)).state(), wrong("invalid_query", /surrogate/));
});

test("the page accepts what the service accepts", () => {
  for (const name of NAMES) assert.ok(isName(name), name);
  for (const name of ["", " a", "a\u3000", "a*", "a\n", "\u202ea", "\ufeffa", "Zoe\u0308", "👋".slice(0, 1), "é".repeat(51)]) {
    assert.ok(!isName(name), JSON.stringify(name));
  }
});

/** A server that redirects everything to `base`. */
async function redirecting(base, status) {
  const server = createServer((request, response) => {
    request.resume();
    response.writeHead(status, { location: base + request.url }).end();
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  after(() => server.close());
  return `http://127.0.0.1:${server.address().port}`;
}

test("a redirect is not followed, and the error names the url to use", async () => {
  for (const status of [301, 302, 303, 307, 308]) {
    const url = await redirecting(`${service.url}/x`, status);
    const moved = new Newsfeed({ url });
    const event = { kind: "visit" };
    for (const call of [
      () => moved.feed("moved").append(event),
      () => moved.feed("moved").state(),
      () => moved.feed("moved").live().next().then(({ value }) => value.state === "connecting" && moved.feed("moved").page()),
    ]) {
      await assert.rejects(call(), (error) => {
        assert.deepEqual([error.code, error.status, error.temporary], ["redirected", status, false]);
        assert.ok(error.detail.endsWith(`use the url ${service.url}/x`), error.detail);
        return true;
      });
    }
  }
  assert.equal((await newsfeed.feed("moved").state()).latest, null);
});

test("a redirect takes nothing to another origin", async () => {
  const arrived = [];
  const other = createServer((request, response) => {
    arrived.push(request);
    response.end("{}");
  });
  await new Promise((listening) => other.listen(0, "127.0.0.1", listening));
  after(() => other.close());
  const url = await redirecting(`http://127.0.0.1:${other.address().port}`, 307);
  // In browsers, the target of a redirect is hidden.
  const opaque = async (url, init) => {
    const response = await fetch(url, init);
    const hidden = init.redirect === "manual" && response.status === 307;
    return hidden ? { type: "opaqueredirect", status: 0, ok: false, headers: new Headers() } : response;
  };
  for (const [options, expected] of [[{}, 0], [{ fetch: opaque }, 2]]) {
    const feed = new Newsfeed({ url, token: "a.b.c", ...options }).feed("private");
    const refused = (call) => assert.rejects(call, { code: "redirected", temporary: false });
    await refused(feed.append({ kind: "visit", data: "private" }));
    await refused(feed.state());
    assert.equal(arrived.length, expected);
  }
  for (const { method, url, headers } of arrived) {
    assert.equal(method, "GET");
    assert.ok(!url.includes("private"), url);
    for (const name of ["authorization", "cookie", "content-length", "referer"]) assert.equal(headers[name], undefined, name);
  }
});
