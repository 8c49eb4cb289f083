// The documentation in Chromium: nothing comes from elsewhere, it fits on a phone, and axe-core finds nothing.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { Browser, DESKTOP, PHONE, accessible } from "./browser.mjs";
import { Service } from "./harness.mjs";

let service;
let browser;
before(async () => {
  [service, browser] = await Promise.all([Service.start(), Browser.start()]);
});
afterEach(() => assert.deepEqual(browser.complaints(), []));
after(async () => {
  await browser.close();
  await service.stop();
});

/** A window that notes every request to another origin. */
async function watched(options) {
  const context = await browser.window(options);
  const page = await context.newPage();
  const elsewhere = [];
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== service.url && url.protocol !== "data:" && url.protocol !== "blob:") elsewhere.push(url.href);
  });
  return { context, page, elsewhere };
}

const fits = (page) =>
  page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth);

// Every guide in both colour schemes and in both sizes, but not in all pairs of them: axe-core takes a second for each.
for (const [colorScheme, size, viewport] of [
  ["light", "desktop", DESKTOP],
  ["dark", "phone", PHONE],
]) {
  test(`every guide: ${colorScheme}, ${size}`, async () => {
    const { context, page, elsewhere } = await watched({ viewport, colorScheme });
    await page.goto(service.url);
    await page.getByRole("link", { name: "Docs", exact: true }).click();
    await page.waitForURL("**/docs");
    const guides = await page.locator(".guides a").evaluateAll((links) => links.map((link) => link.href));
    assert.ok(guides.length > 12, String(guides));
    for (const guide of guides.filter((guide) => !guide.endsWith("/docs/api"))) {
      await page.goto(guide);
      assert.ok(await fits(page), `${guide} is wider than the window`);
      await accessible(page, guide);
    }
    assert.deepEqual(elsewhere, []);
    await context.close();
  });
}

test("the API reference, from this origin only", async () => {
  for (const viewport of [DESKTOP, PHONE]) {
    const { context, page, elsewhere } = await watched({ viewport });
    await page.goto(`${service.url}/docs/api`);
    await page.getByRole("heading", { name: "newsfeed" }).first().waitFor();
    await page.locator("#operations-append-appendEvents").waitFor();
    const operations = await page.locator(".opblock").count();
    assert.ok(operations >= 15, `${operations} operations`);
    // A request from the page reaches this service.
    const health = page.locator("#operations-service-getHealth");
    await health.getByRole("button").first().click();
    await health.getByRole("button", { name: "Try it out" }).click();
    await health.getByRole("button", { name: "Execute" }).click();
    const answer = await health.locator(".live-responses-table tbody .response-col_status").first().textContent();
    assert.match(answer, /200/);
    assert.deepEqual(elsewhere, []);
    await context.close();
  }
});
