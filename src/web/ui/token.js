/** The access token: kept for this window, and asked for when the service refuses the current one. */

import { $, BASE } from "./dom.js";

/** Services of one origin under different base paths have different tokens. */
const KEY = `newsfeed.token${BASE}`;

const WHY = {
  credentials_missing: "This service requires a token.",
  token_expired: "Your token has expired. Enter a new one, and the page continues where it was.",
};

export const kept = () => sessionStorage.getItem(KEY);

/** Shows the dialog. Returns the new token, or null if it was cancelled. `error` is the reason, or null if the user asked. */
export function askToken(error) {
  const dialog = $("token-dialog");
  const input = $("token-input");
  $("token-why").textContent = error
    ? (WHY[error.code] ?? `The service refused this token: ${error.detail}.`)
    : "It is sent with every request. Leave the field empty for no token.";
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
