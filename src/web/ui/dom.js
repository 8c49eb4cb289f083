/** Helpers for elements. Content from outside is only ever inserted as text. */

const SVG = "http://www.w3.org/2000/svg";

/** The base path of the service, without a slash at the end. */
export const BASE = location.pathname.replace(/\/+$/, "");

export const $ = (id) => document.getElementById(id);

/** An element with attributes, listeners (`onclick`) and children. Strings become text. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** The mark of an entry that was edited, if it was; `when` says when. */
export const editedMark = (when) => (when === null ? null : h("span", { class: "edited", title: when }, "edited"));

export function avatar(name) {
  const initial = [...name][0]?.toUpperCase() ?? "?";
  const element = h("span", { class: "avatar", "aria-hidden": "true" }, initial);
  let hue = 0;
  for (const char of name) hue = (hue * 31 + char.codePointAt(0)) % 360;
  element.style.setProperty("--hue", hue);
  return element;
}

/** Announces `text` to screen readers. Announcements in quick succession are combined. */
const said = [];
export function announce(text) {
  if (said.push(text) > 1) return;
  setTimeout(() => {
    const texts = said.splice(0);
    $("announcements").textContent = texts.length > 3 ? `${texts.length} new entries` : texts.join(". ");
  }, 500);
}
