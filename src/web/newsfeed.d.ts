/** The client library of newsfeed. Every failure is thrown as a {@link NewsfeedError}. */

/** An opaque position in the order that all feeds share. Versions compare as strings. `"0"` is before all entries. */
export type Version = string;

/** A version, or a time instead of the version that was current then: a `Date`, or RFC 3339 with seconds and an offset. */
export type Start = Version | Date;

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** The access token, or a function that returns one. The function is called before the first request, and with the error
 * whenever a token is refused (401). It may wait for a person. If it returns the same token again, or none, the request
 * fails with that error. */
export type Token = string | ((why: { error: NewsfeedError | null }) => Maybe<string> | Promise<Maybe<string>>);
type Maybe<T> = T | null | undefined;

/** Where cursors are kept: `localStorage`, or anything with these methods, which may return promises. */
export interface CursorStorage {
  getItem(key: string): string | null | Promise<string | null>;
  setItem(key: string, value: string): void | Promise<void>;
}

export interface NewsfeedOptions {
  /** Base URL of the service, with its base path if it has one. Default: the origin of the page, and the base path if this
   * file comes from the service; `http://127.0.0.1:8080` elsewhere. */
  url?: string;
  token?: Token;
  /** Default: `localStorage` in browsers, memory elsewhere. */
  storage?: CursorStorage;
  /** Replaces the global `fetch`. */
  fetch?: typeof fetch;
  /** Whether windows share their live streams (default: true). Windows of one origin that follow the same feeds of the same
   * service with the same token then use one connection together, because browsers allow only six connections to an
   * HTTP/1.1 origin. Each window keeps its own position. Needs a page on HTTPS or localhost, Web Locks and
   * `BroadcastChannel`; elsewhere, and with a `fetch` of your own, each `follow` has its own stream. */
  share?: boolean;
  /** Replaces `Math.random` for the jitter of the back-off: a number from 0 to 1. */
  random?: () => number;
}

export interface CallOptions {
  signal?: AbortSignal;
  /** How long temporary failures are retried, in ms (default: 30,000). 0: no retries. */
  patience?: number;
}

export interface AtomicOptions extends CallOptions {
  atomic: true;
  /** Further conditions, up to 100, besides the `expect` of each event. The events need not name their feeds. All conditions
   * are about the moment before the append. */
  expect?: Expect[];
}

export class Newsfeed {
  constructor(options?: NewsfeedOptions);
  /** One feed, such as `user:42`. Names need no escaping. */
  feed(name: string): Feed;
  /** Several feeds merged into one: one order, one stream, and an event that is in several of them comes once. */
  feeds(names: Iterable<string>): MergedFeed;
  /** The log: all events of all feeds, each once with all its feeds, in version order. Needs the scope `export`. */
  log(filter?: LogFilter): Log;
  /** Appends an event. An event without `id` gets one before the first try, so that retries never store it twice. An event
   * without `actor` gets the actor of the token, if the token's `actors` claim is exactly one name. */
  append(event: NewEvent, options?: CallOptions): Promise<Appended>;
  /** Appends up to 100 events, all or none. If an id was used for other content or a condition does not hold, it throws the
   * {@link NewsfeedError} of that event, whose `problem` names its `index`, or the condition's `expect_index`. */
  append(events: NewEvent[], options: AtomicOptions): Promise<Appended[]>;
  /** Appends up to 1,000 events, in order. Each has its own outcome. */
  append(events: NewEvent[], options?: CallOptions): Promise<(Appended | Rejected)[]>;
  /** The event with this id; null if there is none, or if the token allows reading none of its feeds. */
  event(id: string, options?: CallOptions): Promise<StoredEvent | null>;
  /** Replaces the data of an event, in all its feeds and in the log. Needs the scope `change`. */
  edit(id: string, data: Json, options?: EditOptions): Promise<Edited>;
  /** Erases an event from all its feeds and from the log. Needs the scope `change`. */
  erase(id: string, options?: EraseOptions): Promise<Erased>;
  /** Erases many events. The result comes when they are erased, which can take long. Needs the scope `change`. */
  eraseAll(what: ErasureOf, options?: ErasureOptions): Promise<Erasure>;
  /** How far an erasure is. */
  erasure(id: string, options?: CallOptions): Promise<Erasure>;
  /** Sends a transient, which is not stored, such as typing. It is not retried. */
  transient(signal: NewTransient, options?: { signal?: AbortSignal }): Promise<{ id: string }>;
  /** The version that was current at a time (RFC 3339 with seconds and an offset, if it is text), to begin there: as `after`
   * or `until` of a page, or as `after` of `live` and `follow`. */
  versionAt(time: Date | string, options?: CallOptions): Promise<Version>;
}

export interface EraseOptions extends CallOptions {
  /** Only if this is the event's revision: its `edited`, or its `version` if it was never edited. Otherwise it fails with
   * the code `revision_conflict`, and `problem.current` is the revision. */
  revision?: Version;
}

export interface EditOptions extends EraseOptions {
  /** Identifies the edit, so that it is made once, however often it is sent. Default: a new id for each call. */
  change?: string;
}

export interface Edited {
  id: string;
  /** `duplicate`: this edit had been made before. */
  status: "edited" | "duplicate";
  /** Of the event. */
  version: Version;
  /** Of the edit. */
  edited: Version;
}

export interface Erased {
  id: string;
  /** `duplicate`: the event had been erased before. */
  status: "erased" | "duplicate";
  /** Of the event. */
  version: Version;
  /** Of the erasure; absent if it was erased before. */
  erased?: Version;
}

/** What to erase: events by their ids (up to 300); what is in a feed, only there or `everywhere`; what an actor has done. */
export type ErasureOf =
  | { events: string[]; everywhere?: never }
  | { feed: string; everywhere?: boolean }
  | { actor: string; everywhere?: never };

export interface ErasureOptions extends CallOptions {
  /** Called while it waits. */
  progress?: (erasure: Erasure) => void;
}

export interface Erasure {
  id: string;
  status: "running" | "done";
  /** How many events have been erased so far. */
  erased: number;
}

interface Reading {
  readonly names: string[];
  /** Whose unread counts, markers and states these are; null for the feed's own reader. See `as`. */
  readonly reader: string | null;
  /** Pages of the history, newest first, down to the first entry. Leave the loop when you have enough. */
  history(query?: HistoryQuery): AsyncGenerator<Page, void, undefined>;
  /** One page. For the following page, pass its `next` as `before`, or as `after` if you read oldest first; from the
   * beginning with `kept`. */
  page(query?: PageQuery): Promise<Page>;
  /** Everything after a version (default: now) as it happens, also after lost connections. */
  live(options?: LiveOptions): Follow;
  /** Gets the current version, reads the history up to it, and follows live from it. After a lost connection it continues
   * after the last entry. Each entry, and each change of an earlier entry, comes once, in order, without a gap. */
  follow(options?: FollowOptions): Follow;
  /** The unread counts, markers and newest versions of up to 1,000 feeds in one stream: first of all of them, then of each
   * that changes. For a list of chats with badges. */
  badges(options?: BadgesOptions): BadgesFollow;
  /** How far the named readers have read and seen the feed, in the order of their names. Whoever may read a feed may see
   * this. A `follow` tells it as it changes, see `marker` of {@link Update}. */
  readers(options?: ReadersOptions): AsyncGenerator<ReaderMarkers, void, undefined>;
  /** As on {@link Newsfeed}. `feeds` defaults to this feed. */
  append(event: Partial<Pick<NewEvent, "feeds">> & Omit<NewEvent, "feeds">, options?: CallOptions): Promise<Appended>;
  append(events: (Partial<Pick<NewEvent, "feeds">> & Omit<NewEvent, "feeds">)[], options: AtomicOptions): Promise<Appended[]>;
  append(events: (Partial<Pick<NewEvent, "feeds">> & Omit<NewEvent, "feeds">)[], options?: CallOptions): Promise<(Appended | Rejected)[]>;
  transient(signal: Partial<Pick<NewTransient, "feeds">> & Omit<NewTransient, "feeds">, options?: { signal?: AbortSignal }): Promise<{ id: string }>;
}

export interface Feed extends Reading {
  /** The same feed for a reader, such as a member of a group chat: with an unread count, markers and states of the reader's
   * own. What the reader wrote, as `actor`, is never unread. The token must allow it (claim `readers`, else `actors`, else
   * `sub`). */
  as(reader: string): Feed;
  /** The current version (vN), the unread count and the markers. */
  state(options?: CallOptions): Promise<FeedState>;
  /** Moves the `read` marker, which marks everything up to a version as read, for all clients of the reader. Markers only move
   * forward. */
  markRead(version: Version, options?: CallOptions): Promise<MovedMarker>;
  markSeen(version: Version, options?: CallOptions): Promise<MovedMarker>;
  /** Archives what is read now, up to a version. */
  archiveRead(version: Version, options?: CallOptions): Promise<MovedMarker>;
  /** As `markRead`, up to what the states and updates of this object have told: an entry that you do not know of stays
   * unread. If they have told nothing, up to now. */
  markAllRead(options?: CallOptions): Promise<MovedMarker>;
  /** As `archiveRead`, up to where `markAllRead` marks. */
  archiveAllRead(options?: CallOptions): Promise<MovedMarker>;
  /** Changes the state of one entry, which is given as it is or by its version. */
  setState(entry: Version | Marking, state: NewState, options?: CallOptions): Promise<MarkedEntry>;
  /** `setState` with `read: false`: it counts as unread again, until it is marked or the `read` marker passes this moment. */
  markUnread(entry: Version | Marking, options?: CallOptions): Promise<MarkedEntry>;
  /** `setState` with `archived: true`, which also marks it as read. */
  archive(entry: Version | Marking, options?: CallOptions): Promise<MarkedEntry>;
  /** `setState` with `archived: false`. */
  unarchive(entry: Version | Marking, options?: CallOptions): Promise<MarkedEntry>;
}

export interface MergedFeed extends Reading {
  /** The same feeds for a reader, see {@link Feed.as}. */
  as(reader: string): MergedFeed;
  /** The current version (vN), and the state of each feed as of it. More than 1,000 feeds are asked for in blocks: each block
   * is then as of its own version, and `version` is the earliest. With many feeds, `unread` stops counting earlier: at an
   * equal share of 100,000 for each. */
  state(options?: CallOptions): Promise<{ version: Version; feeds: FeedState[] }>;
  /** Moves the marker of each feed. */
  markRead(version: Version, options?: CallOptions): Promise<MovedMarker[]>;
  markSeen(version: Version, options?: CallOptions): Promise<MovedMarker[]>;
  archiveRead(version: Version, options?: CallOptions): Promise<MovedMarker[]>;
  /** As {@link Feed.markAllRead}, in each feed. */
  markAllRead(options?: CallOptions): Promise<MovedMarker[]>;
  archiveAllRead(options?: CallOptions): Promise<MovedMarker[]>;
  /** Changes the state of one entry, in each of its feeds. */
  setState(entry: Marking & Located, state: NewState, options?: CallOptions): Promise<MarkedEntry[]>;
  markUnread(entry: Marking & Located, options?: CallOptions): Promise<MarkedEntry[]>;
  archive(entry: Marking & Located, options?: CallOptions): Promise<MarkedEntry[]>;
  unarchive(entry: Marking & Located, options?: CallOptions): Promise<MarkedEntry[]>;
}

/** What an entry is for a reader. Archived ones have been read. */
export type State = "unread" | "read" | "archived";

/** One of the two, or both. Not read and archived at once. */
export type NewState = { read: boolean; archived?: boolean } | { read?: boolean; archived: boolean };

/** An entry, as far as it is needed to mark it. */
export interface Marking {
  version: Version;
}

/** The state of an entry after it was changed. */
export interface MarkedEntry {
  feed: string;
  reader?: string;
  entry: Version;
  state: State;
  /** The version of the mark that decides; null if there is none. */
  marked: Version | null;
  version: Version;
  /** Missing if the token does not allow reading the feed. */
  unread?: Unread;
  markers: Markers;
}

export interface ReadersOptions extends CallOptions {
  /** Readers per request, 1 to 1,000. */
  limit?: number;
}

export interface ReaderMarkers {
  feed: string;
  reader: string;
  markers: Pick<Markers, "read" | "seen">;
}

export interface BadgesOptions extends Pick<LiveOptions, "signal" | "silence" | "share"> {}

/** As {@link Follow}. */
export interface BadgesFollow extends AsyncIterableIterator<BadgeUpdate> {
  close(): void;
  wake(): void;
}

export type BadgeUpdate =
  /** A feed, as of `version`. After a lost connection, all of them come again. */
  | ({ type: "state" } & FeedState)
  /** Everything up to this version has come. */
  | { type: "version"; version: Version }
  | Status;

/** The updates, one after another. The next one is read when the loop asks for it. Leaving the loop, `close()` and the
 * `signal` end it. It throws only permanent failures, such as 403. */
export interface Follow extends AsyncIterableIterator<Update> {
  close(): void;
  /** Retries now if it is waiting for the next try, and reconnects a stream that has been silent. In browsers this happens
   * by itself when the page becomes visible or the network is back. */
  wake(): void;
}

/** Which events of the log: every condition must hold. */
export interface LogFilter {
  /** This kind, or one of these kinds. */
  kind?: string | string[];
  /** This actor, or one of these actors. */
  actor?: string | string[];
  /** This feed, or one of these feeds: names, or beginnings of names followed by `*`, such as `chat:*`. */
  feed?: string | string[];
  /** One of `n` parts, `i/n` with `i` from 0, such as `0/4`. Each event is in exactly one. */
  shard?: string;
}

export interface Log {
  /** One page. For the following page, pass its `next` as `before`, or as `after` if you read oldest first; from the
   * beginning with `kept`. */
  page(query?: LogQuery): Promise<LogPage>;
  /** The events and changes after `after` (default: all), oldest first, up to `until` (default: now). A change has the member
   * `change`. Leave the loop when you have enough. */
  events(query?: Pick<LogQuery, "after" | "until" | keyof CallOptions>): AsyncGenerator<LogItem, void, undefined>;
  /** Everything after a version as it happens, also after lost connections. Each event and each change comes once, in
   * order. */
  follow(options?: LogFollowOptions): LogFollow;
}

export interface LogFollowOptions extends Omit<LiveOptions, "share" | "kind"> {
  /** Where to start if there is no stored `cursor`, and where to start over after a `reset`: `"0"` is the beginning of the
   * log. Default: now. */
  from?: Version;
}

/** As {@link Follow}. */
export interface LogFollow extends AsyncIterableIterator<LogUpdate> {
  close(): void;
  wake(): void;
}

export type LogUpdate =
  /** Only if it starts now: the version at which it does. */
  | { type: "start"; version: Version; since: Version | null }
  /** An event. `live` is false while catching up. */
  | { type: "event"; event: LogEvent; live: boolean }
  /** An earlier event was edited: the event as it is now. Its `edited` is the version of the edit. */
  | { type: "edited"; event: Revised<LogEvent>; live: boolean }
  /** An earlier event was erased. */
  | { type: "erased"; event: Gone & { feeds: string[] }; live: boolean }
  /** Everything up to this version has come. */
  | { type: "version"; version: Version }
  /** The store was restored or replaced, or retention has removed something after your position: discard what you have. What
   * follows starts at `from`, else now. */
  | { type: "reset" }
  | Status;

/** An event with all its feeds, in the order in which its producer named them; only those that the token may read. */
export interface LogEvent extends Entry {
  feeds: string[];
}

/** An event, or a change of an earlier one. Newest first there are only events, as they are now. */
export type LogItem =
  | (LogEvent & { change?: undefined })
  | ({ change: "edited" } & Revised<LogEvent>)
  | ({ change: "erased" } & Gone & { feeds: string[] });

export interface LogPage {
  version: Version;
  events: LogItem[];
  next: Version | null;
}

export interface LogQuery extends CallOptions {
  /** Only up to this version. */
  until?: Version;
  /** Only below this version, newest first. */
  before?: Version;
  /** Oldest first, after this version, or after a time (see {@link Start}). */
  after?: Start;
  /** Only with `after`: read what is kept after it, even if retention has removed something there. Pass it with every page
   * when you read everything from `"0"`. */
  kept?: boolean;
  /** Events per page, 1 to 200. */
  limit?: number;
}

export interface HistoryQuery extends CallOptions {
  /** Only up to this version, usually vN. */
  until?: Version;
  /** Only below this version. */
  before?: Version;
  /** Only entries of this kind, or of these kinds (at most 20). */
  kind?: string | string[];
  /** Only entries in this state for the reader; `any` for all entries. Entries then have their `state`, as they have without
   * it if there is a reader. Only entries that are delivered as `notify` have one. */
  state?: State | "any";
  /** Entries per page, 1 to 200. */
  limit?: number;
}

export interface PageQuery extends HistoryQuery {
  /** Oldest first, after this version, or after a time (see {@link Start}). */
  after?: Start;
  /** Only with `after`: read what is kept after it, even if retention has removed something there. Pass it with every page
   * when you read everything from `"0"`. */
  kept?: boolean;
}

export interface LiveOptions {
  /** Only entries and transients of this kind, or of these kinds (at most 20). `unread` follows these kinds live; other kinds
   * in it are as of the last time that the stream was opened or a marker moved. */
  kind?: string | string[];
  /** Start after this version, or after a time. */
  after?: Start;
  /** Keeps the position under this name, and continues from there the next time. An entry counts as handled when the loop
   * asks for the next update. If the process ends before that, the entry comes again. */
  cursor?: string;
  /** Replaces the storage given to {@link Newsfeed}. */
  storage?: CursorStorage;
  signal?: AbortSignal;
  /** Silence after which a stream counts as a lost connection, in ms (default: 40,000). The service sends something every
   * 15 s. */
  silence?: number;
  /** Replaces the `share` given to {@link Newsfeed}. */
  share?: boolean;
}

export interface FollowOptions extends LiveOptions {
  /** How many entries of the history to begin with, at most (default: 50). `Infinity` for all, 0 for none. Read more with
   * `page({ until, before })`. */
  history?: number;
  /** With `any`, entries have their `state` also if no reader is named. */
  state?: "any";
}

export type Update =
  /** vN is known. `since` is the stored cursor, if there is one and it is of this life of the store. */
  | { type: "start"; version: Version; since: Version | null }
  /** A page of the history up to vN, newest first. `next`: see {@link Reading.page}. It is null at the first entry. */
  | ({ type: "history" } & Page)
  /** A new entry. `notify`: it counts as unread, unless it was marked since. `live` is false while catching up. */
  | { type: "entry"; entry: Entry & Located; notify: boolean; live: boolean }
  | { type: "transient"; signal: Transient }
  /** An earlier entry was edited: the entry as it is now. Its `version` is the one that it always had, its `edited` that of
   * the edit. It may be an entry that you have not read. */
  | { type: "edited"; entry: Revised<Entry> & Located; live: boolean }
  /** An earlier entry was erased: remove it. It may be an entry that you have not read. */
  | { type: "erased"; entry: Gone & Located; live: boolean }
  /** The unread count and the markers of a feed. All clients of the reader get the same count. */
  | { type: "unread"; feed: string; reader?: string; unread: Unread; markers: Markers }
  /** Another reader's markers have moved. `reader` is empty for the feed's own reader. */
  | { type: "marker"; feed: string; reader: string; version: Version; markers: Pick<Markers, "read" | "seen"> }
  /** An entry was marked one by one. `entry` is null if too many were: read the list again. */
  | { type: "marked"; feed: string; reader?: string; entry: Version; state: State; marked: Version }
  | { type: "marked"; feed: string; reader?: string; entry: null }
  /** Everything up to this version has come. */
  | { type: "version"; version: Version }
  /** The stream cannot continue from your position, or from the stored cursor: the store was restored or replaced since, or
   * retention has removed something after it. Discard what you have of the feed. `start` and `history` follow, unless
   * `history` is 0. */
  | { type: "reset" }
  | Status;

/** The connection, to show to people. `waiting`: the next try is in `delay` ms. `caughtUp`: the number of entries that came
 * after the stream was opened and before it was `live`. */
export type Status = { type: "status"; version: Version | null; reconnects: number; caughtUp: number } & (
  | { state: "connecting" | "live" }
  | { state: "waiting"; delay: number; error: NewsfeedError }
);

export interface Entry {
  version: Version;
  id: string;
  kind: string;
  actor: string | null;
  /** When the service accepted it (RFC 3339), to show to people. Only `version` defines the order. */
  at: string;
  /** When it happened (RFC 3339), as its producer wrote it; absent if the producer did not say. */
  time?: string;
  data: Json;
  /** The version of the last edit; absent if it was never edited. */
  edited?: Version;
  /** What it is for the reader, in `feed`. Only if it is delivered as `notify`, and asked for: see {@link HistoryQuery}. */
  state?: State;
  /** The version at which it was marked one by one, if it was. */
  marked?: Version;
}

/** An entry or event after an edit. */
export type Revised<T extends Entry> = T & { edited: Version };

/** What is told of an erased entry or event. */
export interface Gone {
  /** The version that it had. */
  version: Version;
  /** The version of the erasure. */
  erased: Version;
  id: string;
  kind: string;
}

/** An event as it is stored, with all its feeds that the token allows reading. */
export interface StoredEvent extends Entry {
  feeds: string[];
}

/** The first requested feed that holds the entry, and all of them if several feeds were requested. */
export interface Located {
  feed: string;
  feeds?: string[];
  /** The states in `feeds`, if they were asked for; null where it has none. */
  states?: (State | null)[];
}

export interface Transient extends Omit<Entry, "version">, Located {}

export interface Page {
  version: Version;
  /** As they are now: edited ones have `edited`, erased ones are not there. */
  entries: (Entry & Partial<Located>)[];
  /** Only with `after`, and absent if there are none: the changes after it. {@link newsOf} puts them among the entries. */
  changes?: Change[];
  next: Version | null;
}

export type Change = ({ change: "edited" } & Revised<Entry> & Located) | ({ change: "erased" } & Gone & Located);

/** An update without what only a follower knows. */
export type News =
  | { type: "entry" | "edited"; entry: Entry & Partial<Located> }
  | { type: "erased"; entry: Gone & Partial<Located> };

/** What a page that was read with `after` tells, in the order in which a follower would have told it. */
export function newsOf(page: Page): News[];

/** A list of entries that stays as the feed is, if it is given each update of one `follow`. */
export class EntryList {
  /** Begins with entries that were kept, newest first, and the version before which older ones are loaded. To bring them up
   * to date, follow with the `cursor` that was kept with them, and `history: 0`. */
  constructor(kept?: { entries?: (Entry & Partial<Located>)[]; next?: Version | null });
  /** Newest first. A new array after each change. */
  readonly entries: readonly (Entry & Partial<Located>)[];
  /** Before which version older entries are loaded; null if the first entry is in the list. */
  readonly next: Version | null | undefined;
  /** Returns whether the entries have changed, also in their states. The same update may come again, and updates that are
   * not about entries do nothing. */
  apply(update: Update | News): boolean;
  /** Whether states may be wrong, because too much has changed while nobody followed: `reload` the list. */
  readonly stale: boolean;
  /** Replaces the entries with the newest page, which `load` loads. Until it is there, they stay. Returns whether the
   * entries have changed. */
  reload(load: (before: undefined) => Promise<Page>): Promise<boolean>;
  /** Loads the next older page with `load`, such as `(before) => feed.page({ before })`. Returns whether the entries have
   * changed. What is told of them meanwhile is not lost. */
  older(load: (before: Version | undefined) => Promise<Page>): Promise<boolean>;
  /** Drops all but the newest `max` entries. `older` loads them again. */
  trim(max: number): boolean;
}

export interface Unread {
  total: number;
  kinds: Record<string, number>;
  /** Whether there are more: counting stops at 10,000, or earlier for many feeds at once. */
  more: boolean;
}

export interface Markers {
  read: Version | null;
  seen: Version | null;
  /** Up to here, what had been read was archived. */
  archived: Version | null;
}

/** As of `version`. */
export interface MarkerState {
  feed: string;
  /** Absent for the feed's own reader. */
  reader?: string;
  version: Version;
  unread: Unread;
  markers: Markers;
}

/** The state after a move. `unread` is missing if the token does not allow reading the feed. */
export type MovedMarker = Omit<MarkerState, "unread"> & { unread?: Unread };

export interface FeedState extends MarkerState {
  /** Version of the newest entry; null if the feed is empty. */
  latest: Version | null;
}

export interface NewTransient {
  kind: string;
  feeds: string[];
  data?: Json;
  /** Who did it. Default: the only actor of the token, if it has exactly one; otherwise none. `null`: none. */
  actor?: string | null;
  /** When it happened: RFC 3339 with seconds and an offset, as `Date.toISOString()` writes it. Default: none. */
  time?: string | null;
  id?: string;
}

export interface NewEvent extends NewTransient {
  /** Default: a new id. It begins with the actor, if there is one, so that a token that allows only certain actors allows
   * it; with a token that has the claim `ids`, it begins as that allows. */
  id?: string;
  /** Append only if `feed` has no entry after `version` (null: no entry at all). */
  expect?: Expect;
}

/** A condition: `feed` has no entry after `version` (null: no entry at all). */
export interface Expect {
  feed: string;
  version: Version | null;
}

export interface Appended {
  id: string;
  version: Version;
  /** `erased`: an event with this id was appended and erased before. It is not stored again. */
  status: "appended" | "duplicate" | "erased";
}

export interface Rejected {
  id: string;
  status: "rejected";
  error: { code: string; detail: string; version?: Version; current?: Version | null; feed?: string };
}

export class NewsfeedError extends Error {
  /** The HTTP status; 0 if there was no complete response. Browsers hide that of a redirect: it is 302. */
  readonly status: number;
  /** Decide on this: the service's `code`; `network` if there was no complete response; `redirected` (`detail` says which
   * `url` to use); `http_` and the status if the response had no code; `not_newsfeed` if something else answered, such as
   * the login page of a network. */
  readonly code: string;
  /** Show this to people. */
  readonly detail: string;
  /** How long the service asked to wait, in ms; 0 if it did not. */
  readonly retryAfter: number;
  /** The whole problem document (RFC 9457), if there is one. */
  readonly problem: Record<string, Json> | null;
  /** Whether the same request may succeed later: there was no complete response, or the status is 408, 425, 429, 500, 502,
   * 503, 504, 520 to 524, 529, 530, 598 or 599. */
  readonly temporary: boolean;
}
