// Windows that share one live stream, in Chromium over HTTP/1.1: what each gets, and who never shares with whom.
import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { after, afterEach, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Newsfeed } from "../../src/web/newsfeed.js";
import { Browser, badgeIs, open, texts } from "./browser.mjs";
import { Service, until } from "./harness.mjs";

const SECRET = randomBytes(32);

let service;
let guarded;
let browser;
let newsfeed;
before(async () => {
  [service, guarded, browser] = await Promise.all([
    Service.start(),
    Service.start({ NEWSFEED_AUTH_SECRET: SECRET.toString("hex") }),
    Browser.start(),
  ]);
  newsfeed = new Newsfeed({ url: service.url });
});
afterEach(() => assert.deepEqual(browser.complaints(true), []));
after(async () => {
  await browser.close();
  await Promise.all([service.stop(), guarded.stop()]);
});

const message = (user, text) => ({ kind: "message", feeds: [`user:${user}`], actor: "user:ben", data: { text } });
const numbered = (count, prefix = "number") => Array.from({ length: count }, (_, n) => `${prefix} ${n}`);

function token(sub, feeds, scope = "read append") {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub, scope, feeds, exp: Math.floor(Date.now() / 1000) + 86_400 };
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

/** How many live streams the service has. */
async function streams({ url } = service) {
  const headers = { authorization: `Bearer ${token("operator", [], "admin")}` };
  const text = await (await fetch(`${url}/metrics`, url === guarded.url ? { headers } : {})).text();
  return Number(/^newsfeed_live_streams (\d+)$/m.exec(text)[1]);
}

const streamsAre = (wanted, of) => until(`${wanted} streams`, async () => (await streams(of)) === wanted);

/** A window that follows a feed by the library alone, from the beginning of the feed. */
async function follower(context, feed, { service: { url } = service, token, reader, ...options } = {}) {
  const page = await context.newPage();
  await page.goto(url);
  await page.evaluate(
    async ([feed, token, reader, options]) => {
      const { Newsfeed } = await import("/newsfeed.js");
      const names = [feed].flat();
      const newsfeed = new Newsfeed({ token, random: () => 0 });
      const feeds = names.length > 1 ? newsfeed.feeds(names) : newsfeed.feed(names[0]);
      const of = reader ? feeds.as(reader) : feeds;
      Object.assign(globalThis, { texts: [], changes: [], signals: [], states: [], unread: null });
      globalThis.follow = of.live({ after: "0", ...options });
      (async () => {
        for await (const update of globalThis.follow) {
          if (["edited", "erased"].includes(update.type)) globalThis.changes.push(`${update.type} ${update.entry.id}`);
          if (update.type === "entry") globalThis.texts.push(update.entry.data.text);
          if (update.type === "transient") globalThis.signals.push(update.signal.data);
          if (update.type === "unread") globalThis.unread = update.unread.total;
          if (update.type === "status") globalThis.states.push(update.state);
          await globalThis.pause;
        }
      })().catch((error) => (globalThis.refusal = error.code));
    },
    [feed, token, reader, options],
  );
  return page;
}

const got = (page, what = "texts") => page.evaluate((what) => globalThis[what], what);
const isLive = (page) => until("live", async () => (await got(page, "states")).includes("live"));

/** Each window has got all of `wanted`, once and in order. */
async function allGot(pages, wanted) {
  for (const page of pages) {
    await until("all entries", async () => (await got(page)).length >= wanted.length);
    assert.deepEqual(await got(page), wanted);
  }
}

/** Appends until it is stopped, and says what. */
function writer(user) {
  const written = [];
  let writing = true;
  const done = (async () => {
    while (writing) {
      const text = `number ${written.length}`;
      await newsfeed.append(message(user, text));
      written.push(text);
      await sleep(2);
    }
  })();
  return {
    written,
    more: (count = 30) => {
      const before = written.length;
      return until("more entries", () => written.length >= before + count);
    },
    stop: async () => {
      writing = false;
      await done;
      return written;
    },
  };
}

test("eight windows of a person over HTTP/1.1 are all live, on one stream", async () => {
  const context = await browser.window();
  const pages = [];
  for (let n = 0; n < 8; n += 1) pages.push(await open(context, service.url, "eight"));
  await streamsAre(1);
  const wanted = numbered(30);
  for (const text of wanted) await newsfeed.append(message("eight", text));
  for (const page of pages) {
    await until("all entries", async () => (await texts(page)).length >= wanted.length);
    assert.deepEqual(await texts(page), [...wanted].reverse());
    await badgeIs(page, "30");
    assert.equal(await page.locator("#reconnects").getAttribute("data-count"), "0");
  }
  await pages[3].locator("#read").click();
  for (const page of pages) await badgeIs(page, "0");
  assert.equal(await streams(), 1);
  await context.close();
  await streamsAre(0);
});

test("windows that open at the same moment share, and each signal comes once to each", async () => {
  const context = await browser.window();
  const pages = await Promise.all(Array.from({ length: 8 }, () => follower(context, "user:moment")));
  await Promise.all(pages.map(isLive));
  await streamsAre(1);
  for (const n of [1, 2, 3]) {
    await newsfeed.transient({ kind: "typing", feeds: ["user:moment"], data: n });
    await newsfeed.append({ id: `moment-${n}`, ...message("moment", `number ${n}`) });
  }
  await newsfeed.edit("moment-1", { text: "edited" });
  await newsfeed.erase("moment-2");
  await newsfeed.append(message("moment", "number 4"));
  await allGot(pages, ["number 1", "number 2", "number 3", "number 4"]);
  for (const page of pages) {
    assert.deepEqual(await got(page, "signals"), [1, 2, 3]);
    assert.deepEqual(await got(page, "changes"), ["edited moment-1", "erased moment-2"]);
    await until("the badge", async () => (await got(page, "unread")) === 3);
  }
  await context.close();
});

for (const [how, end] of [
  ["is closed", (page) => page.close()],
  ["crashes", async (page) => {
    const session = await page.context().newCDPSession(page);
    const crashed = new Promise((resolve) => page.once("crash", resolve));
    session.send("Page.crash").catch(() => {});
    await crashed;
  }],
]) {
  test(`a window that ${how} while it has the stream is replaced, and the others miss nothing`, async () => {
    const user = `leader-${how.replace(" ", "-")}`;
    const context = await browser.window();
    const pages = [];
    // The first window is the first to have the stream, then the second, and so on.
    for (let n = 0; n < 4; n += 1) {
      pages.push(await follower(context, `user:${user}`));
      await isLive(pages[n]);
      await streamsAre(1);
    }
    const writing = writer(user);
    while (pages.length > 1) {
      await writing.more();
      await end(pages.shift());
      await writing.more();
    }
    const written = await writing.stop();
    await allGot(pages, written);
    assert.equal(await got(pages[0], "unread"), written.length);
    assert.deepEqual(new Set(await got(pages[0], "states")), new Set(["connecting", "live"]));
    await streamsAre(1);
    await context.close();
  });
}

test("a window that keeps the lead without passing anything on, as if frozen, loses it to another", async () => {
  const context = await browser.window();
  const pages = [];
  for (let n = 0; n < 3; n += 1) {
    pages.push(await follower(context, "user:frozen", { silence: 3_000 }));
    await isLive(pages[n]);
    await streamsAre(1);
  }
  const writing = writer("frozen");
  await writing.more();
  await pages[0].evaluate(() => {
    BroadcastChannel.prototype.postMessage = () => {};
  });
  // The others go on, and in the end all share again.
  for (const page of pages.slice(1)) {
    const before = writing.written.length;
    await until("it goes on", async () => (await got(page)).length > before);
  }
  await streamsAre(1);
  await writing.more();
  await allGot(pages, await writing.stop());
  await context.close();
});

test("a late window and a slow one read on their own until they have caught up", async () => {
  const user = "late";
  const events = numbered(2_500);
  for (let n = 0; n < events.length; n += 500) await newsfeed.append(events.slice(n, n + 500).map((text) => message(user, text)));
  const context = await browser.window();
  const first = await follower(context, `user:${user}`);
  await isLive(first);
  const late = await follower(context, `user:${user}`);
  await isLive(late);
  await streamsAre(1);
  // The loop of the window that has the stream stands still: the other is not held up.
  await first.evaluate(() => void (globalThis.pause = new Promise((resolve) => (globalThis.resume = resolve))));
  const more = numbered(2_500, "later");
  for (let n = 0; n < more.length; n += 500) await newsfeed.append(more.slice(n, n + 500).map((text) => message(user, text)));
  await allGot([late], [...events, ...more]);
  await first.evaluate(() => void ((globalThis.pause = null), globalThis.resume()));
  await allGot([first], [...events, ...more]);
  await streamsAre(1);
  await context.close();
});

test("all windows come back when the service does", async () => {
  const context = await browser.window();
  const pages = await Promise.all(Array.from({ length: 8 }, () => follower(context, "user:restart")));
  await Promise.all(pages.map(isLive));
  await newsfeed.append(message("restart", "before"));
  await allGot(pages, ["before"]);
  await service.kill();
  await service.again();
  await newsfeed.append(message("restart", "after"));
  await allGot(pages, ["before", "after"]);
  await streamsAre(1);
  await context.close();
});

test("windows with different feeds, tokens or services do not share", async () => {
  const context = await browser.window();
  const [anna, ben] = [token("user:anna", ["*"]), token("user:ben", ["*"])];
  const on = (token) => ({ service: guarded, token });
  const pages = [
    await follower(context, "user:private", on(anna)),
    await follower(context, "user:private", on(anna)),
    await follower(context, "user:private", on(ben)),
    await follower(context, ["user:private", "user:other"], on(anna)),
  ];
  await Promise.all(pages.map(isLive));
  await streamsAre(3, guarded);
  const stranger = await follower(context, "user:private", on(token("user:mallory", ["user:mallory"])));
  await until("it is refused", () => got(stranger, "refusal"));
  assert.equal(await got(stranger, "refusal"), "feed_forbidden");
  const elsewhere = await follower(context, "user:private");
  await isLive(elsewhere);
  await new Newsfeed({ url: guarded.url, token: anna }).append(message("private", "secret"));
  await allGot(pages, ["secret"]);
  assert.deepEqual([await got(stranger), await got(elsewhere)], [[], []]);
  await streamsAre(3, guarded);

  // One that is ended does not take the others' stream with it.
  await pages[0].evaluate(() => globalThis.follow.close());
  await new Newsfeed({ url: guarded.url, token: anna }).append(message("private", "again"));
  await allGot(pages.slice(1), ["secret", "again"]);
  await streamsAre(3, guarded);
  await context.close();
});

test("windows of different readers have streams and badges of their own, and those of one reader share", async () => {
  const context = await browser.window();
  const readers = ["user:anna", "user:anna", "user:ben", undefined];
  const pages = [];
  for (const reader of readers) pages.push(await follower(context, "chat:readers", { reader }));
  await Promise.all(pages.map(isLive));
  await streamsAre(3);
  const { version } = await newsfeed.append({ kind: "message", feeds: ["chat:readers"], actor: "user:ben", data: { text: "Hi" } });
  await allGot(pages, ["Hi"]);
  const badgesAre = (...wanted) => until(`badges ${wanted}`, async () => (await Promise.all(pages.map((page) => got(page, "unread")))).join() === wanted.join());
  await badgesAre(1, 1, 0, 1);
  await newsfeed.feed("chat:readers").as("user:anna").markRead(version);
  await badgesAre(0, 0, 0, 1);
  await context.close();
});

test("without locks, with share off and with a fetch of one's own each window has its own stream", async () => {
  const context = await browser.window();
  await newsfeed.append(message("alone", "before"));
  const pages = [await follower(context, "user:alone", { share: false }), await follower(context, "user:alone", { share: false })];
  await Promise.all(pages.map(isLive));
  await streamsAre(2);
  await context.close();
  const old = await browser.window();
  await old.addInitScript(() => Object.defineProperty(navigator, "locks", { value: undefined }));
  const others = [await follower(old, "user:alone"), await follower(old, "user:alone")];
  await Promise.all(others.map(isLive));
  await streamsAre(2);
  await newsfeed.append(message("alone", "after"));
  await allGot(others, ["before", "after"]);
  await old.close();
});
