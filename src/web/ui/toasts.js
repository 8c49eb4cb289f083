/** Notifications that pop up, in the bar at the top or at the bottom of the screen, and disappear. The last one is shown. */

import { $, avatar, h, icon } from "./dom.js";
import { nameOf, shown, wordsOf } from "./words.js";

/** Notifications kept: those behind one that is hovered or has the focus. */
const KEPT_MAX = 3;
/** In ms. A notification stays while it is hovered or has the focus. */
const SHOWN_TIME = 7_000;

export class Toasts {
  #list = $("toasts");

  /** `open(entry)` opens the chat of an entry. */
  constructor(open) {
    this.open = open;
  }

  notify(entry) {
    const name = nameOf(entry);
    const { verb, text } = wordsOf(entry);
    const open = () => {
      toast.remove();
      this.open(entry);
    };
    const words = h("span", { class: "line" }, h("strong", {}, shown(name)), " ", h("span", { class: "preview" }, text ?? verb));
    const content = entry.actor?.startsWith("user:")
      ? h("button", { class: "open", onclick: open }, avatar(name), words, h("span", { class: "hidden" }, " Open the chat"))
      : h("div", { class: "open" }, avatar(name), words);
    const toast = this.#show(content);
    toast.dataset.id = entry.id;
  }

  /** Shows an entry as it is after an edit, or not at all after an erasure. */
  changed({ type, entry }) {
    for (const toast of [...this.#list.children]) {
      if (toast.dataset.id !== entry.id) continue;
      if (type === "erased") toast.remove();
      else toast.querySelector(".preview").textContent = wordsOf(entry).text ?? wordsOf(entry).verb;
    }
  }

  tell(text) {
    this.#show(h("p", { class: "open" }, text));
  }

  clear() {
    this.#list.replaceChildren();
  }

  #show(content) {
    const close = h("button", { class: "quiet", "aria-label": "Dismiss", onclick: () => toast.remove() }, icon("close"));
    const toast = h("div", { class: "toast" }, content, close);
    // What somebody is about to click does not change.
    const busy = this.#list.lastElementChild?.matches(":hover, :focus-within");
    if (busy) this.#list.prepend(toast);
    else this.#list.append(toast);
    while (this.#list.children.length > KEPT_MAX) this.#list.firstElementChild.remove();
    const leave = () => (toast.matches(":hover, :focus-within") ? setTimeout(leave, 1_000) : toast.remove());
    setTimeout(leave, SHOWN_TIME);
    return toast;
  }
}
