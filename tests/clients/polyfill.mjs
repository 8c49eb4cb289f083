// The npm package `event-source-polyfill` as a reader: polyfill.mjs BASE FEED http1. Ends when its stdin does.
// After a break it sends its position as `lastEventId` in the URL, because not every CORS rule allows `Last-Event-ID`.
import { createRequire } from "node:module";
import { flow } from "./flow.mjs";

const { EventSourcePolyfill } = createRequire(`${process.env.NEWSFEED_CLIENTS}/`)("event-source-polyfill");
const [base, feed] = process.argv.slice(2);

process.stdin.resume().on("end", () => process.exit(0));
await flow({ base, feed, fetch, EventSource: EventSourcePolyfill, tell: (told) => console.log(JSON.stringify(told)) });
