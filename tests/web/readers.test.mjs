// The page in Chromium: a group chat of three members, and two devices of one of them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { PHONE, accessible, badgeIs, open, texts } from "./browser.mjs";
import { until } from "./harness.mjs";
import { browser, newsfeed, service, setUp } from "./scene.mjs";

setUp();

const MEMBERS = ["anna", "ben", "cleo"];
const group = (name) => ({
  kind: "group",
  feeds: [...MEMBERS.map((member) => `user:${member}`), `group:${name}`],
  actor: "user:ben",
  data: { from: "ben", group: name, name: "Lake", members: MEMBERS },
});
const said = (name, from, text) => ({ kind: "message", feeds: [`group:${name}`], actor: `user:${from}`, data: { from, text } });
const message = (to, from, text) => ({ ...said("", from, text), feeds: [`user:${to}`, `chat:${[to, from].sort().join("-")}`] });

const row = (page) => page.locator("#people button", { hasText: "Lake" });
/** The badge of the group in the list of chats; 0 if there is none. */
const badge = (page) => row(page).evaluate((row) => Number.parseInt(row.querySelector(".badge")?.textContent ?? "0"));
const groupBadgeIs = (page, wanted) => until(`the badge ${wanted} of the group`, async () => (await row(page).count()) > 0 && (await badge(page)) === wanted);
const bubbles = (page) => page.locator(".bubble .text").allTextContents();
const seen = (page) => page.locator(".seen").allTextContents();

async function write(page, text) {
  await page.locator("#text").fill(text);
  await page.locator("#text").press("Enter");
  await page.locator(".bubble.mine", { hasText: text }).locator("time").waitFor();
}

test("each member of a group has a badge of their own, and sees how far the others have read", async () => {
  await newsfeed.append([group("lake"), said("lake", "ben", "Swimming?"), said("lake", "cleo", "Yes!")]);
  const contexts = [await browser.window(), await browser.window({ viewport: PHONE })];
  const [anna, ben, cleo] = await Promise.all(MEMBERS.map((member) => open(contexts[0], service.url, member)));
  const phone = await open(contexts[1], service.url, "anna", "&chats");
  // One's own messages are not unread.
  for (const [page, unread] of [[anna, 2], [phone, 2], [ben, 1], [cleo, 1]]) await groupBadgeIs(page, unread);
  await row(anna).click();
  await until("the messages", async () => (await bubbles(anna)).length === 3);
  await anna.locator("#chat-title .members", { hasText: "Ben, Cleo" }).waitFor();
  await groupBadgeIs(phone, 0);
  for (const page of [ben, cleo]) assert.equal(await badge(page), 1);
  await row(ben).click();
  await until("Anna has seen it", async () => (await seen(ben)).join() === "Seen by Anna");
  await until("Ben, too", async () => (await seen(anna)).join() === "Seen by Ben");
  await write(anna, "When?");
  await until("Ben has seen that", async () => (await seen(anna)).join() === "Seen by Ben");
  await anna.locator(".bubble.mine + .seen").waitFor();
  // Below different messages, until Cleo has read it, too.
  await groupBadgeIs(cleo, 2);
  await row(cleo).click();
  await until("both have seen it", async () => (await seen(anna)).join() === "Seen by Ben, Cleo");
  await until("what others have seen", async () => (await seen(cleo)).join() === "Seen by Anna,Seen by Ben");

  // Marked as unread, on the other device, too, and after a reload.
  await anna.locator("#chat-close").click();
  await groupBadgeIs(anna, 0);
  await row(phone).click();
  await phone.getByRole("button", { name: "Mark as unread: Yes!" }).press("Enter");
  await phone.locator(".bubble.unread", { hasText: "Yes!" }).waitFor();
  await phone.locator("#chat-close").click();
  for (const page of [anna, phone]) await groupBadgeIs(page, 1);
  await anna.reload();
  await groupBadgeIs(anna, 1);
  await row(anna).click();
  // It is on screen, and stays unread, also if something new is read.
  await anna.locator(".bubble.unread", { hasText: "Yes!" }).waitFor();
  await cleo.locator("#text").fill("Now!");
  await cleo.locator("#text").press("Enter");
  await anna.locator(".bubble", { hasText: "Now!" }).getByRole("button", { name: "Mark as unread" }).waitFor();
  await groupBadgeIs(phone, 1);
  assert.deepEqual(await anna.locator(".bubble.unread .text").allTextContents(), ["Yes!"]);
  assert.equal(await anna.getByRole("button", { name: "Mark as unread: When?" }).count(), 0);
  await anna.getByRole("button", { name: "Mark as read: Yes!" }).press("Enter");
  await groupBadgeIs(phone, 0);
  // That Cleo has seen what she wrote goes without saying: she stands below the message before it.
  const { latest } = await newsfeed.feed("group:lake").state();
  await newsfeed.feed("group:lake").as("user:cleo").markRead(latest);
  await anna.reload();
  await until("what the others have seen", async () => (await seen(anna)).join() === "Seen by Cleo,Seen by Ben");
  await accessible(anna, "group");
  for (const context of contexts) await context.close();
});

test("entries are archived and marked as unread, on every device, and found by their state", async () => {
  await newsfeed.append(["one", "two", "three"].map((text) => message("dora", "ben", text)));
  const contexts = [await browser.window(), await browser.window({ viewport: PHONE })];
  const [page, phone] = [await open(contexts[0], service.url, "dora"), await open(contexts[1], service.url, "dora")];
  for (const one of [page, phone]) await badgeIs(one, "3");
  const show = (of, name) => of.getByRole("group", { name: "Show" }).getByRole("button", { name }).click();
  const shows = (of, ...wanted) => until(`${wanted}`, async () => (await texts(of)).join() === wanted.join());
  await show(phone, "Archived");
  await phone.locator("#empty", { hasText: "Nothing is archived." }).waitFor();
  await page.getByRole("button", { name: "Archive: two" }).press("Enter");
  await page.locator(".entry.archived", { hasText: "two" }).waitFor();
  // It was not loaded there.
  await shows(phone, "two");
  for (const one of [page, phone]) await badgeIs(one, "2");
  await show(page, "Unread");
  await shows(page, "three", "one");
  await page.getByRole("button", { name: "Mark as read: three" }).press("Enter");
  await shows(page, "one");
  // The focus stays in the list.
  assert.equal(await page.evaluate(() => document.activeElement.closest(".entry")?.querySelector(".text").textContent), "one");
  await page.getByRole("button", { name: "1 unread: mark all as read" }).click();
  await page.locator("#empty", { hasText: "Nothing is unread." }).waitFor();
  await show(phone, "All");
  await shows(phone, "three", "two", "one");
  await phone.getByRole("button", { name: "Mark as unread: one" }).press("Enter");
  await shows(page, "one");
  await page.reload();
  await page.locator(".entry.unread", { hasText: "one" }).waitFor();
  assert.equal(await page.locator(".entry.unread").count(), 1);
  await badgeIs(page, "1");
  await show(phone, "Archived");
  await shows(phone, "two");
  await page.getByRole("button", { name: "Archive all that is read" }).click();
  await shows(phone, "three", "two");
  await phone.getByRole("button", { name: "Take out of the archive: two" }).press("Enter");
  await shows(phone, "three");
  await accessible(phone, "archived");
  for (const context of contexts) await context.close();
});

test("several names form a group, which everybody finds in their list", async () => {
  const context = await browser.window();
  const [page, other] = [await open(context, service.url, "elif"), await open(context, service.url, "felix")];
  await page.getByLabel("Write to").fill("felix, greta, elif");
  await page.getByLabel("Write to").press("Enter");
  await page.locator("#chat-title", { hasText: "Felix, Greta" }).waitFor();
  await write(page, "Hi both");
  await other.getByRole("button", { name: "Open the group of Elif" }).click();
  await other.locator(".bubble .name", { hasText: "Elif:" }).first().waitFor();
  await until("the message", async () => (await bubbles(other)).includes("Hi both"));
  await until("it is seen", async () => (await seen(page)).join() === "Seen by Felix");
  await other.locator("#text").pressSequentially("Hi");
  await until("typing", async () => (await page.locator("#chat-typing").textContent()) === "Felix is typing …");
  await context.close();
});
