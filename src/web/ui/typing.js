/** Who is typing, until a while after their last typing signal. */

/** In ms. Clients send typing signals more often than this. */
const FADES_AFTER = 5_000;

export class Typing {
  #timers = new Map();

  /** `changed(names)` shows it. */
  constructor(changed) {
    this.changed = changed;
  }

  started(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(name, setTimeout(() => this.stopped(name), FADES_AFTER));
    this.#tell();
  }

  stopped(name) {
    clearTimeout(this.#timers.get(name));
    if (this.#timers.delete(name)) this.#tell();
  }

  clear() {
    for (const name of [...this.#timers.keys()]) this.stopped(name);
  }

  #tell() {
    this.changed([...this.#timers.keys()]);
  }
}
