/** Requests to the service: tokens, problems, back-off. No public part of the library. */

/** One try of a request that is no stream, in ms. */
const ANSWER_TIME_MAX = 30_000;
/** How long the ordinary calls try again, in ms. */
export const PATIENCE = 30_000;
/** Back-off, in ms: what it begins with unless the service says `retry:`, and the most. */
const BACKOFF_BASE = 1_000;
const BACKOFF_MAX = 30_000;

/** What every failure is thrown as. Decide on `code`; show `detail` to people. */
export class NewsfeedError extends Error {
  constructor({ status = 0, code, detail, retryAfter = 0, problem = null }, cause) {
    super(`${detail} (${code})`, { cause });
    this.name = "NewsfeedError";
    Object.assign(this, { status, code, detail, retryAfter, problem });
  }

  /** Whether the same request may well be answered later. */
  get temporary() {
    return this.status === 0 || this.status >= 500 || [408, 425, 429].includes(this.status);
  }

  /** `error` as it is, or as the cause of an answer that did not come or broke off. */
  static of(error) {
    if (error instanceof NewsfeedError) return error;
    return new NewsfeedError({ code: "network", detail: "the service cannot be reached" }, error);
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

/** In ms; the header has seconds or a date. */
function retryAfter(text) {
  if (!text) return 0;
  const seconds = Number(text);
  const ms = Number.isNaN(seconds) ? Date.parse(text) - Date.now() : seconds * 1000;
  return Math.max(0, ms || 0);
}

/** Full jitter: any time up to a bound that doubles. Never sooner than the service asked for. */
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

/** Waits; `signal` ends it with its reason. */
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

/** A controller that `signal` aborts as well; `unlink` it when it is no longer needed. */
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

  /** The JSON answer, asked for again for `patience` ms while the failure is a temporary one. */
  async json(path, { method = "GET", body, signal, patience = PATIENCE } = {}) {
    const init = { method, headers: { accept: "application/json" } };
    if (body !== undefined) {
      init.headers["content-type"] = "application/json";
      init.body = JSON.stringify(body);
    }
    const deadline = Date.now() + patience;
    const backoff = new Backoff(this.random);
    for (;;) {
      try {
        return await this.#answer(path, init, signal);
      } catch (error) {
        signal?.throwIfAborted();
        const delay = backoff.next(error);
        if (!error.temporary || Date.now() + delay >= deadline) throw error;
        await sleep(delay, signal);
      }
    }
  }

  #answer(path, init, signal) {
    return this.#authorized(signal, async (authorization) => {
      const { controller, unlink } = linked(signal);
      const timer = setTimeout(() => controller.abort(new Error("no answer in time")), ANSWER_TIME_MAX);
      try {
        const response = await this.#send(path, init, authorization, controller.signal);
        return await response.json();
      } catch (error) {
        throw NewsfeedError.of(error);
      } finally {
        clearTimeout(timer);
        unlink();
      }
    });
  }

  /** The body of a live stream. `waits` is told when the request is sent and when it is answered. */
  open(path, signal, waits) {
    const init = { headers: { accept: "text/event-stream" }, cache: "no-store" };
    return this.#authorized(signal, async (authorization) => {
      waits(true);
      const response = await this.#send(path, init, authorization, signal).finally(() => waits(false));
      if (!response.body || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
        throw NewsfeedError.of(new Error("the answer is not a stream of events"));
      }
      return response.body;
    });
  }

  async #send(path, init, authorization, signal) {
    const headers = { ...init.headers, ...authorization };
    const response = await this.fetch(this.url + path, { ...init, headers, signal });
    if (!response.ok) throw await NewsfeedError.from(response);
    return response;
  }

  /** A token that is refused is asked for anew, until the one given does, or no other is given. */
  async #authorized(signal, request) {
    let token = this.#token === undefined && this.#ask ? await this.#renew(undefined, null, signal) : this.#token;
    for (;;) {
      try {
        return await request(token ? { authorization: `Bearer ${token}` } : {});
      } catch (error) {
        if (error.status !== 401 || !this.#ask) throw error;
        const renewed = await this.#renew(token, error, signal);
        if (!renewed || renewed === token) throw error;
        token = renewed;
      }
    }
  }

  /** Asks once for all requests that wait for it. */
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
