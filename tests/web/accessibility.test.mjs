// The page is accessible: by keyboard alone, and according to axe-core, in light and dark, on a phone and a desktop.
import assert from "node:assert/strict";
import { test } from "node:test";
import { DESKTOP, PHONE, accessible, live, open } from "./browser.mjs";
import { until } from "./harness.mjs";
import { browser, newsfeed, service, setUp } from "./scene.mjs";

setUp();

const message = (text) => ({ kind: "message", feeds: ["user:anna", "chat:anna-ben"], actor: "user:ben", data: { text } });

test("everything can be done with the keyboard", async () => {
  // The older one stays unread while the chat with Ben is open.
  await newsfeed.append([{ ...message("unread"), actor: "user:cleo" }, message("by hand")]);
  const context = await browser.window();
  const page = await context.newPage();
  await page.goto(service.url);
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent.trim());
  const tabTo = (what) => until(`the focus at ${what}`, async () => (await focused()) === what || (await page.keyboard.press("Tab"), false));
  await page.locator("#suggestions button").first().waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "Skip to the content");
  await page.keyboard.press("Enter");
  await tabTo("name");
  await page.keyboard.type("anna");
  await page.keyboard.press("Enter");
  await live(page);
  await page.locator(".reply").first().waitFor();
  await tabTo("Reply");
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid");
  await page.keyboard.press("Enter");
  await tabTo("text");
  await page.keyboard.type("by hand too");
  await page.keyboard.press("Enter");
  await page.locator(".bubble.mine time").waitFor();
  await page.keyboard.press("Escape");
  await page.locator("#chat").waitFor({ state: "hidden" });
  await tabTo("read");
  await page.keyboard.press("Enter");
  await until("all read", async () => (await page.locator("#badge").textContent()) === "0");
  await tabTo("token");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  assert.equal(await focused(), "token-input");
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await tabTo("token");
  await context.close();
});

test("on a phone the chats cover the feed, which is inert then", async () => {
  const context = await browser.window({ viewport: PHONE });
  const page = await open(context, service.url, "anna");
  assert.equal(await page.locator("#chats").isVisible(), false);
  const wide = () => page.evaluate(() => document.documentElement.scrollWidth);
  const long = "n".repeat(100);
  await newsfeed.append([message(long), { ...message("and many words ".repeat(9)), actor: `user:${long.slice(0, 60)}` }]);
  await until("the new entries", async () => (await page.locator(".slides").count()) === 2);
  assert.equal(await wide(), PHONE.width);
  await page.getByRole("button", { name: "Chats", exact: true }).click();
  await page.locator("#people button", { hasText: "Ben" }).click();
  await page.locator(".bubble").first().waitFor();
  assert.equal(await page.evaluate(() => document.getElementById("feed").inert), true);
  await page.getByRole("button", { name: "Back to all chats" }).click();
  await page.getByRole("button", { name: "Close the chats" }).click();
  await page.locator("#chats").waitFor({ state: "hidden" });
  assert.equal(await page.evaluate(() => document.getElementById("feed").inert), false);
  assert.equal(await wide(), PHONE.width);
  await context.close();
});

test("new entries are announced to screen readers", async () => {
  const context = await browser.window();
  const page = await open(context, service.url, "anna");
  await newsfeed.append(message("do you hear me?"));
  await until("the announcement", async () => (await page.locator("#announcements").textContent()) === "Ben wrote to you: do you hear me?");
  await context.close();
});

for (const colorScheme of ["light", "dark"]) {
  for (const [size, viewport] of Object.entries({ phone: PHONE, desktop: DESKTOP })) {
    test(`axe-core finds nothing: ${colorScheme}, ${size}`, async () => {
      await newsfeed.append([
        message("unread"),
        { kind: "visit", feeds: ["user:anna"], actor: "user:cleo" },
        { kind: "flirt", feeds: ["user:anna"], actor: "user:dora", data: { text: "wow" } },
        { kind: "other", feeds: ["user:anna"], data: [1] },
        ...Array.from({ length: 20 }, () => message("many")),
      ]);
      const context = await browser.window({ viewport, colorScheme, lasting: true });
      const page = await context.newPage();
      await page.goto(service.url);
      await page.locator("#suggestions button").first().waitFor();
      await accessible(page, "welcome");
      await page.goto(`${service.url}/?user=anna`);
      await live(page);
      await page.mouse.wheel(0, 400);
      await until("scrolled", () => page.evaluate(() => scrollY > 200));
      await newsfeed.append(message("pops up"));
      await newsfeed.transient({ ...message(), kind: "typing", data: null });
      await page.locator(".toast").waitFor();
      await accessible(page, "feed");
      if (size === "phone") await page.getByRole("button", { name: "Chats", exact: true }).click();
      await page.locator("#people button", { hasText: "Ben" }).click();
      await page.locator("#text").fill("mine");
      await page.locator("#text").press("Enter");
      await page.locator(".bubble.mine time").first().waitFor();
      await page.getByRole("button", { name: "Edit message: mine" }).first().focus();
      await accessible(page, "chat");
      if (size === "desktop") {
        await page.getByRole("button", { name: "Delete message: mine" }).first().click();
        await accessible(page, "erase");
        await page.keyboard.press("Escape");
        await page.getByRole("button", { name: "Edit message: mine" }).first().click();
        await accessible(page, "editor");
      }
      await page.locator("#token").click();
      await page.getByRole("dialog").waitFor();
      await accessible(page, "token");
      await context.close();
    });
  }
}
