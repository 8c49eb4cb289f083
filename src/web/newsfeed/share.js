/**
 * One live stream for all windows of a browser that follow the same feeds with the same token. Not part of the library's
 * public interface.
 *
 * Each window first reads a stream of its own until it is live, which also makes the service check its credentials. Then
 * one of the windows, the leader, keeps its stream and passes the events on through a `BroadcastChannel`; the others close
 * theirs. The leader is the holder of a lock (Web Locks), which passes to another window when the leader is closed or
 * crashes, and which another window steals when the leader is frozen.
 *
 * Correctness does not depend on there being one leader. Every message says after which version it follows, and a window
 * only takes a message that continues from its own position. Otherwise it reads a stream of its own again from there.
 */

import { placeOf } from "./changes.js";

/** Part of the channel's name, so that windows with incompatible versions of this file do not share a stream. */
const PROTOCOL = 3;
/** Messages of the leader that wait for a slow window. After that it reads a stream of its own. */
const MESSAGES_MAX = 1_000;
/** Events of its own stream that wait in a window. A leader that is slower than this gives up the lead. */
const EVENTS_MAX = 1_000;
/** A leader that does not answer for so long is frozen, in ms. */
const ANSWER_TIME_MAX = 5_000;
/** Transients have no version. Those received from both streams are recognised by their ids; so many are kept. */
const TRANSIENT_IDS_MAX = 256;
/** The events that move the position. */
const POSITIONED = ["entry", "notify", "edited", "erased", "version"];

/** Whether this is a page in a browser that has all that sharing needs. Without HTTPS only localhost has it. */
export const canShare = () =>
  Boolean(globalThis.document && globalThis.BroadcastChannel && globalThis.navigator?.locks && globalThis.crypto?.subtle);

/** The name under which windows share: of the service, the feeds, the reader and the token, which cannot be read from it. */
async function groupName({ url, request }, token) {
  const key = new TextEncoder().encode(JSON.stringify([PROTOCOL, url, request, token ?? null]));
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", key));
  return `newsfeed:${Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

export class SharedStream {
  #service;
  #connect;
  #position;
  #waits;
  #signal;
  /** The stream of this window; null while it follows the leader. */
  #own = null;
  /** The windows it shares with; null before its first stream was live. */
  #group = null;
  /** What the leader sent and is not taken yet. */
  #messages = [];
  #overrun = false;
  #transients = new Set();
  #wake = () => {};

  /**
   * `service` is the URL of the service and the request for the stream. `connect(after, signal, waits)` opens one and answers its events and
   * the token used. `position()` is the version up to which the caller has taken events. `waits` is told when a wait
   * begins and when it ends.
   */
  constructor({ service, connect, position, signal, waits }) {
    this.#service = service;
    this.#connect = connect;
    this.#position = position;
    this.#signal = signal;
    this.#waits = waits;
  }

  /** The events of the stream after the position, from whichever window. Ends as a stream of its own would. */
  async *events() {
    // At once and not when the caller comes back: a page that goes into the back-forward cache has no time.
    const close = () => this.#close();
    this.#signal.addEventListener("abort", close);
    try {
      this.#open();
      for (;;) {
        this.#signal.throwIfAborted();
        const event = this.#own ? this.#next(this.#own) : this.#nextMessage();
        if (event?.ended) return;
        if (event?.error) throw event.error;
        if (event) yield event;
        else await new Promise((resolve) => (this.#wake = resolve));
      }
    } finally {
      this.#signal.removeEventListener("abort", close);
      this.#close();
    }
  }

  #open() {
    const own = { controller: new AbortController(), at: this.#position(), name: null, live: false, queue: [], room: () => {} };
    this.#own = own;
    this.#read(own);
  }

  /** Reads a stream as it comes, so that a leader's own caller does not hold up the other windows. */
  async #read(own) {
    const waits = (waiting) => own === this.#own && this.#waits(waiting);
    const put = (event) => {
      own.queue.push(event);
      if (own === this.#own) this.#wake();
    };
    try {
      const { token, events } = await this.#connect(own.at, own.controller.signal, waits);
      own.name = await groupName(this.#service, token);
      // The token was renewed: what comes now is for those who have the new one.
      if (this.#group && this.#group.name !== own.name) this.#leave();
      this.#tell();
      for await (const event of events) {
        this.#relay(own, event);
        put(event);
        while (own.queue.length >= EVENTS_MAX && own === this.#own) {
          this.#leave();
          await new Promise((resolve) => (own.room = resolve));
        }
        if (own !== this.#own) return;
      }
      put({ ended: true });
    } catch (error) {
      put({ error });
    }
    if (own === this.#own && this.#group?.leading) this.#post({ broken: true });
  }

  /** Passes an event of the leader's stream on. */
  #relay(own, { event, data }) {
    const before = own.at;
    if (POSITIONED.includes(event)) {
      const place = placeOf(JSON.parse(data));
      if (place > own.at) own.at = place;
    }
    if (!this.#group?.leading || data === "") return;
    // A reset is about the position of this window.
    if (event === "reset") this.#post({ broken: true });
    else this.#post({ from: before, to: own.at, event, data });
  }

  /** The next event of the window's own stream; nothing if there is none yet or the leader's stream takes over. */
  #next(own) {
    const event = own.queue.shift();
    if (event) {
      own.room();
      if (event.event === "transient") this.#isNew(event.data);
      if (event.event === "version" && !own.live) {
        // Before the caller knows: from then on no transient is missed.
        own.live = true;
        this.#join(own);
      }
      return event;
    }
    if (!own.live) return null;
    if (!this.#group) this.#join(own);
    if (!this.#group.leading && this.#messages.length > 0 && this.#messages[0].from <= this.#position()) {
      this.#disconnect();
      this.#overrun = false;
      this.#waits(true);
      return this.#nextMessage();
    }
    return null;
  }

  /** The next event from the leader; nothing if there is none yet or this window has to open a stream of its own. */
  #nextMessage() {
    while (!this.#overrun && !this.#group.leading) {
      const message = this.#messages[0];
      if (!message) return null;
      if (message.broken) throw new Error("the shared stream ended");
      if (message.from > this.#position()) break;
      this.#messages.shift();
      if (this.#isNews(message)) return { event: message.event, data: message.data, retry: null };
    }
    this.#open();
    return null;
  }

  #isNews({ to, event, data }) {
    switch (event) {
      case "entry":
      case "notify":
      case "edited":
      case "erased":
        return to > this.#position();
      case "version":
        return to >= this.#position();
      case "transient":
        return this.#isNew(data);
      default:
        return event !== undefined;
    }
  }

  #isNew(transient) {
    const { id } = JSON.parse(transient);
    if (this.#transients.has(id)) return false;
    this.#transients.add(id);
    if (this.#transients.size > TRANSIENT_IDS_MAX) this.#transients.delete(this.#transients.values().next().value);
    return true;
  }

  #disconnect() {
    const own = this.#own;
    this.#own = null;
    own?.controller.abort(new Error("another window has the stream"));
    own?.room();
  }

  /** Asks who leads, and waits for the lead. */
  #join(own) {
    if (this.#group) {
      if (!this.#group.leading) this.#ask();
      return;
    }
    const group = { name: own.name, channel: new BroadcastChannel(own.name), queue: new AbortController(), request: null, leading: false, release: null, timer: 0 };
    this.#group = group;
    group.channel.onmessage = ({ data }) => this.#heard(group, data);
    this.#request(group, { signal: group.queue.signal });
    this.#ask();
  }

  #ask() {
    const group = this.#group;
    clearTimeout(group.timer);
    group.timer = setTimeout(() => group === this.#group && !group.leading && this.#steal(group), ANSWER_TIME_MAX);
    this.#post({ ask: true });
  }

  #heard(group, message) {
    if (group !== this.#group) return;
    if (message.ask) return this.#tell();
    if (group.leading) return;
    clearTimeout(group.timer);
    if (this.#messages.length >= MESSAGES_MAX) [this.#messages, this.#overrun] = [[], true];
    if (this.#own && message.broken) this.#messages = [];
    else this.#messages.push(message);
    if (!this.#own) this.#waits(true);
    this.#wake();
  }

  /** Tells the others from where on this window passes everything on. */
  #tell() {
    if (this.#group?.leading && this.#own?.name === this.#group.name) this.#post({ from: this.#own.at, to: this.#own.at });
  }

  #post(message) {
    this.#group.channel.postMessage(message);
  }

  #request(group, options) {
    const request = {};
    group.request = request;
    const lead = () => {
      if (group !== this.#group || group.request !== request) return null;
      clearTimeout(group.timer);
      group.leading = true;
      this.#messages = [];
      this.#tell();
      this.#wake();
      return new Promise((resolve) => (group.release = resolve));
    };
    navigator.locks.request(group.name, options, lead).catch(() => {
      // Another window has stolen the lead, or this one has left.
      if (group !== this.#group || group.request !== request) return;
      group.leading = false;
      group.queue = new AbortController();
      this.#request(group, { signal: group.queue.signal });
      this.#ask();
      this.#wake();
    });
  }

  #steal(group) {
    group.queue.abort();
    this.#request(group, { steal: true });
  }

  /** The lead, if it is here, passes to another window. */
  #leave() {
    const group = this.#group;
    if (!group) return;
    this.#group = null;
    this.#messages = [];
    clearTimeout(group.timer);
    group.queue.abort();
    group.release?.();
    group.channel.close();
  }

  #close() {
    this.#disconnect();
    this.#leave();
    this.#wake();
  }
}
