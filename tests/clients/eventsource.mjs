// The npm package `eventsource` as a reader: eventsource.mjs BASE FEED http1|http2. Ends when its stdin does.
import http2 from "node:http2";
import { createRequire } from "node:module";
import { flow } from "./flow.mjs";

const { EventSource } = createRequire(`${process.env.NEWSFEED_CLIENTS}/`)("eventsource");
const [base, feed, protocol] = process.argv.slice(2);

let session;

/** `fetch` over HTTP/2 with prior knowledge, which Node's own `fetch` does not support. */
function fetchHttp2(url, { headers, signal } = {}) {
  const { origin, pathname, search } = new URL(url);
  if (!session || session.closed || session.destroyed) {
    session = http2.connect(origin);
    session.on("error", () => {}); // Each of its streams gets the error too.
  }
  const stream = session.request({ ":path": pathname + search, ...headers }, { signal });
  return new Promise((resolve, reject) => {
    stream.on("error", reject);
    stream.on("close", () => reject(new Error("the stream ended without an answer")));
    stream.on("response", ({ ":status": status, "content-type": type }) => {
      const body = new ReadableStream({
        start(controller) {
          stream.on("data", (chunk) => controller.enqueue(chunk));
          stream.on("error", (error) => controller.error(error));
          stream.on("close", () => stream.errored ?? controller.close());
        },
      });
      resolve(new Response(body, { status, headers: { "content-type": type } }));
    });
  });
}

const fetching = { http1: fetch, http2: fetchHttp2 }[protocol];
class Source extends EventSource {
  constructor(url) {
    super(url, { fetch: fetching });
  }
}
process.stdin.resume().on("end", () => process.exit(0));
await flow({ base, feed, fetch: fetching, EventSource: Source, tell: (told) => console.log(JSON.stringify(told)) });
