// Runs an example of the documentation: `node run.js BLOCK`. The example calls functions of an application that it does
// not define, such as `showNew`; here they note that they were called. It has passed when it called all that it names
// and, unless it follows a feed for ever, ended without an error.
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const origin = process.env.NEWSFEED_URL;
const token = (await readFile("token", "utf8")).trim();
const source = await readFile(process.argv[2], "utf8");
const called = new Set();

const application = ["showOlder", "showNew", "showEdited", "hide", "showList", "showBadge", "showSeen", "showState", "showTyping", "handle", "forget"];
const named = application.filter((name) => new RegExp(`\\b${name}\\(`).test(source));
for (const name of application) {
  globalThis[name] = (...args) => {
    console.log(name, JSON.stringify(args));
    called.add(name);
  };
}
// Called only when a store was set back.
globalThis.forgetAll = () => {};
globalThis.askForToken = () => token;
globalThis.token = token;
globalThis.base = origin;
const files = new Map();
globalThis.fileStorage = { getItem: (key) => files.get(key) ?? null, setItem: (key, value) => void files.set(key, value) };

// What a browser has and Node.js has not: a location, cookies, EventSource.
globalThis.location = new URL(origin);
const plain = globalThis.fetch;
let cookie;
globalThis.fetch = async (url, init = {}) => {
  const headers = new Headers(init.headers);
  if (cookie && !headers.has("authorization")) headers.set("cookie", cookie);
  const answer = await plain(new URL(url, origin), { ...init, headers });
  cookie = answer.headers.get("set-cookie")?.split(";")[0] ?? cookie;
  return answer;
};
if (source.includes("EventSource")) {
  const { EventSource } = await import("eventsource");
  globalThis.EventSource = class extends EventSource {
    constructor(url) {
      super(new URL(url, origin), { fetch: (...request) => globalThis.fetch(...request) });
    }
  };
}

// Somebody writes meanwhile.
const headers = { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
const write = async (path, body, method = "POST") => {
  const answer = await plain(origin + path, { method, headers, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
};
const feeds = ["user:ben", "chat:anna-ben", "posts:anna"];
const writer = async () => {
  for (;;) {
    const { id, version } = await write("/v1/events", { kind: "message", feeds, actor: "user:anna", data: { text: "Hi" } });
    await write(`/v1/events?id=${id}`, { data: { text: "Hello" } }, "PATCH");
    await write(`/v1/events?id=${id}`, undefined, "DELETE");
    await write("/v1/events", { kind: "visit", feeds, actor: "user:cleo" });
    await write("/v1/markers/read?feed=chat:anna-ben&reader=user:cleo", { version }, "PUT");
    await write("/v1/transient", { kind: "typing", feeds, actor: "user:anna" });
    await sleep(100);
  }
};
await write("/v1/events", { kind: "message", feeds, actor: "user:anna", data: { text: "First" } });

let ended = false;
const example = import(`./${process.argv[2]}`).then(() => (ended = true));
const endless = /for await|new EventSource/.test(source);
const passed = async () => {
  const end = Date.now() + 120_000;
  while (!(named.every((name) => called.has(name)) && (ended || endless))) {
    if (Date.now() > end) throw new Error(`called ${[...called]} of ${named}; ended: ${ended}`);
    await sleep(20);
  }
};
await Promise.race([Promise.all([example, passed()]), ...(endless ? [passed()] : []), writer()]);
process.exit(0);
