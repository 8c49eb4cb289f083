/** Who is typing, until a while after their last typing signal. */

import { shown } from "./words.js";

/** Maximum number of people named as typing. */
const NAMED_MAX = 2;
/** In ms. Clients send typing signals more often than this. */
const FADES_AFTER = 5_000;

export class Typing {
  #timers = new Map();

  /** `changed(words)` shows it. */
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
    const names = [...this.#timers.keys()];
    const more = names.length - NAMED_MAX;
    const words = names.slice(0, NAMED_MAX).map(shown).join(", ") + (more > 0 ? ` and ${more} more` : "");
    this.changed(names.length ? `${words} ${names.length > 1 ? "are" : "is"} typing …` : "");
  }
}
