// Elements and icons without templates: nothing here parses HTML, so no text can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** Create an element. `attributes`: properties by name; on* are listeners; null leaves one out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Replace what an element contains; the control of the same name keeps the focus. */
export function fill(element, ...children) {
  const focused = document.activeElement;
  const within = focused !== element && element.contains(focused);
  const name = within ? nameOf(focused) : null;
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  if (within && !element.contains(focused)) {
    [...element.querySelectorAll(focused.tagName)].find((one) => nameOf(one) === name)?.focus({ preventScroll: true });
  }
  return element;
}

const nameOf = (control) => control.getAttribute("aria-label") ?? control.labels?.[0]?.textContent ?? control.textContent;

export const find = (selector) => document.querySelector(selector);

const PATHS = {
  dice: "M5 4h14a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1zM8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  unlock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 6.7-1.4",
  undo: "M9 6 4 11l5 5M4 11h10a5 5 0 0 1 0 10h-3",
  redo: "M15 6l5 5-5 5M20 11H10a5 5 0 0 0 0 10h3",
  download: "M12 4v11M7.5 11 12 15.5 16.5 11M5 20h14",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  close: "M6 6l12 12M18 6 6 18",
  play: "M8 5l11 7-11 7z",
  pause: "M8 5v14M16 5v14",
  photo: "M4 6h16v13H4zM4 16l5-5 4 4 2.5-2.5L20 17M15.5 9.5h.01",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  reset: "M5 12a7 7 0 1 0 2.2-5.1M5 4v4h4",
};

/** Return an icon, hidden from screen readers: the button around it carries the label. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** Create an SVG element. */
export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Run `action` once calls have ceased for `milliseconds`. */
export function debounce(action, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}

let named = 0;

/** Return an id that no other element has, for a label and its field. */
export const freshId = (name) => `${name}-${(named += 1)}`;
