// Chromium for the tests of the page, and what they look at. NEWSFEED_CLIENTS has the packages.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { launch } from "../clients/launch.mjs";
import { PATIENCE, until } from "./harness.mjs";

const packages = createRequire(`${process.env.NEWSFEED_CLIENTS}/`);
const axe = () => readFile(packages.resolve("axe-core/axe.min.js"), "utf8");

export const DESKTOP = { width: 1280, height: 800 };
export const PHONE = { width: 375, height: 812 };

/** A page cannot help these while the service is away: the browser itself writes them. */
const NETWORK = /net::ERR_|Failed to load resource/;

/** In the page, before its own scripts: notifications and typing last. */
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

  /** A window with a profile of its own. `lasting`: what goes away by itself stays, however slow the machine is. */
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

  /** What the pages complained of since the last time; `away`: without what an absent service brings. */
  complaints(away = false) {
    return this.#complaints.splice(0).filter((text) => !(away && NETWORK.test(text)));
  }

  close() {
    return this.#browser.close();
  }
}

/** The newsfeed of a person, once it is live. */
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

/** Nothing that axe-core finds wrong. Its code gets past the page's policy as the test's own. */
export async function accessible(page, what) {
  await page.evaluate(await axe());
  const { violations } = await page.evaluate(() => globalThis.axe.run(document));
  const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("\n")}`);
  assert.deepEqual(told, [], what);
}
