// The page in Chromium: what it shows of a feed, in one window and in two.
import assert from "node:assert/strict";
import { test } from "node:test";
import { PHONE, badgeIs, live, open, texts } from "./browser.mjs";
import { until } from "./harness.mjs";
import { browser, newsfeed, service, setUp } from "./scene.mjs";

setUp();

const message = (to, from, text) => ({
  kind: "message",
  feeds: [`user:${to}`, `chat:${[to, from].sort().join("-")}`],
  actor: `user:${from}`,
  data: { from, to, text },
});
const typing = (to, from) => ({ ...message(to, from), kind: "typing", data: null });
const numbered = (from, to) => Array.from({ length: to - from }, (_, n) => `number ${from + n}`);

test("a person is picked from the suggestions or by name", async () => {
  const context = await browser.window();
  const page = await context.newPage();
  await page.goto(service.url);
  await page.getByRole("button", { name: "Anna" }).click();
  await live(page);
  assert.equal(await page.getByRole("heading", { level: 1 }).textContent(), "Anna’s newsfeed");
  await page.locator("#empty").waitFor();
  await page.getByRole("link", { name: "newsfeed", exact: true }).click();
  await page.getByLabel("Name").fill("any*body");
  await page.getByRole("button", { name: "Open" }).click();
  assert.equal(new URL(page.url()).search, "");
  await page.getByLabel("Name").fill("zora");
  await page.getByRole("button", { name: "Open" }).click();
  await live(page);
  assert.equal(new URL(page.url()).search, "?user=zora");
  await page.goBack();
  await page.getByLabel("Name").waitFor();
  await context.close();
});

test("history up to vN, live from it, and paging back to the first entry", async () => {
  await newsfeed.append(numbered(0, 95).map((text) => message("paging", "ben", text)));
  const { version } = await newsfeed.feed("user:paging").state();
  const context = await browser.window();
  const page = await open(context, service.url, "paging");
  assert.ok((await page.locator("#version").getAttribute("data-version")) >= version);
  assert.deepEqual((await texts(page)).slice(0, 30), numbered(65, 95).reverse());

  const { version: next } = await newsfeed.append(message("paging", "ben", "number 95"));
  await until("the new entry", async () => (await texts(page))[0] === "number 95");
  await until("its version", async () => (await page.locator("#version").getAttribute("data-version")) >= next);
  await newsfeed.append({ kind: "visit", feeds: ["user:paging"], actor: "user:cleo" });
  await newsfeed.append({ kind: "flirt", feeds: ["user:paging"], actor: "user:dora", data: { text: "wow" } });
  await page.locator("#entries li:first-child.flirt").waitFor();
  await page.locator("#entries li:nth-child(2).visit", { hasText: "Cleo visited your profile" }).waitFor();

  // By scrolling.
  await until("the first entry", async () => {
    await page.mouse.wheel(0, 2_000);
    return page.locator("#first").isVisible();
  });
  await until("all entries", async () => (await texts(page)).length === 97);
  assert.deepEqual(await texts(page), ["wow", ...numbered(0, 96).reverse()]);

  // When scrolled down, new entries are announced and do not move the visible ones.
  const reading = await page.locator("#entries li").last().boundingBox();
  await newsfeed.append(message("paging", "ben", "number 96"));
  await page.getByRole("button", { name: "↑ 1 new entry" }).waitFor();
  assert.ok(Math.abs((await page.locator("#entries li").last().boundingBox()).y - reading.y) < 5);
  await page.getByRole("button", { name: "↑ 1 new entry" }).click();
  await page.locator("#fresh").waitFor({ state: "hidden" });
  await context.close();
});

test("an entry shows when it happened, not when it was imported", async () => {
  const time = "2004-04-15T12:56:01Z";
  await newsfeed.append([message("timed", "ben", "new"), { ...message("timed", "ben", "imported"), time }]);
  const context = await browser.window();
  const page = await open(context, service.url, "timed");
  const [imported, fresh] = [0, 1].map((n) => page.locator("#entries time").nth(n));
  assert.equal(await imported.textContent(), "Apr 15, 2004");
  assert.equal(await imported.getAttribute("datetime"), time);
  assert.match(await imported.getAttribute("title"), /^2004-04-15T12:56:01Z \(accepted 2\d{3}-/);
  assert.match(await fresh.textContent(), /^(now|\d+[sm])$/);
  const chat = await open(context, service.url, "timed", "&chat=ben");
  await chat.locator(".bubble time", { hasText: "Apr 15, 2004" }).waitFor();
  await context.close();
});

test("the badge is the same in all windows", async () => {
  const context = await browser.window();
  const [one, other] = [await open(context, service.url, "badge"), await open(context, service.url, "badge")];
  await newsfeed.append(message("badge", "ben", "first"));
  for (const page of [one, other]) await badgeIs(page, "1");
  await newsfeed.append([message("badge", "ben", "second"), message("badge", "cleo", "third")]);
  await newsfeed.append({ kind: "visit", feeds: ["user:badge"], actor: "user:ben" });
  for (const page of [one, other]) {
    await badgeIs(page, "3");
    await until("the title", async () => (await page.title()) === "(3) Badge · newsfeed");
    assert.equal(await page.locator(".entry.unread").count(), 3);
  }
  const late = await open(context, service.url, "badge");
  await badgeIs(late, "3");

  await one.getByRole("button", { name: "3 unread: mark all as read" }).click();
  for (const page of [one, other, late]) {
    await badgeIs(page, "0");
    await until("the title", async () => (await page.title()) === "Badge · newsfeed");
    await page.locator(".entry.unread").first().waitFor({ state: "detached" });
  }
  await newsfeed.append(message("badge", "ben", "fourth"));
  for (const page of [one, other, late]) await badgeIs(page, "1");
  await context.close();
});

test("a typing indicator appears, and disappears with the message or by itself", async () => {
  const context = await browser.window({ lasting: true });
  const page = await open(context, service.url, "typed");
  const says = (page, text) => until(text, async () => (await page.locator("#feed-typing").textContent()) === text);
  await newsfeed.transient(typing("typed", "ben"));
  await says(page, "Ben is typing …");
  await newsfeed.transient(typing("typed", "cleo"));
  await says(page, "Ben, Cleo are typing …");
  await newsfeed.append(message("typed", "ben", "done"));
  await says(page, "Cleo is typing …");
  await context.close();

  const fading = await browser.window();
  const other = await open(fading, service.url, "typed");
  await until("typing", async () => {
    await newsfeed.transient(typing("typed", "ben"));
    return other.locator("#feed-typing").isVisible();
  });
  await other.locator("#feed-typing").waitFor({ state: "hidden" });
  await fading.close();
});

test("two people chat: they see each other type, and each message once, in order, also after a reload", async () => {
  const context = await browser.window({ lasting: true });
  const anna = await open(context, service.url, "annachat", "&chat=benchat");
  const ben = await open(context, service.url, "benchat");
  await anna.locator("#text").pressSequentially("Hi Ben");
  await until("typing", async () => (await ben.locator("#feed-typing").textContent()) === "Annachat is typing …");
  await anna.locator("#text").press("Enter");
  await ben.locator(".entry", { hasText: "Hi Ben" }).getByRole("button", { name: "Reply to Annachat" }).click();
  await ben.locator(".bubble.theirs", { hasText: "Hi Ben" }).waitFor();
  await ben.locator("#text").pressSequentially("Hi Anna");
  await until("typing", async () => (await anna.locator("#chat-typing").textContent()) === "Benchat is typing …");
  await ben.locator("#text").press("Enter");
  for (const [page, text] of [[anna, "one"], [ben, "two"], [anna, "three"], [anna, "four"], [ben, "five"]]) {
    await page.locator("#text").fill(text);
    await page.locator("#text").press("Enter");
    for (const both of [anna, ben]) await both.locator(".bubble", { hasText: text }).locator("time").waitFor();
  }
  const wanted = ["Hi Ben", "Hi Anna", "one", "two", "three", "four", "five"];
  const bubbles = (page) => page.locator(".bubble .text").allTextContents();
  for (const page of [anna, ben]) assert.deepEqual(await bubbles(page), wanted);
  // Own messages are not in one's own feed.
  assert.deepEqual((await texts(anna)).sort(), ["Hi Anna", "five", "two"]);
  await anna.reload();
  await until("the conversation", async () => (await bubbles(anna)).length === wanted.length);
  assert.deepEqual(await bubbles(anna), wanted);
  assert.equal(await anna.locator(".bubble.mine").count(), 4);
  await context.close();
});

test("a long conversation is paged back to its beginning", async () => {
  await newsfeed.append(numbered(0, 70).map((text) => message("longa", "longb", text)));
  const context = await browser.window();
  const page = await open(context, service.url, "longa", "&chat=longb");
  for (const loaded of [30, 60, 70]) {
    await until(`${loaded} messages`, async () => (await page.locator(".bubble").count()) === loaded);
    if (loaded < 70) await page.getByRole("button", { name: "Load older messages" }).click();
  }
  await page.locator("#chat-first").waitFor();
  assert.deepEqual(await page.locator(".bubble .text").allTextContents(), numbered(0, 70));
  await context.close();
});

test("what other people wrote is shown as text, whatever it looks like", async () => {
  const evil = '<img src=x onerror="globalThis.hacked = 1"><script>globalThis.hacked = 2</script>';
  const data = { from: evil, to: evil, text: evil };
  await newsfeed.append([
    { ...message("xss", "ben", evil), data },
    { kind: "flirt", feeds: ["user:xss"], data },
    { kind: "visit", feeds: ["user:xss"], data },
    { kind: "other", feeds: ["user:xss"], data: [evil] },
    { kind: "message", feeds: ["user:xss"], data: evil },
    { kind: "flirt", feeds: ["user:xss"], data: { from: { a: 1 }, text: 3 } },
    { kind: "flirt", feeds: ["user:xss"], data: null },
  ]);
  // On a phone the chats cover the list, so that the last message pops up.
  const context = await browser.window({ lasting: true, viewport: PHONE });
  const page = await open(context, service.url, "xss", "&chat=ben");
  await page.locator(".bubble").waitFor();
  await newsfeed.append({ ...message("xss", "ben", evil), data });
  await page.locator(".bubble").nth(1).waitFor();
  await page.locator("#chat-close").click();
  await newsfeed.append({ ...message("xss", "ben", evil), data });
  await page.locator(".toast").waitFor();
  await page.goto(`${service.url}/?user=${encodeURIComponent(evil)}&chat=${encodeURIComponent(evil)}`);
  await live(page);
  assert.match(await page.getByRole("heading", { level: 1 }).textContent(), /^<img src=x .*<\/script>’s newsfeed$/);
  assert.equal(await page.evaluate(() => document.querySelectorAll("main img, main script, [onerror]").length + (globalThis.hacked ?? 0)), 0);
  await page.goBack();
  await until("the entries", async () => (await page.locator(".entry").count()) === 9);
  assert.equal(await page.locator("#entries .text", { hasText: "<img src=x" }).count(), 7);
  assert.equal(await page.locator("#entries strong", { hasText: "<img src=x" }).count(), 2);
  assert.equal(await page.evaluate(() => document.querySelectorAll("main img, main script, [onerror]").length + (globalThis.hacked ?? 0)), 0);
  await context.close();
});

test("entries since the last visit are marked", async () => {
  await newsfeed.append(numbered(0, 5).map((text) => message("again", "ben", text)));
  const context = await browser.window();
  const page = await open(context, service.url, "again");
  assert.equal(await page.locator(".divider").count(), 0);
  await page.close();
  await newsfeed.append(numbered(5, 8).map((text) => message("again", "ben", text)));
  const back = await open(context, service.url, "again");
  assert.equal(await back.locator(".divider").textContent(), "3 entries new since your last visit");
  assert.equal(await back.locator("#entries li:nth-child(4).divider").count(), 1);
  await context.close();
});
