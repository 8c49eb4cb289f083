/** Editing and deleting one's own messages: the buttons of a bubble, the field in it, and the question before deleting. */

import { $, announce, h } from "./dom.js";
import { whyOf, wordsOf } from "./words.js";

/** As in the field for new messages. */
const TEXT_MAX = 2_000;

export class Own {
  #newsfeed;
  #patience;

  /** `newsfeed()` is the client; `patience` is how long an action is retried, in ms. */
  constructor({ newsfeed, patience }) {
    this.#newsfeed = newsfeed;
    this.#patience = patience;
  }

  /**
   * The buttons for a bubble with `entry`. `chat.current()` is the entry as it is now, `chat.bubble()` what shows it,
   * `chat.show()` shows it anew, and `chat.changed(type, entry)` takes what was done.
   */
  actions(entry, chat) {
    const about = wordsOf(entry).text ?? "";
    const isText = typeof entry.data?.text === "string";
    const act = (name, onclick) => h("button", { class: "link", "aria-label": `${name} message: ${about}`, onclick }, name);
    return h(
      "span",
      { class: "acts" },
      // What is not text, other programs have written.
      isText ? act("Edit", () => this.#edit(chat)) : null,
      act("Delete", () => this.#erase(chat)),
    );
  }

  isEditing(bubble) {
    return bubble.querySelector("form") !== null;
  }

  /** Removes a bubble that was deleted. What had the focus in it passes it on. */
  remove(bubble) {
    if (bubble.contains(document.activeElement)) $("text").focus();
    bubble.remove();
  }

  #edit(chat) {
    const before = chat.current();
    const input = h("input", { value: before.data.text, maxlength: TEXT_MAX, autocomplete: "off", required: true, "aria-label": "Edit message" });
    let saving = false;
    const submit = async (event) => {
      event.preventDefault();
      const text = input.value.trim();
      if (text === before.data.text) return chat.show();
      if (text === "" || saving) return;
      saving = true;
      await this.#save(form, before, text, chat);
      saving = false;
    };
    const keydown = (event) => {
      if (event.key !== "Escape") return;
      // Otherwise it would also close the chats.
      event.stopPropagation();
      chat.show();
    };
    const cancel = h("button", { type: "button", class: "link", onclick: chat.show }, "Cancel");
    const form = h("form", { class: "editor", onsubmit: submit, onkeydown: keydown }, input, h("button", { class: "link" }, "Save"), cancel);
    chat.bubble().replaceChildren(form);
    input.focus();
  }

  async #save(form, before, text, chat) {
    const data = { ...before.data, text, edited_at: new Date().toISOString() };
    // What somebody else has changed meanwhile is not overwritten unseen.
    const revision = before.edited ?? before.version;
    tell(form, "Saving …");
    try {
      const { edited } = await this.#newsfeed().edit(before.id, data, { revision, patience: this.#patience });
      chat.changed("edited", { ...before, data, edited });
      if (form.isConnected) chat.show();
    } catch (error) {
      const why = error.code === "revision_conflict" ? "it was edited elsewhere meanwhile" : whyOf(error);
      tell(form.isConnected ? form : chat.bubble(), `Not saved: ${why}.`);
    }
  }

  async #erase(chat) {
    const entry = chat.current();
    const { id, version } = entry;
    if (!(await confirmed(entry))) return;
    tell(chat.bubble(), "Deleting …");
    try {
      await this.#newsfeed().erase(id, { patience: this.#patience });
      chat.changed("erased", { id, version });
      announce("Message deleted");
    } catch (error) {
      tell(chat.bubble(), `Not deleted: ${whyOf(error)}.`);
    }
  }
}

/** Says in a bubble how an action goes. */
function tell(where, text) {
  where?.querySelector(".told")?.remove();
  where?.append(h("span", { class: "told", role: "alert" }, text));
}

function confirmed(entry) {
  const dialog = $("erase-dialog");
  $("erase-text").textContent = wordsOf(entry).text ?? "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onsubmit = ({ submitter }) => resolve(submitter.value === "erase");
    // The event of an earlier question may come when this one is open already.
    dialog.onclose = () => dialog.open || resolve(false);
  });
}
