// A page in Chromium as a reader: chromium.mjs BASE FEED. Ends with its standard input.
// Over HTTP/1.1 only: browsers speak HTTP/2 over TLS alone, which the service does not have yet.
import { createRequire } from "node:module";
import { flow } from "./flow.mjs";

const { chromium } = createRequire(`${process.env.NEWSFEED_CLIENTS}/`)("playwright-core");
const [base, feed] = process.argv.slice(2);

// In a fresh profile, which Playwright removes; nothing asks for the world outside.
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
process.stdin.resume().on("end", async () => {
  await browser.close();
  process.exit(0);
});
const page = await browser.newPage();
await page.exposeFunction("tell", (told) => console.log(JSON.stringify(told)));
// Any page of the service's own origin will do.
await page.goto(`${base}/healthz`);
await page.evaluate(
  `(${flow})({ base: ${JSON.stringify(base)}, feed: ${JSON.stringify(feed)}, fetch: fetch.bind(window), EventSource, tell })`,
);
