// Building the page. Text goes in as text nodes only: nothing here reads markup.

/**
 * An element with properties and children.
 * @param {string} tag
 * @param {Object} properties set on the element, such as className, textContent, ariaLabel or onclick
 * @param {...(Node|string)} children
 */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A button that never submits a form. */
export function button(label, onclick, properties = {}) {
  return element("button", { type: "button", textContent: label, onclick, ...properties });
}

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Puts text on the clipboard and says so on the button for a moment. */
export async function copyFrom(source, pressed) {
  const label = pressed.textContent;
  try {
    await navigator.clipboard.writeText(source());
    pressed.textContent = "Copied";
  } catch {
    pressed.textContent = "Not allowed";
  }
  setTimeout(() => (pressed.textContent = label), 1500);
}

/** 12345.6 as "12,346". */
export function grouped(number) {
  return Math.round(number).toLocaleString("en");
}
