// The set-up of a file of page tests: a service, a browser, and a client of the service.
import assert from "node:assert/strict";
import { after, afterEach, before } from "node:test";
import { Newsfeed } from "../../src/web/newsfeed.js";
import { Browser } from "./browser.mjs";
import { Service } from "./harness.mjs";

export let service;
export let browser;
export let newsfeed;

/**
 * Call this once, at the top of the file. After each test the browser's console must be empty; `away` permits the
 * messages that an absent service causes. `random` is the client's.
 */
export function setUp({ away = false, random } = {}) {
  before(async () => {
    [service, browser] = await Promise.all([Service.start(), Browser.start()]);
    newsfeed = new Newsfeed({ url: service.url, random });
  });
  afterEach(() => assert.deepEqual(browser.complaints(away), []));
  after(async () => {
    await browser.close();
    await service.stop();
  });
}
