/**
 * What a page does: it reads vN, the history up to vN, then live from vN. It also runs in a browser's page, so it uses
 * nothing else of this module. `tell` reports to the test.
 */
export async function flow({ base, feed, fetch, EventSource, tell }) {
  const get = async (path) => {
    const response = await fetch(`${base}/v1/feeds/${feed}${path}`);
    if (response.status !== 200) throw new Error(`${path}: ${response.status}`);
    return response.json();
  };
  const { version } = await get("");
  const entries = [];
  for (let next = "", page; next !== null; next = page.next) {
    page = await get(`/entries?until=${version}&limit=7${next && `&before=${next}`}`);
    entries.push(...page.entries);
  }
  tell({ history: { version, entries } });

  const source = new EventSource(`${base}/v1/feeds/${feed}/live?after=${version}`);
  source.addEventListener("open", () => tell("opened"));
  // A named event reaches only listeners for that name.
  for (const name of ["entry", "notify", "transient", "marker", "version", "reset", "bye"]) {
    source.addEventListener(name, ({ lastEventId, data }) => tell({ event: { name, id: lastEventId, data } }));
  }
  source.addEventListener("error", () => {
    // It reconnects by itself, unless it considers the answer a permanent failure.
    if (source.readyState === EventSource.CLOSED) tell("gave_up");
  });
}
