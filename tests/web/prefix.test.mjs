// The page, the library and the documentation of a service that a proxy publishes under a path. NEWSFEED_PREFIXED is its
// URL, and NEWSFEED_TOKEN a token; the test in tests/it/docs/proxies.rs sets them.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { Browser, badgeIs, live, open, texts } from "./browser.mjs";
import { until } from "./harness.mjs";

const url = process.env.NEWSFEED_PREFIXED;
const token = process.env.NEWSFEED_TOKEN;
const { origin, pathname: base } = new URL(url);

let browser;
const strayed = [];
before(async () => (browser = await Browser.start()));
afterEach(() => {
  assert.deepEqual(browser.complaints(), []);
  assert.deepEqual(strayed.splice(0), []);
});
after(() => browser.close());

/** A window that has the token, and notes every request beside the base path. */
async function window() {
  const context = await browser.window();
  const keep = ([key, value]) => location.protocol === "http:" && sessionStorage.setItem(key, value);
  await context.addInitScript(keep, [`newsfeed.token${base}`, token]);
  context.on("request", (request) => {
    const to = new URL(request.url());
    const inside = to.origin === origin && (to.pathname === base || to.pathname.startsWith(`${base}/`));
    if (!inside && !["data:", "blob:"].includes(to.protocol)) strayed.push(to.href);
  });
  context.on("response", (response) => response.status() >= 400 && strayed.push(`${response.status()} ${response.url()}`));
  return context;
}

test("the page", async () => {
  const context = await window();
  const name = "Zoë/日本 👋";
  const page = await open(context, url, encodeURIComponent(name));
  await page.evaluate(
    async ([base, token, name]) => {
      const { Newsfeed } = await import(`${base}/newsfeed.js`);
      const event = { kind: "message", actor: "user:ben", data: { text: `Hi ${name}` } };
      await new Newsfeed({ token }).feed(`user:${name}`).append(event);
    },
    [base, token, name],
  );
  await until("the message", async () => (await texts(page)).includes(`Hi ${name}`));
  await badgeIs(page, "1");
  await page.locator("#read").click();
  await badgeIs(page, "0");
  await page.locator(".brand").click();
  assert.equal(new URL(page.url()).pathname, `${base}/`);
  await page.locator("#name").fill("anna");
  await page.locator("#name").press("Enter");
  await live(page);
  assert.equal(page.url(), `${url}/?user=anna`);
  await context.close();
});

test("the documentation", async () => {
  const context = await window();
  const page = await context.newPage();
  await page.goto(`${url}/`);
  await page.getByRole("link", { name: "Docs", exact: true }).click();
  await page.waitForURL(`${url}/docs`);
  await page.locator(".guides a", { hasText: "Limits" }).click();
  await page.waitForURL(`${url}/docs/limits`);
  const links = await page.locator("a[href^='/']").evaluateAll((links) => links.map((link) => link.getAttribute("href")));
  assert.ok(links.length > 10 && links.every((link) => link.startsWith(`${base}/`)), String(links));
  await page.goto(`${url}/docs/api`);
  const health = page.locator("#operations-service-getHealth");
  await health.getByRole("button").first().click();
  await health.getByRole("button", { name: "Try it out" }).click();
  await health.getByRole("button", { name: "Execute" }).click();
  const answer = health.locator(".live-responses-table tbody .response-col_status").first();
  assert.match(await answer.textContent(), /200/);
  await context.close();
});
