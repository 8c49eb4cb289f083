/** Parses server-sent events. Not part of the library's public interface. */

/** Limit for the length of an event, in UTF-16 code units. Events of the service are far smaller. */
const PENDING_MAX = 4 * 1024 * 1024;

/**
 * The events of `body`, as `{ event, data, retry }`. An incomplete event at the end of the stream is dropped.
 * `read` is called with true before each wait and with false after it.
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
      // A CR at the very end may be half of a CRLF, so it is kept until more arrives.
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
      if (text.length > PENDING_MAX) throw new Error("an event is too long");
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
