/** The access token: kept for this window, asked for when the service refuses the one there is. */

import { $ } from "./dom.js";

const KEY = "newsfeed.token";

const WHY = {
  credentials_missing: "This service asks for a token.",
  token_expired: "Your token has expired. Give a new one, and the page goes on where it is.",
};

export const kept = () => sessionStorage.getItem(KEY);

/** Shows the dialog. A new token, or null if there is none. `error` is why, or null if somebody just wants to. */
export function askToken(error) {
  const dialog = $("token-dialog");
  const input = $("token-input");
  $("token-why").textContent = error
    ? (WHY[error.code] ?? `The service does not take this token: ${error.detail}.`)
    : "Sent with every request, if there is one. Leave it empty for none.";
  input.value = "";
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  $("token-cancel").onclick = () => dialog.close("");
  return new Promise((resolve) => {
    const closed = () => {
      if (dialog.returnValue !== "use") return resolve(null);
      const token = input.value.trim();
      input.value = "";
      if (token) sessionStorage.setItem(KEY, token);
      else sessionStorage.removeItem(KEY);
      resolve(token);
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}
