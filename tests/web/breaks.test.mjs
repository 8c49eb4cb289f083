// The page in Chromium when something fails: the service is killed, the machine sleeps, a token expires.
import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { test } from "node:test";
import { badgeIs, live, open, texts } from "./browser.mjs";
import { until } from "./harness.mjs";
import { browser, newsfeed, service, setUp } from "./scene.mjs";

setUp({ away: true, random: () => 0.02 });

const message = (user, text) => ({ kind: "message", feeds: [`user:${user}`], actor: "user:ben", data: { text } });
const reconnects = async (page) => Number(await page.locator("#reconnects").getAttribute("data-count"));

test("the service is killed and comes back while events arrive: nothing is lost, nothing is doubled", async () => {
  const context = await browser.window();
  const pages = [await open(context, service.url, "killed"), await open(context, service.url, "killed")];
  const written = [];
  let writing = true;
  const writer = (async () => {
    while (writing && written.length < 400) {
      const text = `number ${written.length}`;
      await newsfeed.append(message("killed", text), { patience: Infinity });
      written.push(text);
    }
  })();
  for (const signal of ["SIGKILL", "SIGTERM"]) {
    const sofar = written.length;
    await until("more entries", () => written.length >= Math.min(sofar + 50, 400));
    const before = await Promise.all(pages.map(reconnects));
    await service.kill(signal);
    for (const [n, page] of pages.entries()) await until("a break", async () => (await reconnects(page)) > before[n]);
    await service.again();
    for (const [n, page] of pages.entries()) {
      await page.locator("#retry").click({ timeout: 2_000 }).catch(() => {}); // Or it reconnected by itself.
      await live(page);
      await until("what was caught up", async () => /^caught up \d+ entr/.test(await page.locator("#caught-up").textContent()));
    }
  }
  writing = false;
  await writer;
  for (const page of pages) {
    await until("all", async () => (await texts(page)).length >= written.length);
    assert.deepEqual(await texts(page), [...written].reverse());
    await badgeIs(page, String(written.length));
  }
  await context.close();
});

test("after the machine slept the page catches up by itself", async () => {
  const context = await browser.window();
  const page = await context.newPage();
  await page.clock.install();
  await page.goto(`${service.url}/?user=slept`);
  await live(page);
  await newsfeed.append(message("slept", "before"));
  await until("an entry", async () => (await texts(page)).length === 1);
  // A silent dead connection: no data, no end.
  process.kill(service.pid, "SIGSTOP");
  await page.clock.fastForward("01:00:00");
  await until("a break", async () => (await reconnects(page)) > 0);
  process.kill(service.pid, "SIGCONT");
  await newsfeed.append([message("slept", "meanwhile"), message("slept", "and again")], { patience: Infinity });
  await until("the rest", async () => {
    await page.clock.fastForward(5_000);
    return (await texts(page)).length >= 3;
  });
  assert.deepEqual(await texts(page), ["and again", "meanwhile", "before"]);
  await context.close();
});

test("a message written while the service is down is sent exactly once when it is back", async () => {
  const context = await browser.window();
  const page = await open(context, service.url, "writer", "&chat=reader");
  await service.kill();
  await page.locator("#text").fill("are you there?");
  await page.locator("#text").press("Enter");
  await page.locator(".bubble .note", { hasText: "Sending" }).waitFor();
  // It cannot be edited or deleted before it is stored.
  assert.equal(await page.locator(".acts").count(), 0);
  await until("a break", async () => (await reconnects(page)) > 0);
  await service.again();
  await page.locator(".bubble time").waitFor();
  assert.equal(await page.locator(".bubble").count(), 1);
  assert.equal(await page.locator(".acts button").count(), 2);
  const { entries } = await newsfeed.feed("user:reader").page();
  assert.deepEqual(entries.map(({ data }) => data.text), ["are you there?"]);
  await context.close();
});

test("one's own message is edited and deleted in one window, and so in all others, also in one that was offline", async () => {
  const contexts = [await browser.window(), await browser.window(), await browser.window()];
  const [anna, away] = await Promise.all(contexts.slice(0, 2).map((context) => open(context, service.url, "anna", "&chat=ben")));
  const ben = await open(contexts[2], service.url, "ben");
  for (const text of ["Hi Bne", "Are you there?"]) {
    await anna.locator("#text").fill(text);
    await anna.locator("#text").press("Enter");
    await away.locator(".bubble", { hasText: text }).waitFor();
  }
  await badgeIs(ben, "2");
  await contexts[1].setOffline(true);
  // The emulation leaves open connections alone: this gives up the stream.
  await away.evaluate(() => dispatchEvent(new Event("pagehide")));
  await until("a failed try", async () => (await away.locator("#reconnects").getAttribute("data-count")) > 0);

  // By the keyboard.
  const bubble = anna.locator(".bubble", { hasText: "Hi" });
  const editor = anna.getByLabel("Edit message", { exact: true });
  await bubble.getByRole("button", { name: "Edit message: Hi Bne" }).press("Enter");
  await editor.press("Escape");
  assert.equal(await bubble.locator(".text").textContent(), "Hi Bne");
  assert.equal(await anna.evaluate(() => document.activeElement.textContent), "Edit");
  await anna.keyboard.press("Enter");
  await editor.fill("Hi Ben");
  await editor.press("Enter");
  await anna.locator(".bubble .edited").waitFor();
  assert.match(await anna.locator(".bubble .edited").getAttribute("title"), /^Edited 2\d{3}-/);
  await ben.locator(".entry .edited").waitFor();
  assert.deepEqual(await texts(ben), ["Are you there?", "Hi Ben"]);
  const erase = anna.getByRole("button", { name: "Delete message: Are you there?" });
  await erase.press("Enter");
  await anna.getByRole("dialog", { name: "Delete this message?" }).getByText("Are you there?").waitFor();
  await anna.keyboard.press("Escape");
  const bubbles = (page) => page.locator(".bubble .text").allTextContents();
  assert.deepEqual(await bubbles(anna), ["Hi Ben", "Are you there?"]);
  await erase.press("Enter");
  // Closed, and opened again before the page is told that it was closed.
  await anna.locator("#erase-dialog").evaluate((dialog) => (dialog.close(), document.querySelector(".bubble:last-child .acts button:last-child").click()));
  await anna.getByRole("button", { name: "Delete", exact: true }).press("Enter");
  await until("it is gone here", async () => (await bubbles(anna)).join() === "Hi Ben");
  await until("it is gone in the list", async () => (await texts(ben)).join() === "Hi Ben");
  await badgeIs(ben, "1");
  await ben.locator("#people .preview", { hasText: "Hi Ben" }).waitFor();
  assert.deepEqual(await bubbles(away), ["Hi Bne", "Are you there?"]);
  await contexts[1].setOffline(false);
  await until("it is gone where it was offline", async () => (await bubbles(away)).join() === "Hi Ben");

  // Errors: somebody was faster.
  await bubble.getByRole("button", { name: "Edit" }).click();
  const { entries } = await newsfeed.feed("user:ben").page();
  await newsfeed.edit(entries[0].id, { ...entries[0].data, text: "Hi all" });
  await until("the edit", async () => (await bubbles(away)).join() === "Hi all");
  await editor.fill("Hi nobody");
  await editor.press("Enter");
  await anna.getByRole("alert").filter({ hasText: "Not saved: it was edited elsewhere meanwhile." }).waitFor();
  await anna.getByRole("button", { name: "Cancel" }).click();
  assert.equal(await anna.locator(".bubble .text").textContent(), "Hi all");
  // What others wrote cannot be changed here.
  await ben.locator("#people button").click();
  await ben.locator(".bubble.theirs").waitFor();
  assert.equal(await ben.locator(".acts").count(), 0);
  for (const context of contexts) await context.close();
});

test("a token is asked for, expires, and a new one continues where the page is", async () => {
  await newsfeed.append(message("tokens", "number 0"));
  const context = await browser.window();
  // Simulates authentication in front of the service.
  let good = "the first";
  let refusal = "credentials_missing";
  await context.route(/\/v1\//, async (route) => {
    if ((await route.request().headerValue("authorization")) === `Bearer ${good}`) return route.continue();
    const problem = { type: "about:blank", title: "Unauthorized", status: 401, code: refusal, detail: "no good token" };
    await route.fulfill({ status: 401, contentType: "application/problem+json", body: JSON.stringify(problem) });
  });
  const page = await context.newPage();
  await page.goto(`${service.url}/?user=tokens`);
  await page.locator("#token-why", { hasText: "requires a token" }).waitFor();
  await page.getByLabel("Token", { exact: true }).fill("a wrong one");
  refusal = "token_invalid";
  await page.getByRole("button", { name: "Use it" }).click();
  await page.locator("#token-why", { hasText: "refused this token: no good token" }).waitFor();
  await page.getByLabel("Token", { exact: true }).fill(good);
  await page.getByRole("button", { name: "Use it" }).click();
  await live(page);
  assert.equal(await page.evaluate(() => sessionStorage.getItem("newsfeed.token")), good);

  [good, refusal] = ["the second", "token_expired"];
  await service.kill();
  await service.again();
  await page.locator("#token-why", { hasText: "has expired" }).waitFor();
  await newsfeed.append(message("tokens", "number 1"), { patience: Infinity });
  // Cancelled: the page says so, and keeps its entries.
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.locator("#failure", { hasText: "no good token" }).waitFor();
  assert.equal(await page.locator("#state").textContent(), "No access");
  assert.deepEqual(await texts(page), ["number 0"]);
  await page.getByRole("button", { name: "Enter a token" }).click();
  await page.getByLabel("Token", { exact: true }).fill(good);
  await page.getByRole("button", { name: "Use it" }).click();
  await live(page);
  await until("what came meanwhile", async () => (await texts(page)).length === 2);
  assert.deepEqual(await texts(page), ["number 1", "number 0"]);
  await page.locator("#failure").waitFor({ state: "hidden" });
  await context.close();
});

test("a store that was replaced is loaded again, by an open page and by one that is opened later, and both say so", async () => {
  for (const user of ["open", "later"]) await newsfeed.append(message(user, "of the old store"));
  const context = await browser.window({ lasting: true });
  const page = await open(context, service.url, "open");
  await (await open(context, service.url, "later")).close();
  await service.kill();
  await rm(service.folder, { recursive: true });
  await service.again();
  for (const user of ["open", "later"]) await newsfeed.append(message(user, "of the new store"), { patience: Infinity });
  const told = (page) => page.locator("#toasts", { hasText: "The service's data was reset" }).waitFor();
  const shows = (page) => until("the new store", async () => (await texts(page)).join() === "of the new store");
  const later = await open(context, service.url, "later");
  for (const each of [page, later]) {
    await told(each);
    await shows(each);
    await live(each);
  }
  await newsfeed.append(message("later", "and live"));
  await until("a live entry", async () => (await texts(later))[0] === "and live");
  await later.close();
  // The new position is kept.
  const again = await open(context, service.url, "later");
  await until("the entries", async () => (await texts(again)).length === 2);
  assert.equal(await again.locator("#toasts", { hasText: "was reset" }).count(), 0);
  await context.close();
});
