// Compiled, never run: what newsfeed.d.ts accepts and what it rejects.
import { EntryList, Newsfeed, NewsfeedError, newsOf, type Entry, type News, type Json, type Page, type State, type Status, type Version } from "../../src/web/newsfeed.js";

async function uses(): Promise<void> {
  const newsfeed = new Newsfeed({ url: "http://127.0.0.1:8080", token: async ({ error }) => (error?.code === "token_expired" ? "new" : null) });
  new Newsfeed({ token: "t", storage: localStorage, share: false, random: () => 0.5 });
  const feed = newsfeed.feed("user:42");

  const { version, unread, latest } = await feed.state({ signal: AbortSignal.timeout(1_000) });
  const total: number = unread.total + (unread.kinds["message"] ?? 0);
  const newest: Version | null = latest;
  for await (const page of feed.history({ until: version, limit: 10 })) {
    const entries: Entry[] = page.entries;
    const next: Version | null = page.next;
    void [entries, next, total, newest];
  }

  for await (const update of feed.follow({ history: Infinity, cursor: "page", kind: ["message", "visit"] })) {
    switch (update.type) {
      case "start":
        update.since satisfies Version | null;
        break;
      case "history":
        update satisfies Page;
        break;
      case "entry":
        update.entry.data satisfies Json;
        update.entry.time satisfies string | undefined;
        (update.entry.feeds ?? [update.entry.feed]) satisfies string[];
        // @ts-expect-error: a live entry is not a page.
        update.entries;
        break;
      case "edited":
        update.entry satisfies Entry;
        [update.entry.edited satisfies Version, update.entry.feed satisfies string];
        break;
      case "erased":
        [update.entry.id satisfies string, update.entry.erased satisfies Version, update.live satisfies boolean];
        // @ts-expect-error: nothing of an erased entry is told.
        update.entry.data;
        break;
      case "transient":
        // @ts-expect-error: transients are not stored and have no version.
        update.signal.version;
        update.signal.time satisfies string | undefined;
        break;
      case "unread":
        [update.markers.read satisfies Version | null, update.markers.archived satisfies Version | null];
        update.reader satisfies string | undefined;
        break;
      case "marker":
        [update.reader satisfies string, update.markers.seen satisfies Version | null];
        // @ts-expect-error: the counts of others are theirs alone.
        update.unread;
        break;
      case "marked":
        if (update.entry !== null) [update.state satisfies State, update.marked satisfies Version];
        // @ts-expect-error: if there were too many, there is no state.
        if (update.entry === null) update.state;
        break;
      case "version":
      case "reset":
        break;
      case "status":
        update satisfies Status;
        if (update.state === "waiting") update.error satisfies NewsfeedError;
        // @ts-expect-error: only the state `waiting` has an error.
        if (update.state === "live") update.error;
        break;
      default:
        update satisfies never;
    }
  }

  const one = await feed.append({ kind: "message", time: new Date().toISOString(), data: { text: "Hi" } });
  one.version satisfies Version;
  const several = await newsfeed.append([{ kind: "visit", feeds: ["user:42"], expect: { feed: "user:42", version: null } }]);
  for (const result of several) if (result.status === "rejected") result.error.code satisfies string;
  const both = [{ kind: "booking", feeds: ["slot:6"] }, { kind: "booking", feeds: ["slot:7"] }];
  const all = await newsfeed.append(both, { atomic: true, expect: [{ feed: "slot:6", version: null }] });
  for (const { status, version } of all) [status satisfies "appended" | "duplicate" | "erased", version satisfies Version];
  // @ts-expect-error: conditions beside the events need `atomic`.
  await newsfeed.append(both, { expect: [{ feed: "slot:6", version: null }] });
  // @ts-expect-error: all or none, so no event is rejected alone.
  all[0].status satisfies "rejected";
  const booked = await feed.append([{ kind: "booking" }], { atomic: true, expect: [{ feed: "slot:8", version }] });
  booked[0]?.version satisfies Version | undefined;
  const found = await newsfeed.event("m-1");
  found?.version satisfies Version | undefined;
  (await newsfeed.versionAt(new Date(), { patience: 0 })) satisfies Version;
  (await newsfeed.versionAt("2026-11-28T00:00:00Z")) satisfies Version;
  // @ts-expect-error: a time is a Date or text.
  await newsfeed.versionAt(1_700_000_000);
  await feed.page({ after: "0", kind: ["message", "visit"] });
  await feed.page({ after: new Date(), until: version });
  // @ts-expect-error: only a beginning can be a time.
  await feed.page({ until: new Date() });
  feed.live({ after: new Date() }).close();
  for await (const page of feed.history({ kind: "message" })) page.next satisfies Version | null;
  found?.feeds[0] satisfies string | undefined;
  // @ts-expect-error: an event needs a feed.
  await newsfeed.append({ kind: "visit" });
  // @ts-expect-error: data must be JSON.
  await feed.append({ kind: "visit", data: () => {} });
  await feed.transient({ kind: "typing" });
  (await feed.markRead(version)).unread?.total satisfies number | undefined;

  const log = newsfeed.log({ kind: ["message"], actor: "user:7", feed: ["chat:*"], shard: "0/2" });
  newsfeed.log().follow({ after: version }).close();
  newsfeed.log({ kind: "message", actor: ["user:7"], feed: "chat:7-42" });
  // @ts-expect-error: the parameters are called as in HTTP.
  newsfeed.log({ kinds: ["message"] });
  const logPage = await log.page({ limit: 5, before: version });
  logPage.events[0]?.feeds satisfies string[] | undefined;
  [logPage.version satisfies Version, logPage.next satisfies Version | null];
  for await (const event of log.events({ after: "0" })) {
    event.version satisfies Version;
    // @ts-expect-error: an erased event has no data.
    event.data;
    if (event.change !== "erased") event.data satisfies Json;
    else event.erased satisfies Version;
  }
  for await (const update of log.follow({ cursor: "indexer", from: "0" })) {
    if (update.type === "event") [update.event.data satisfies Json, update.live satisfies boolean];
    if (update.type === "edited") [update.event.data satisfies Json, update.event.edited satisfies Version];
    if (update.type === "erased") update.event.feeds satisfies string[];
    if (update.type === "reset") break;
    // @ts-expect-error: the log has no entries.
    if (update.type === "entry") break;
  }

  const edited = await newsfeed.edit("m-1", { text: "Hello" }, { revision: version, change: "c-1" });
  [edited.edited satisfies Version, edited.status satisfies "edited" | "duplicate"];
  (await newsfeed.erase("m-1", { revision: edited.edited })).erased satisfies Version | undefined;
  const { status, id } = await newsfeed.eraseAll({ feed: "user:42", everywhere: true }, { progress: ({ erased }) => void erased.toFixed() });
  [status satisfies "running" | "done", (await newsfeed.erasure(id)).erased satisfies number];
  await newsfeed.eraseAll({ events: ["m-1"] });
  // @ts-expect-error: only a feed has copies elsewhere.
  await newsfeed.eraseAll({ actor: "user:7", everywhere: true });
  const list = new EntryList({ entries: [], next: null });
  for (const one of newsOf(await feed.page({ after: version }))) list.apply(one satisfies News) satisfies boolean;
  for await (const update of feed.follow()) list.apply(update);
  (await list.older((before) => feed.page({ before }))) satisfies boolean;
  list.entries satisfies readonly Entry[];
  // @ts-expect-error: the list is changed by updates only.
  list.entries.push();
  const next: Version | null | undefined = list.next;
  if (next) list.trim(100) satisfies boolean;

  const merged = newsfeed.feeds(["user:42", "chat:7-42"]);
  (await merged.state()).feeds[0]?.unread.total satisfies number | undefined;
  (await merged.state()).version satisfies Version;
  (await merged.markSeen(version))[0]?.version satisfies Version | undefined;

  const anna = feed.as("user:anna");
  const reader: string | null = anna.reader;
  const unreadPage = await anna.page({ state: "unread", limit: 5 });
  [unreadPage.entries[0]?.state satisfies State | undefined, unreadPage.entries[0]?.marked satisfies Version | undefined];
  // @ts-expect-error: there is no such state.
  await anna.page({ state: "seen" });
  const marked = await anna.setState(version, { read: true, archived: true });
  [marked.entry satisfies Version, marked.marked satisfies Version | null, marked.unread?.total satisfies number | undefined];
  // @ts-expect-error: something has to change.
  await anna.setState(version, {});
  for (const entry of unreadPage.entries) await anna.markUnread(entry, { patience: 0 });
  (await anna.archive(version)).state satisfies State;
  [await anna.unarchive(version), await anna.markAllRead(), await anna.archiveAllRead({ patience: 0 }), await anna.archiveRead(version)];
  for await (const one of anna.readers({ limit: 10 })) [one.reader satisfies string, one.markers.read satisfies Version | null];
  (await merged.as("user:anna").markAllRead())[0]?.markers.read satisfies Version | null | undefined;
  for await (const update of merged.as("user:anna").badges({ share: false })) {
    if (update.type === "state") [update.feed satisfies string, update.unread.total satisfies number, update.latest satisfies Version | null];
    // @ts-expect-error: there are no entries.
    if (update.type === "entry") break;
  }
  // @ts-expect-error: in which of the feeds?
  await merged.archive(version);
  await merged.archive({ version, feed: "user:42" });
  feed.follow({ state: "any" }).close();
  if (list.stale) (await list.reload((before) => anna.page({ before, state: "archived" }))) satisfies boolean;
  void reader;

  const live = merged.live({ after: "0", signal: new AbortController().signal });
  live.wake();
  live.close();
  try {
    await live.next();
  } catch (error) {
    if (error instanceof NewsfeedError && error.temporary) error.retryAfter satisfies number;
  }
}
void uses;
