/**
 * What a page does: the version now, the history up to it, then live from it. Runs in a browser's page as well, so it
 * uses nothing of this module. `tell` gets what the test is told, one value after the other.
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
  // An event with a name reaches only those who listen for that name.
  for (const name of ["entry", "notify", "transient", "marker", "version", "reset", "bye"]) {
    source.addEventListener(name, ({ lastEventId, data }) => tell({ event: { name, id: lastEventId, data } }));
  }
  source.addEventListener("error", () => {
    // It comes back by itself, unless it takes the answer for one that will never change.
    if (source.readyState === EventSource.CLOSED) tell("gave_up");
  });
}
