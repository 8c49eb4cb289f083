/** The client library of newsfeed. Everything that fails throws a {@link NewsfeedError}. */

/** An opaque position in the one order of all feeds. Versions compare as strings. `"0"` is before everything. */
export type Version = string;

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** The access token, or a function that is asked for one: at first, and with the error whenever one is refused (401).
 * It may wait for a person. If it gives the same token again, or none, the request fails with that error. */
export type Token = string | ((why: { error: NewsfeedError | null }) => Maybe<string> | Promise<Maybe<string>>);
type Maybe<T> = T | null | undefined;

/** Where cursors are kept: `localStorage`, or anything like it; its methods may answer promises. */
export interface CursorStorage {
  getItem(key: string): string | null | Promise<string | null>;
  setItem(key: string, value: string): void | Promise<void>;
}

export interface NewsfeedOptions {
  /** Where the service is. In a page: its own origin by default. */
  url?: string;
  token?: Token;
  /** Default: `localStorage` in browsers, the process's memory elsewhere. */
  storage?: CursorStorage;
  /** In place of the global one. */
  fetch?: typeof fetch;
  /** From 0 to 1, for the jitter of the back-off; in place of `Math.random`. */
  random?: () => number;
}

export interface CallOptions {
  signal?: AbortSignal;
  /** How long a request is tried again while the failure is a temporary one, in ms (30,000). 0: once. */
  patience?: number;
}

export class Newsfeed {
  constructor(options?: NewsfeedOptions);
  /** One feed, such as `user:42`. */
  feed(name: string): Feed;
  /** Several feeds as one: one order, one stream, and an event that stands in several of them comes once. */
  feeds(names: Iterable<string>): MergedFeed;
  /** Appends an event. Without an `id` it gets one, once: trying again never stores it twice. */
  append(event: NewEvent, options?: CallOptions): Promise<Appended>;
  /** Appends up to 1,000 events, in order. Each has an outcome of its own. */
  append(events: NewEvent[], options?: CallOptions): Promise<(Appended | Rejected)[]>;
  /** Sends a signal that is not stored, such as typing. Tried once. */
  transient(signal: NewTransient, options?: { signal?: AbortSignal }): Promise<{ id: string }>;
}

interface Reading {
  readonly names: string[];
  /** Pages of the history, newest first, to the first entry. Leave the loop when you have enough. */
  history(query?: HistoryQuery): AsyncGenerator<Page, void, undefined>;
  /** One page: `next` goes into `before` (with `after`, which is oldest first, into `after`) for the one behind it. */
  page(query?: PageQuery): Promise<Page>;
  /** Everything after a version (or from now on), as it happens, across breaks. */
  live(options?: LiveOptions): Follow;
  /** All that a client of a feed has to do: asks for the version now, reads the history up to it, follows live from it;
   * after every break it goes on right behind the last entry. Each entry comes once, in order, with no gap. */
  follow(options?: FollowOptions): Follow;
  /** As on {@link Newsfeed}; `feeds` is this feed if you leave it out. */
  append(event: Partial<Pick<NewEvent, "feeds">> & Omit<NewEvent, "feeds">, options?: CallOptions): Promise<Appended>;
  append(events: (Partial<Pick<NewEvent, "feeds">> & Omit<NewEvent, "feeds">)[], options?: CallOptions): Promise<(Appended | Rejected)[]>;
  transient(signal: Partial<Pick<NewTransient, "feeds">> & Omit<NewTransient, "feeds">, options?: { signal?: AbortSignal }): Promise<{ id: string }>;
}

export interface Feed extends Reading {
  /** The version now (vN), the unread count and the markers. */
  head(options?: CallOptions): Promise<Head>;
  /** Clears the unread count up to a version, for all clients of the feed. Markers only move forward. */
  markRead(version: Version, options?: CallOptions): Promise<FeedState>;
  markSeen(version: Version, options?: CallOptions): Promise<FeedState>;
}

export interface MergedFeed extends Reading {
  /** A version that all of the feeds have reached, and the head of each. */
  head(options?: CallOptions): Promise<{ version: Version; feeds: Head[] }>;
  /** Marks all of the feeds. */
  markRead(version: Version, options?: CallOptions): Promise<FeedState[]>;
  markSeen(version: Version, options?: CallOptions): Promise<FeedState[]>;
}

/** The updates, one after the other; the next is read when you ask for it. Leaving the loop, `close()` and the `signal`
 * end it. It throws only what will not go away by itself, such as 403. */
export interface Follow extends AsyncIterableIterator<Update> {
  close(): void;
  /** Tries again now if it waits for a next try; opens a stream anew that has been silent. In browsers it does so by
   * itself when the page is seen again or the network is back. */
  wake(): void;
}

export interface HistoryQuery extends CallOptions {
  /** Only up to this version, usually vN. */
  until?: Version;
  /** Only below this version. */
  before?: Version;
  kind?: string;
  /** Entries a page, 1 to 200. */
  limit?: number;
}

export interface PageQuery extends HistoryQuery {
  /** Oldest first, above this version. */
  after?: Version;
}

export interface LiveOptions {
  /** Start behind this version. */
  after?: Version;
  /** Keeps the position under this name, and goes on from there the next time. An entry counts as dealt with when the
   * loop asks for what comes after it; if the process ends before, it comes again. */
  cursor?: string;
  /** In place of the one given to {@link Newsfeed}. */
  storage?: CursorStorage;
  signal?: AbortSignal;
  /** A stream that is silent for so long counts as broken, in ms (40,000; the service speaks every 15 s). */
  silence?: number;
}

export interface FollowOptions extends LiveOptions {
  /** The most entries of the history to begin with (50); `Infinity` for all, 0 for none. More: `page({ until, before })`. */
  history?: number;
}

export type Update =
  /** vN is known. `since`: the cursor of the last time, if there is one. */
  | { type: "start"; version: Version; since: Version | null }
  /** A page of the history up to vN, newest first. `next`: see {@link Reading.page}; null at the first entry. */
  | ({ type: "history" } & Page)
  /** A new entry. `notify`: it counts as unread. `live`: false while catching up. */
  | { type: "entry"; entry: Entry & Located; notify: boolean; live: boolean }
  | { type: "transient"; signal: Transient }
  /** The badge and the markers of a feed: show this, and all clients show the same. */
  | { type: "unread"; feed: string; unread: Unread; markers: Markers }
  /** You have everything up to here. */
  | { type: "version"; version: Version }
  /** What you have of the feed does not continue: forget it. Unless `history` is 0, `start` and `history` follow. */
  | { type: "reset" }
  | Status;

/** For people. `waiting`: the next try is in `delay` ms. `caughtUp`: entries that came since the stream was opened and
 * before it was `live`. */
export type Status = { type: "status"; version: Version | null; reconnects: number; caughtUp: number } & (
  | { state: "connecting" | "live" }
  | { state: "waiting"; delay: number; error: NewsfeedError }
);

export interface Entry {
  version: Version;
  id: string;
  kind: string;
  actor: string | null;
  /** When the service accepted it, RFC 3339. For people: only `version` gives the order. */
  at: string;
  data: Json;
}

/** The first of the feeds asked for that holds it; and all of them, if there are several. */
export interface Located {
  feed: string;
  feeds?: string[];
}

export interface Transient extends Omit<Entry, "version">, Located {}

export interface Page {
  version: Version;
  entries: (Entry & Partial<Located>)[];
  next: Version | null;
}

export interface Unread {
  total: number;
  kinds: Record<string, number>;
  /** Counting stopped at 10,000. */
  more: boolean;
}

export interface Markers {
  read: Version | null;
  seen: Version | null;
}

export interface FeedState {
  feed: string;
  version: Version;
  unread: Unread;
  markers: Markers;
}

export interface Head extends FeedState {
  latest: Version | null;
}

export interface NewTransient {
  kind: string;
  feeds: string[];
  data?: Json;
  actor?: string | null;
  id?: string;
}

export interface NewEvent extends NewTransient {
  /** Append only if `feed` has no entry after `version` (null: none at all). */
  expect?: { feed: string; version: Version | null };
}

export interface Appended {
  id: string;
  version: Version;
  status: "appended" | "duplicate";
}

export interface Rejected {
  id: string;
  status: "rejected";
  error: { code: string; detail: string; version?: Version; current?: Version | null; feed?: string };
}

export class NewsfeedError extends Error {
  /** The HTTP status; 0 if no whole answer came. */
  readonly status: number;
  /** What to decide on: the service's `code`, or `network`, or `http_404` and the like if the answer had none. */
  readonly code: string;
  /** What to show to people. */
  readonly detail: string;
  /** ms the service asked to wait; 0 if it did not. */
  readonly retryAfter: number;
  /** The whole problem document (RFC 9457), if there is one. */
  readonly problem: Record<string, Json> | null;
  /** Whether the same request may well be answered later. */
  readonly temporary: boolean;
}
