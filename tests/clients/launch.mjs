// Chromium, started by the Playwright that tests/clients/install has put into NEWSFEED_CLIENTS.
import { createRequire } from "node:module";

const { chromium } = createRequire(`${process.env.NEWSFEED_CLIENTS}/`)("playwright-core");

/** Starts a browser with a new profile, which Playwright removes; it sends no requests of its own. */
export function launch({ args = [], ...options } = {}) {
  return chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...args,
    ],
    ...options,
  });
}
