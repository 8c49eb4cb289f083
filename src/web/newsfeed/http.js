/** Requests to the service: tokens, errors, back-off. Not part of the library's public interface. */

import { STATUSES } from "./temporary.js";

/** Timeout of one try of a request other than a stream, in ms. */
const ANSWER_TIME_MAX = 30_000;
/** How long ordinary calls are retried, in ms. */
export const PATIENCE = 30_000;
/** Feeds whose names make the URL longer than this are named in a body, because proxies accept URLs of a few KiB. */
const URL_CHARS_MAX = 4_000;
/** Back-off in ms: the first bound, unless the service sends `retry:`, and the greatest. */
const BACKOFF_BASE = 1_000;
const BACKOFF_MAX = 30_000;

/** Every failure is thrown as this. Decide on `code`; show `detail` to people. */
export class NewsfeedError extends Error {
  constructor({ status = 0, code, detail, retryAfter = 0, problem = null }, cause) {
    super(`${detail} (${code})`, { cause });
    this.name = "NewsfeedError";
    Object.assign(this, { status, code, detail, retryAfter, problem });
  }

  /** Whether a retry may succeed. */
  get temporary() {
    return this.status === 0 || STATUSES.includes(this.status);
  }

  /** `error` itself if it is a NewsfeedError; any other error is a missing or incomplete response. */
  static of(error) {
    if (error instanceof NewsfeedError) return error;
    return new NewsfeedError({ code: "network", detail: "the service cannot be reached" }, error);
  }

  /** A success that is not from the service, such as the login page of a network. */
  static foreign({ status, headers }) {
    const detail = `the answer (${headers.get("content-type")}) is not from a newsfeed service; check the URL`;
    return new NewsfeedError({ status, code: "not_newsfeed", detail });
  }

  static async from(response) {
    const problem = await response.json().catch(() => null);
    const { status } = response;
    return new NewsfeedError({
      status,
      code: problem?.code ?? `http_${status}`,
      detail: problem?.detail ?? `the service answered ${status}`,
      retryAfter: retryAfter(response.headers.get("retry-after")),
      problem,
    });
  }
}

/** The header in ms; it has seconds or a date. */
function retryAfter(text) {
  if (!text) return 0;
  const seconds = Number(text);
  const ms = Number.isNaN(seconds) ? Date.parse(text) - Date.now() : seconds * 1000;
  return Math.max(0, ms || 0);
}

/** Full jitter: a random delay up to a bound that doubles, but never less than the service asked for. */
export class Backoff {
  base = BACKOFF_BASE;
  attempts = 0;

  constructor(random) {
    this.random = random;
  }

  next(error) {
    const bound = Math.min(BACKOFF_MAX, this.base * 2 ** this.attempts);
    this.attempts += 1;
    return Math.max(error.retryAfter ?? 0, this.random() * bound);
  }
}

/** Whether `after` is a time instead of a version, which has no colon. */
export const isTime = (after) => after instanceof Date || (typeof after === "string" && after.includes(":"));

const textOf = (time) => (time instanceof Date ? time.toISOString() : time);

/** The version that was current at a time. */
export async function versionAt(http, time, options) {
  const { version } = await http.json(`/v1/versions?${new URLSearchParams({ at: textOf(time) })}`, options);
  return version;
}

/** Feeds are named in the query, because some proxies change `%2F` in paths. */
export function path(what, names, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const each = ([name, value]) => [value].flat().map((one) => [name, textOf(one)]);
  const pairs = [...names.map((name) => ["feed", name]), ...given.flatMap(each)];
  const text = pairs.map(([name, value]) => `${name}=${encoded(value)}`).join("&");
  return `/v1/${what}${text && `?${text}`}`;
}

/** A request that names many feeds: in a body if the URL would be too long. */
export function naming(what, names, query) {
  const url = path(what, names, query);
  if (url.length <= URL_CHARS_MAX) return { path: url };
  return { path: path(what, [], query), method: "POST", body: { feeds: names } };
}

export function encoded(value) {
  try {
    return encodeURIComponent(value);
  } catch (error) {
    throw new NewsfeedError({ status: 400, code: "invalid_query", detail: "a name has half of a surrogate pair" }, error);
  }
}

/** Waits. An abort of `signal` rejects with its reason. */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const done = (settle) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      settle();
    };
    const aborted = () => done(() => reject(signal.reason));
    const timer = setTimeout(() => done(resolve), ms);
    if (signal?.aborted) aborted();
    else signal?.addEventListener("abort", aborted);
  });
}

/** A controller that is also aborted by `signal`. Call `unlink` when it is no longer needed. */
export function linked(signal) {
  const controller = new AbortController();
  const abort = () => controller.abort(signal.reason);
  if (signal?.aborted) abort();
  else signal?.addEventListener("abort", abort);
  return { controller, unlink: () => signal?.removeEventListener("abort", abort) };
}

export class Http {
  #ask;
  #token;
  #asking = null;

  constructor({ url, token, fetch, random }) {
    this.url = url.replace(/\/+$/, "");
    this.fetch = fetch;
    this.random = random;
    this.#ask = typeof token === "function" ? token : null;
    this.#token = this.#ask ? undefined : token;
  }

  /**
   * The JSON response. Temporary failures are retried for `patience` ms. `body` may be a function, which is given the token
   * of each try.
   */
  async json(path, { method = "GET", body, signal, patience = PATIENCE } = {}) {
    const init = { method, headers: { accept: "application/json" } };
    if (body !== undefined) init.headers["content-type"] = "application/json";
    const deadline = Date.now() + patience;
    const backoff = new Backoff(this.random);
    for (;;) {
      try {
        return await this.#answer(path, init, body, signal);
      } catch (error) {
        signal?.throwIfAborted();
        const delay = backoff.next(error);
        if (!error.temporary || Date.now() + delay >= deadline) throw error;
        await sleep(delay, signal);
      }
    }
  }

  #answer(path, init, body, signal) {
    return this.#authorized(signal, async (token) => {
      const { controller, unlink } = linked(signal);
      const timer = setTimeout(() => controller.abort(new Error("no response in time")), ANSWER_TIME_MAX);
      try {
        const content = JSON.stringify(typeof body === "function" ? body(token) : body);
        const response = await this.#send(path, { ...init, body: content }, token, controller.signal);
        if (/^text\//.test(response.headers.get("content-type"))) throw NewsfeedError.foreign(response);
        return await response.json();
      } catch (error) {
        throw NewsfeedError.of(error);
      } finally {
        clearTimeout(timer);
        unlink();
      }
    });
  }

  /** The body of a live stream and the token used. `waits` is called with true before the request and false after it. */
  open({ path, method = "GET", body }, signal, waits) {
    const init = { method, headers: { accept: "text/event-stream" }, cache: "no-store" };
    if (body) {
      init.headers["content-type"] = "application/json";
      init.body = JSON.stringify(body);
    }
    return this.#authorized(signal, async (token) => {
      waits(true);
      const response = await this.#send(path, init, token, signal).finally(() => waits(false));
      if (!response.body || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
        response.body?.cancel().catch(() => {});
        throw NewsfeedError.foreign(response);
      }
      return { body: response.body, token };
    });
  }

  async #send(path, init, token, signal) {
    const headers = token ? { ...init.headers, authorization: `Bearer ${token}` } : init.headers;
    const response = await this.fetch(this.url + path, { ...init, headers, signal, redirect: "manual" });
    if (response.type === "opaqueredirect" || (response.status >= 300 && response.status < 400)) {
      throw await this.#redirected(path, response, signal);
    }
    if (!response.ok) throw await NewsfeedError.from(response);
    return response;
  }

  /** Redirects are not followed, because most of them turn a POST into a GET. The error says which `url` to use instead. */
  async #redirected(path, response, signal) {
    const location = response.headers.get("location");
    // Browsers do not say where a redirect leads. A request that follows it does, without credentials or names of feeds.
    const bare = this.url + path.split("?")[0];
    const follow = () => this.fetch(bare, { credentials: "omit", referrerPolicy: "no-referrer", signal }).catch(() => null);
    const followed = location === null ? await follow() : null;
    followed?.body?.cancel();
    const target = location === null ? followed?.url : new URL(location, this.url + path).href;
    const [base, rest] = [target?.split("?")[0], path.split("?")[0]];
    const advice = base?.endsWith(rest) ? `use the url ${base.slice(0, -rest.length)}` : "use the address of the service itself as `url`";
    return new NewsfeedError({
      // The status that a browser hides is that of some redirect.
      status: response.status || 302,
      code: "redirected",
      detail: `${this.url} redirects ${target ? `to ${target}` : "elsewhere"}: ${advice}`,
    });
  }

  /** Asks for another token while the current one is refused. Fails if the same token is given again, or none. */
  async #authorized(signal, request) {
    let token = this.#token === undefined && this.#ask ? await this.#renew(undefined, null, signal) : this.#token;
    for (;;) {
      try {
        return await request(token || null);
      } catch (error) {
        if (error.status !== 401 || !this.#ask) throw error;
        const renewed = await this.#renew(token, error, signal);
        if (!renewed || renewed === token) throw error;
        token = renewed;
      }
    }
  }

  /** Asks for a token once for all requests that are waiting for one. */
  #renew(refused, error, signal) {
    if (this.#token !== refused) return this.#token;
    this.#asking ??= Promise.resolve(this.#ask({ error }))
      .then((token) => (this.#token = token ?? null))
      .catch((error) => Promise.reject(NewsfeedError.of(error)))
      .finally(() => (this.#asking = null));
    return abortable(this.#asking, signal);
  }
}

function abortable(promise, signal) {
  const { controller, unlink } = linked(signal);
  const aborted = new Promise((_, reject) => {
    controller.signal.addEventListener("abort", () => reject(controller.signal.reason));
    if (controller.signal.aborted) reject(controller.signal.reason);
  });
  return Promise.race([promise, aborted]).finally(unlink);
}

/** The claims of a token. They are not verified here: the service does that, and refuses what the token does not allow. */
export function claimsOf(token) {
  try {
    const payload = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(payload, (char) => char.charCodeAt(0)))) ?? {};
  } catch {
    return {};
  }
}

/** The actor of the token's `actors` claim, if that is one exact name. */
export function onlyActor(token) {
  const { actors } = claimsOf(token);
  const [actor] = Array.isArray(actors) && actors.length === 1 ? actors : [];
  return typeof actor === "string" && !actor.includes("*") ? actor : undefined;
}

/**
 * What a new id begins with: a beginning from the token's `ids` claim, else the event's actor, because a token with the
 * claim `actors` allows only such ids. (A token in a cookie has these claims too, but cannot be read here.)
 */
export function idPrefix(token, actor) {
  const { ids } = claimsOf(token);
  if (!Array.isArray(ids)) return actor ? `${actor}/` : "";
  return ids.find((id) => typeof id === "string" && id.endsWith("*"))?.slice(0, -1) ?? "";
}
