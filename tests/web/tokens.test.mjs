// The library and the page against a service with authentication: tokens expire while a stream is open.
import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import { Newsfeed } from "../../src/web/newsfeed.js";
import { Browser, live, texts } from "./browser.mjs";
import { Collector, Service, until } from "./harness.mjs";

const SECRET = randomBytes(32);
/** Lifetimes in s: longer than any test, and so short that the token expires during one. */
const [LONG, SHORT] = [86_400, 3];

let service;
let browser;
before(async () => {
  service = await Service.start({ NEWSFEED_AUTH_SECRET: SECRET.toString("hex"), NEWSFEED_AUTH_LEEWAY_S: "0" });
  browser = await Browser.start();
});
after(async () => {
  await browser.close();
  await service.stop();
});

function token(seconds, feeds = ["*"], actors = undefined, ids = undefined, scope = "read append mark") {
  const part = (value) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
  const claims = { sub: "user:ben", scope, feeds, actors, ids, exp: Math.floor(Date.now() / 1000) + seconds };
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

const newsfeed = (token) => new Newsfeed({ url: service.url, token, random: () => 0 });
const message = (user, text) => ({ kind: "message", feeds: [`user:${user}`], actor: "user:ben", data: { text } });

test("the library renews a token that expires while it follows, and misses nothing", async () => {
  const writer = newsfeed(token(LONG));
  const asked = [];
  const given = ({ error }) => {
    asked.push(error?.code ?? null);
    return token(asked.length <= 2 ? SHORT : LONG);
  };
  const follower = new Collector(newsfeed(given).feed("user:ends").follow());
  const written = [];
  await until("two renewals", async () => {
    written.push((await writer.append(message("ends", "text"))).id);
    return asked.length > 2;
  });
  await follower.until("all", () => follower.ids.length === written.length);
  await follower.close();
  assert.deepEqual(follower.ids, written);
  assert.ok(asked.slice(1).every((code) => code === "token_expired"), `${asked}`);
});

test("a missing right is reported with its code", async () => {
  await assert.rejects(newsfeed().feed("user:a").state(), { status: 401, code: "credentials_missing" });
  await assert.rejects(newsfeed(token(-10)).feed("user:a").state(), { status: 401, code: "token_expired" });
  const narrow = newsfeed(token(LONG, ["user:b"])).feed("user:a");
  await assert.rejects(new Collector(narrow.follow()).done, { status: 403, code: "feed_forbidden" });
});

test("the library fills in the only actor of the token, and an explicit one wins", async () => {
  const as = (...actors) => newsfeed(token(LONG, ["*"], actors)).feed("user:actors");
  const anna = as("user:anna");
  await anna.append({ kind: "visit" });
  await anna.append([{ kind: "visit" }, { kind: "visit", actor: "user:anna" }]);
  await anna.transient({ kind: "typing" });
  await assert.rejects(anna.append({ kind: "visit", actor: "user:ben" }), { status: 403, code: "actor_forbidden" });
  await assert.rejects(anna.append({ kind: "visit", actor: null }), { status: 403, code: "actor_forbidden" });
  for (const several of [as("user:*"), as("user:anna", "user:ben"), as()]) {
    await assert.rejects(several.append({ kind: "visit" }), { status: 403, code: "actor_forbidden" });
  }
  const any = newsfeed(() => token(LONG)).feed("user:actors");
  await any.append({ kind: "visit" });
  const { entries } = await any.page();
  assert.deepEqual(entries.map(({ actor }) => actor), [null, "user:anna", "user:anna", "user:anna"]);
});

test("the library makes ids that the token allows", async () => {
  const as = (actors, ids) => newsfeed(token(LONG, ["*"], actors, ids)).feed("user:ids");
  const visit = { kind: "visit", actor: "user:ben" };
  const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
  for (const [feed, event, prefix] of [
    [as(["user:ben"]), { kind: "visit" }, "user:ben/"],
    [as(["user:*"]), visit, "user:ben/"],
    [as(undefined, undefined), visit, "user:ben/"],
    [as(undefined, undefined), { kind: "visit" }, ""],
    [as(["user:ben"], ["one", "shop-*"]), visit, "shop-"],
    [as(undefined, ["*"]), visit, ""],
  ]) {
    const one = await feed.append(event);
    const [two] = await feed.append([{ ...event, id: null }]);
    for (const { id, status } of [one, two]) {
      assert.equal(status, "appended");
      assert.ok(id.startsWith(prefix), id);
      assert.match(id.slice(prefix.length), uuid);
    }
    await feed.transient({ ...event, kind: "typing" });
  }
  await assert.rejects(as(["user:ben"]).append({ ...visit, id: "invoice-7" }), { status: 403, code: "id_forbidden" });
});

test("the page sends and deletes messages with a token that is restricted to its actor", async () => {
  const context = await browser.window();
  const page = await context.newPage();
  await page.goto(`${service.url}/?user=kim&chat=lee`);
  await page.getByLabel("Token", { exact: true }).fill(token(LONG, ["*"], ["user:kim"]));
  await page.getByRole("button", { name: "Use it" }).click();
  await live(page);
  await page.locator("#text").fill("Hi");
  await page.locator("#text").press("Enter");
  const chat = newsfeed(token(LONG)).feed("chat:kim-lee");
  await until("the message", async () => (await chat.page()).entries.length === 1);
  const { entries } = await chat.page();
  assert.ok(entries[0].id.startsWith("user:kim/"), entries[0].id);

  // This token has no right to change it; the next one has.
  await page.locator(".bubble time").waitFor();
  assert.equal(await page.locator(".acts").isVisible(), false);
  await page.locator("#token").click();
  await page.getByLabel("Token", { exact: true }).fill(token(LONG, ["*"], ["user:kim"], undefined, "read append mark change"));
  await page.getByRole("button", { name: "Use it" }).click();
  await page.getByRole("button", { name: "Delete message: Hi" }).click();
  await page.getByRole("button", { name: "Delete", exact: true }).click();
  await page.locator(".bubble").waitFor({ state: "detached" });
  assert.deepEqual((await chat.page()).entries, []);
  await context.close();
});

test("the page asks for a token, says that it has expired, and continues with a new one", async () => {
  const writer = newsfeed(token(LONG));
  await writer.append(message("anna", "before"));
  const context = await browser.window();
  const page = await context.newPage();
  const give = async (token) => {
    await page.getByLabel("Token", { exact: true }).fill(token);
    await page.getByRole("button", { name: "Use it" }).click();
  };
  await page.goto(`${service.url}/?user=anna`);
  await page.locator("#token-why", { hasText: "requires a token" }).waitFor();
  await give(token(SHORT));
  await page.locator("#token-why", { hasText: "has expired" }).waitFor();
  await writer.append(message("anna", "meanwhile"));
  await give(token(LONG));
  await live(page);
  await until("all", async () => (await texts(page)).length >= 2);
  await writer.append(message("anna", "after"));
  await until("the last", async () => (await texts(page)).length >= 3);
  assert.deepEqual(await texts(page), ["after", "meanwhile", "before"]);
  const others = await context.newPage();
  await others.goto(`${service.url}/?user=anna`);
  await others.locator("#token-why", { hasText: "requires a token" }).waitFor();
  await context.close();
});

test("removing the token logs the browser out: no cookie, and nothing in its cache", async () => {
  const { version } = await newsfeed(token(LONG)).append(message("leaves", "secret"));
  const context = await browser.window();
  const page = await context.newPage();
  const kept = `${service.url}/v1/feeds/user:leaves/entries?until=${version}`;
  const isCached = () => page.evaluate((url) => fetch(url, { cache: "only-if-cached", mode: "same-origin" }).then(() => true, () => false), kept);
  await page.goto(`${service.url}/?user=leaves`);
  await page.getByLabel("Token", { exact: true }).fill(token(LONG));
  await page.getByRole("button", { name: "Use it" }).click();
  await live(page);
  await page.evaluate(
    async ([url, headers]) => {
      await fetch("/v1/session", { method: "POST", headers });
      await (await fetch(url)).text();
    },
    [kept, { authorization: `Bearer ${token(LONG)}` }],
  );
  assert.deepEqual((await context.cookies()).map(({ name }) => name), ["newsfeed_token"]);
  assert.equal(await isCached(), true);

  await page.locator("#token").click();
  await page.getByRole("button", { name: "Use it" }).click();
  // With the cookie, the page would go on.
  await page.locator("#token-why", { hasText: "requires a token" }).waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.deepEqual(await context.cookies(), []);
  assert.equal(await isCached(), false);
  await context.close();
});
