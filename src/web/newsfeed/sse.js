/** Server-sent events from a stream of bytes. No public part of the library. */

/** An event of the service is far smaller; more than this is not one. In UTF-16 code units. */
const PENDING_MAX = 4 * 1024 * 1024;

/**
 * The events of `body`, as `{ event, data, retry }`. What the end of the stream leaves incomplete is none.
 * `read` is called around each wait, with true before it and false after.
 */
export async function* events(body, read = () => {}) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let event = fresh();
  try {
    for (;;) {
      read(true);
      const { done, value } = await reader.read().finally(() => read(false));
      if (done) return;
      text += decoder.decode(value, { stream: true });
      // A CR at the very end may be half of a CRLF: it waits for what comes.
      const lines = text.split(/\r\n|\n|\r(?=[^\n])/);
      text = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (event.data.length > 0 || event.retry !== null) yield { ...event, data: event.data.join("\n") };
          event = fresh();
        } else {
          field(event, line);
        }
      }
      if (text.length > PENDING_MAX) throw new Error("an event without end");
    }
  } finally {
    // Closes the connection if it is still open.
    reader.cancel().catch(() => {});
  }
}

const fresh = () => ({ event: "message", data: [], retry: null });

function field(event, line) {
  const colon = line.indexOf(":");
  if (colon === 0) return;
  const name = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (name === "event") event.event = value || "message";
  else if (name === "data") event.data.push(value);
  else if (name === "retry" && /^\d+$/.test(value)) event.retry = Number(value);
}
