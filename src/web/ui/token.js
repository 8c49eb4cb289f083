/** The access token: kept for this window, and asked for when the service refuses the current one. */

import { claimsOf } from "../newsfeed/http.js";
import { $, BASE } from "./dom.js";

/** Services of one origin under different base paths have different tokens. */
const KEY = `newsfeed.token${BASE}`;

const WHY = {
  credentials_missing: "This service requires a token.",
  token_expired: "Your token has expired. Enter a new one, and the page continues where it was.",
};

export const kept = () => sessionStorage.getItem(KEY);

/** Hides what the token does not allow. What a cookie allows is unknown here, and a service without tokens allows everything. */
function showRights() {
  const token = kept();
  const scopes = String(claimsOf(token ?? "").scope).split(" ");
  for (const scope of ["change", "mark"]) document.body.classList.toggle(`may-not-${scope}`, Boolean(token) && !scopes.includes(scope));
}
showRights();

/** Whether the token allows acting as this reader. */
export function mayRead(reader) {
  const token = kept();
  if (!token) return true;
  const { readers, actors, sub } = claimsOf(token);
  const allowed = [readers ?? actors ?? sub ?? []].flat().map(String);
  const isPrefix = Array.isArray(readers ?? actors);
  return allowed.some((name) => (isPrefix && name.endsWith("*") ? reader.startsWith(name.slice(0, -1)) : reader === name));
}

/** Time for the service to log the browser out, in ms. Browsers wait with the answer until their cache is empty. */
const LOG_OUT_TIME_MAX = 20_000;

/** Removes what the browser has for whoever used it: a cookie with a token, and what its cache has kept of this origin. */
export async function logOut() {
  const signal = AbortSignal.timeout(LOG_OUT_TIME_MAX);
  const response = await fetch(`${BASE}/v1/session`, { method: "DELETE", signal });
  if (!response.ok) throw new Error(`the service answered ${response.status}`);
}

/** Shows the dialog. Returns the new token, "" for none, or null if it was cancelled. `error` is the reason, or null if the user asked. */
export function askToken(error) {
  const dialog = $("token-dialog");
  const input = $("token-input");
  $("token-why").textContent = error
    ? (WHY[error.code] ?? `The service refused this token: ${error.detail}.`)
    : "It is sent with every request. Leave the field empty to log out of this browser.";
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
      showRights();
      resolve(token);
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}
