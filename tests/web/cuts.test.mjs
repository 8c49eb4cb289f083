// The connection is cut after each number of bytes of a stream, and all along a session that begins with the version and the
// history: the follower always yields exactly the feed, and each change of it once.
import assert from "node:assert/strict";
import net from "node:net";
import { after, before, test } from "node:test";
import { EntryList, Newsfeed } from "../../src/web/newsfeed.js";
import { Collector, Service } from "./harness.mjs";

const AT_ONCE = 8;
const EVENTS = ["cut-0", "cut-1", "cut-2", "cut-3"];
/** What is there after `cut-0` was edited and `cut-1` erased. */
const LEFT = ["cut-0", "cut-2", "cut-3"];
let service;
let versions;

before(async () => {
  service = await Service.start();
  const newsfeed = new Newsfeed({ url: service.url });
  const feed = newsfeed.feed("cut");
  const appended = await feed.append(EVENTS.map((id) => ({ id, kind: "message", data: "é" })));
  versions = appended.map(({ version }) => version);
  await newsfeed.edit("cut-0", "ü");
  await newsfeed.erase("cut-1");
});
after(() => service.stop());

/** A proxy to the service that cuts its connection once, after `bytes` of answers on all connections together. */
async function cutter(bytes) {
  const [host, port] = service.address.split(":");
  const sockets = new Set();
  const proxy = { passed: 0, cuts: 0, streamsCut: 0 };
  const server = net.createServer({ noDelay: true }, (client) => {
    const upstream = net.connect(Number(port), host);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => [client, upstream].forEach((socket) => (sockets.delete(socket), socket.destroy())));
    }
    let live = false;
    client.on("data", (data) => (live = data.includes("/live?")));
    client.pipe(upstream);
    upstream.on("data", (data) => {
      const room = proxy.cuts ? Infinity : bytes - proxy.passed;
      proxy.passed += Math.min(room, data.length);
      if (data.length < room) return client.write(data);
      proxy.cuts += 1;
      proxy.streamsCut += live;
      client.end(data.subarray(0, room));
      upstream.destroy();
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  proxy.url = `http://127.0.0.1:${server.address().port}`;
  proxy.close = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  return proxy;
}

/** Runs the session through a proxy that cuts after `bytes`. */
async function session(bytes, options) {
  const proxy = await cutter(bytes);
  try {
    const newsfeed = new Newsfeed({ url: proxy.url, random: () => 0 });
    const follower = new Collector(newsfeed.feed("cut").follow(options));
    if (bytes < Infinity) await follower.until("the cut", () => proxy.cuts === 1);
    await follower.live(proxy.streamsCut);
    await follower.close();
    return { proxy, follower };
  } finally {
    proxy.close();
  }
}

/** A list that begins with the first two entries, as they were at first, is what the feed is now. */
function listed(follower) {
  const kept = ["cut-1", "cut-0"].map((id, n) => ({ feed: "cut", version: versions[1 - n], id, data: "é" }));
  const list = new EntryList({ entries: kept, next: null });
  for (const update of follower.updates) list.apply(update);
  return list.entries.map(({ id, data }) => [id, data]).reverse();
}

/** Cuts after every `step` bytes. */
async function allAlong(options, wanted, changes, step) {
  const whole = (await session(Infinity, options)).proxy.passed;
  assert.ok(whole > 500, `${whole} bytes`);
  let next = 0;
  let cuts = 0;
  const worker = async () => {
    while (next < whole) {
      const bytes = next;
      next += step;
      const { proxy, follower } = await session(bytes, options);
      cuts += proxy.cuts;
      assert.deepEqual(follower.ids, wanted, `cut after ${bytes} bytes`);
      const told = follower.updates.filter(({ type }) => type === "edited" || type === "erased");
      assert.deepEqual(told.map(({ type, entry }) => [type, entry.id]), changes, `cut after ${bytes} bytes`);
      assert.deepEqual(listed(follower), LEFT.map((id) => [id, id === "cut-0" ? "ü" : "é"]), `cut after ${bytes} bytes`);
      assert.equal(follower.badges.get("cut"), LEFT.length, `cut after ${bytes} bytes`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  assert.equal(cuts, Math.ceil(whole / step));
}

test("a stream that catches up, cut at each byte", () => 
  allAlong({ after: versions[1] }, ["cut-2", "cut-3"], [["edited", "cut-0"], ["erased", "cut-1"]], 1));
// The stream is the same. Of the answers before it every cut leaves an incomplete head or body.
test("version, history and stream, cut at every seventh byte", () => allAlong({ history: Infinity }, LEFT, [], 7));
