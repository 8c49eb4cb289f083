// A page in Chromium as a reader: chromium.mjs BASE FEED PROTOCOL. Ends when its stdin does.
// PROTOCOL is what the browser must negotiate: browsers use HTTP/2 only over TLS.
import { flow } from "./flow.mjs";
import { launch } from "./launch.mjs";

const [base, feed, protocol] = process.argv.slice(2);

// The certificate is from the test's own authority.
const browser = await launch({ args: ["--ignore-certificate-errors"] });
process.stdin.resume().on("end", async () => {
  await browser.close();
  process.exit(0);
});
const page = await browser.newPage();
await page.exposeFunction("tell", (told) => console.log(JSON.stringify(told)));
// Any page of the service's origin.
await page.goto(`${base}/healthz`);
const spoken = await page.evaluate(() => performance.getEntriesByType("navigation")[0].nextHopProtocol);
if (spoken !== { http1: "http/1.1", http2: "h2" }[protocol]) throw new Error(`it speaks ${spoken}, not ${protocol}`);
await page.evaluate(
  `(${flow})({ base: ${JSON.stringify(base)}, feed: ${JSON.stringify(feed)}, fetch: fetch.bind(window), EventSource, tell })`,
);
