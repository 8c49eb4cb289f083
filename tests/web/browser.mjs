// Chromium for the tests of the page, and helpers to inspect the page.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { launch } from "../clients/launch.mjs";
import { PATIENCE, until } from "./harness.mjs";

const packages = createRequire(`${process.env.NEWSFEED_CLIENTS}/`);
const axe = () => readFile(packages.resolve("axe-core/axe.min.js"), "utf8");

export const DESKTOP = { width: 1280, height: 800 };
export const PHONE = { width: 375, height: 812 };

/** Messages that the browser itself writes while the service is down. */
const NETWORK = /net::ERR_|Failed to load resource/;

/** Runs in the page before its own scripts: notifications and typing indicators do not disappear. */
function last() {
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (act, ms, ...rest) => setTimeout(act, ms >= 5_000 && ms <= 7_000 ? 1e8 : ms, ...rest);
}

export class Browser {
  #browser;
  #complaints = [];

  static async start() {
    const browser = new Browser();
    browser.#browser = await launch({ timeout: PATIENCE });
    return browser;
  }

  /** A window with a new profile. `lasting`: what disappears by itself stays, so that a slow machine sees it. */
  async window({ lasting = false, ...options } = {}) {
    const context = await this.#browser.newContext({ viewport: DESKTOP, reducedMotion: "reduce", ...options });
    context.setDefaultTimeout(PATIENCE);
    if (lasting) await context.addInitScript(last);
    context.on("weberror", (error) => this.#complaints.push(String(error.error())));
    context.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) this.#complaints.push(message.text());
    });
    return context;
  }

  /** Console errors and warnings since the last call; `away`: without those that an absent service causes. */
  complaints(away = false) {
    return this.#complaints.splice(0).filter((text) => !(away && NETWORK.test(text)));
  }

  close() {
    return this.#browser.close();
  }
}

/** Opens the newsfeed of a user; returns the page once it is live. */
export async function open(context, url, user, rest = "") {
  const page = await context.newPage();
  await page.goto(`${url}/?user=${user}${rest}`);
  await live(page);
  return page;
}

export const live = (page) => page.locator('#status[data-state="live"]').waitFor();

/** The texts of the entries, newest first. */
export const texts = (page) => page.locator("#entries .text").allTextContents();

export const badge = (page) => page.locator("#badge").textContent();

export async function badgeIs(page, wanted) {
  await until(`the badge ${wanted}`, async () => (await badge(page)) === wanted);
}

/** Checks that axe-core finds no violations. Its code is run by the test, because the page's policy forbids it. */
export async function accessible(page, what) {
  await page.evaluate(await axe());
  const { violations } = await page.evaluate(() => globalThis.axe.run(document));
  const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("\n")}`);
  assert.deepEqual(told, [], what);
}
