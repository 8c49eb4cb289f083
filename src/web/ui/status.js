/** The status line: connection, version, reconnects, entries caught up. */

import { $ } from "./dom.js";
import { count, shortVersion } from "./words.js";

/** "Connecting …" is shown after this time, in ms. */
const SLOW = 400;

export class Status {
  #reconnects = 0;
  #retryAt = 0;
  #version = null;
  #slow;

  constructor(retry) {
    $("retry").addEventListener("click", retry);
    $("version").addEventListener("click", async () => {
      const copied = await navigator.clipboard?.writeText(this.#version).then(() => true, () => false);
      $("version").textContent = copied ? "copied" : this.#version;
      setTimeout(() => this.version(this.#version), 1_500);
    });
    addEventListener("offline", () => this.#say("waiting", "Offline"));
    setInterval(() => $("status").dataset.state === "waiting" && this.#countDown(), 500);
  }

  clear() {
    this.#reconnects = 0;
    this.#version = null;
    $("version").textContent = "";
    $("caught-up").textContent = "";
    this.#tellReconnects();
  }

  version(version) {
    this.#version = version;
    const button = $("version");
    button.textContent = shortVersion(version);
    button.title = `Version ${version}: everything up to it has arrived. Click to copy it.`;
    button.dataset.version = version;
  }

  /** Shows a status update of the library. */
  show(update) {
    clearTimeout(this.#slow);
    $("retry").hidden = update.state !== "waiting";
    if (update.state === "waiting") {
      this.#reconnects += 1;
      this.#tellReconnects();
      this.#retryAt = Date.now() + update.delay;
      this.#countDown();
    } else if (update.state === "live") {
      this.#say("live", "Live");
      if (update.reconnects > 0) $("caught-up").textContent = `caught up ${count(update.caughtUp, "entry", "entries")}`;
    } else {
      // Usually it has connected before anybody could read this.
      this.#slow = setTimeout(() => this.#say("connecting", "Connecting …"), SLOW);
    }
  }

  failed(error) {
    clearTimeout(this.#slow);
    $("retry").hidden = true;
    this.#say("failed", error.status === 401 || error.status === 403 ? "No access" : "Stopped");
  }

  #countDown() {
    const seconds = Math.ceil((this.#retryAt - Date.now()) / 1000);
    this.#say("waiting", navigator.onLine ? (seconds > 0 ? `Reconnecting in ${seconds} s` : "Reconnecting …") : "Offline");
  }

  #tellReconnects() {
    $("reconnects").textContent = count(this.#reconnects, "reconnect");
    $("reconnects").dataset.count = this.#reconnects;
  }

  #say(state, text) {
    $("status").dataset.state = state;
    if ($("state").textContent !== text) $("state").textContent = text;
  }
}
