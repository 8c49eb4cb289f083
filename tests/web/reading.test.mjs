// The page in Chromium: an open chat is marked as read, and notifications do not repeat or cover what is on screen.
import assert from "node:assert/strict";
import { test } from "node:test";
import { DESKTOP, PHONE, badge, badgeIs, live, open, texts } from "./browser.mjs";
import { until } from "./harness.mjs";
import { browser, newsfeed, service, setUp } from "./scene.mjs";

setUp();

const message = (to, from, text) => ({
  kind: "message",
  feeds: [`user:${to}`, `chat:${[to, from].sort().join("-")}`],
  actor: `user:${from}`,
  data: { from, to, text },
});
const numbered = (to, from, count) => Array.from({ length: count }, (_, n) => message(to, from, `number ${n}`));
const own = (user) => newsfeed.feed(`user:${user}`).as(`user:${user}`);
const read = async (user) => (await own(user).state()).markers.read;

/** The marker moves of people's own feeds in the context's windows, as versions in the order of the requests. */
function marks(context) {
  const versions = [];
  context.on("request", (request) => {
    if (request.url().includes("/markers/read?feed=user")) versions.push(request.postDataJSON().version);
  });
  return versions;
}

/** Shows or hides the window as far as its page knows. */
const show = (page, visible) =>
  page.evaluate((state) => {
    Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, visible ? "visible" : "hidden");

async function write(page, text) {
  await page.locator("#text").fill(text);
  await page.locator("#text").press("Enter");
  await page.locator(".bubble.mine", { hasText: text }).locator("time").waitFor();
}

test("an open chat is marked as read, with the messages that arrive and one's own", async () => {
  await newsfeed.append(numbered("anna", "ben", 11));
  const context = await browser.window();
  const versions = marks(context);
  const page = await open(context, service.url, "anna");
  await badgeIs(page, "11");
  assert.deepEqual(versions, []);
  const other = await open(context, service.url, "anna");
  await page.locator("#entries .reply").first().click();
  for (const one of [page, other]) await badgeIs(one, "0");
  const { version } = await newsfeed.append(message("anna", "ben", "and one more"));
  await until("it is read", async () => (await read("anna")) >= version);
  await write(page, "mine");
  await newsfeed.append(message("anna", "ben", "an answer"));
  await until("all is read", async () => (await own("anna").state()).unread.total === 0);
  for (const one of [page, other]) await badgeIs(one, "0");
  // A marker never moves backwards.
  assert.deepEqual(versions, [...versions].sort());
  await context.close();
});

test("messages in quick succession are marked together, at most once a second", async () => {
  const context = await browser.window();
  const versions = marks(context);
  const page = await context.newPage();
  await page.clock.install();
  await page.goto(`${service.url}/?user=many&chat=ben`);
  await live(page);
  // From now on time passes only when the test says so.
  await page.clock.pauseAt(Date.now() + 5_000);
  for (let n = 1; n <= 10; n += 1) {
    await newsfeed.append(message("many", "ben", `number ${n}`));
    await until("the message", async () => (await page.locator(".bubble").count()) === n);
    await page.clock.runFor(50);
    await until("the first is marked", () => versions.length > 0);
  }
  await badgeIs(page, "9");
  await page.clock.runFor(1_000);
  await badgeIs(page, "0");
  assert.equal(versions.length, 2);
  await context.close();
});

test("several windows that show a chat mark it, and agree", async () => {
  const context = await browser.window();
  const versions = marks(context);
  const pages = [];
  for (let n = 0; n < 3; n += 1) pages.push(await open(context, service.url, "windows", "&chat=ben"));
  const events = numbered("windows", "ben", 60);
  for (let n = 0; n < events.length; n += 10) await newsfeed.append(events.slice(n, n + 10));
  for (const page of pages) {
    await until("all messages", async () => (await page.locator(".bubble").count()) === 60);
    await badgeIs(page, "0");
  }
  assert.equal(await read("windows"), [...versions].sort().at(-1));
  await context.close();
});

test("nothing is marked while the window is hidden, or below what is scrolled to", async () => {
  const context = await browser.window();
  const versions = marks(context);
  const page = await open(context, service.url, "hidden", "&chat=ben");
  await show(page, false);
  await newsfeed.append(numbered("hidden", "ben", 25));
  await badgeIs(page, "25");
  await until("all messages", async () => (await page.locator(".bubble").count()) === 25);
  await page.locator("#log").evaluate((log) => (log.scrollTop = 0));
  // The message lets the page look at what it shows.
  await write(page, "from behind");
  await page.locator("#log").evaluate((log) => (log.scrollTop = 0));
  assert.deepEqual([versions.length, await badge(page)], [0, "25"]);
  await show(page, true);
  await until("some are read", async () => Number(await badge(page)) < 25);
  assert.notEqual(await badge(page), "0");
  await page.locator("#log").evaluate((log) => (log.scrollTop = log.scrollHeight));
  await badgeIs(page, "0");
  await context.close();
});

test("what others wrote stays unread until it was on screen", async () => {
  await newsfeed.append([
    message("several", "ben", "before"),
    message("several", "cleo", "hello?"),
    message("several", "ben", "after"),
    { kind: "visit", feeds: ["user:several"], actor: "user:dora" },
  ]);
  const context = await browser.window();
  const page = await open(context, service.url, "several", "&chat=ben");
  await badgeIs(page, "2");
  assert.deepEqual(await page.locator(".entry.unread .text").allTextContents(), ["after", "hello?"]);
  await page.locator("#chat-close").click();
  await page.locator("#people button", { hasText: "Cleo" }).click();
  // The chat with Ben was on screen before.
  await badgeIs(page, "1");
  await page.locator("#chat-close").click();
  await page.locator("#people button", { hasText: "Ben" }).click();
  await badgeIs(page, "0");
  await context.close();
});

test("a notification pops up only for what is not on screen", async () => {
  const context = await browser.window({ lasting: true });
  await newsfeed.append(numbered("pops", "ben", 30));
  const page = await open(context, service.url, "pops");
  const shown = (text) => until(text, async () => (await texts(page))[0] === text);
  await newsfeed.append(message("pops", "cleo", "in the list"));
  await shown("in the list");
  assert.equal(await page.locator(".toast").count(), 0);
  await page.mouse.wheel(0, 1_000);
  await until("scrolled", () => page.evaluate(() => scrollY > 200));
  await newsfeed.append(message("pops", "cleo", "out of sight"));
  await page.locator(".toast", { hasText: "out of sight" }).waitFor();
  await page.locator(".toast").getByRole("button", { name: "Dismiss" }).click();
  await page.evaluate(() => scrollTo(0, 0));
  await until("at the top", async () => (await page.locator("#fresh").isVisible()) === false);
  await context.close();

  // On a phone an open chat covers the list.
  const small = await browser.window({ lasting: true, viewport: PHONE });
  const phone = await open(small, service.url, "pops", "&chat=ben");
  await until("the chat", async () => (await phone.locator(".bubble").count()) === 30);
  await newsfeed.append(message("pops", "ben", "in the chat"));
  await phone.locator(".bubble", { hasText: "in the chat" }).waitFor();
  assert.equal(await phone.locator(".toast").count(), 0);
  await newsfeed.append(message("pops", "cleo", "elsewhere"));
  await phone.locator(".toast", { hasText: "elsewhere" }).getByRole("button", { name: "Cleo elsewhere Open the chat" }).click();
  await until("the other chat", async () => (await phone.locator("#chat-title").textContent()).endsWith("Cleo"));
  await small.close();
});

for (const [size, viewport] of Object.entries({ phone: PHONE, desktop: DESKTOP, narrow: { width: 860, height: 600 } })) {
  test(`a notification covers neither the list nor a heading nor what one writes: ${size}`, async () => {
    const user = `cover-${size}`;
    await newsfeed.append(numbered(user, "ben", 30));
    const context = await browser.window({ lasting: true, viewport });
    const page = await open(context, service.url, user, "&chat=ben");
    await until("the chat", async () => (await page.locator(".bubble").count()) === 30);
    await page.evaluate(() => scrollTo(0, 700));
    if (size !== "phone") await until("scrolled", () => page.evaluate(() => scrollY > 200));
    await newsfeed.append(message(user, "n".repeat(50), "and many words ".repeat(20)));
    await page.locator(".toast").waitFor();
    const toast = await page.locator(".toast").boundingBox();
    const apart = (one, other) =>
      one.x >= other.x + other.width || other.x >= one.x + one.width || one.y >= other.y + other.height || other.y >= one.y + one.height;
    for (const name of ["#chat .head", "#log", "#compose", ".brand", ".actions"]) {
      assert.ok(apart(toast, await page.locator(name).boundingBox()), name);
    }
    // The bar covers the list anyway.
    const bar = await page.locator(".bar").boundingBox();
    assert.ok(size === "phone" || toast.y + toast.height <= bar.y + bar.height);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), viewport.width);
    await context.close();
  });
}
