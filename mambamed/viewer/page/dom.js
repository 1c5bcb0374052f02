// Elements of the page; text is always set as text, never as HTML.

export function element(name, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const made = Object.assign(document.createElement(name), rest);
  Object.assign(made.dataset, dataset ?? {});
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function swatch(color) {
  const made = element("span", { className: "swatch" });
  made.style.background = color;
  return made;
}

export function section(title, ...children) {
  return element("section", {}, element("h2", { textContent: title }), ...children);
}

// Redrawing what was pressed, before it is released, would take its click: it is redrawn after that.
const later = new Map(); // what is redrawn -> how
let isPressed = false;
addEventListener("pointerdown", () => (isPressed = true), true);
for (const name of ["pointerup", "pointermove", "pointercancel"]) {
  addEventListener(name, (event) => { if (isPressed && !event.buttons) setTimeout(release); }, true);
}

function release() {
  isPressed = false;
  const actions = [...later.values()];
  later.clear();
  for (const action of actions) action();
}

export function whenReleased(what, action) {
  if (isPressed) later.set(what, action);
  else action();
}

export async function loadJson(address, options) {
  const reply = await fetch(address, options);
  const content = await reply.json().catch(() => null);
  if (!reply.ok) throw new Error(content?.fault ?? `the server answered ${reply.status}`);
  return content;
}

export async function loadBuffer(address, options) {
  const reply = await fetch(address, options);
  if (!reply.ok) throw new Error((await reply.json().catch(() => null))?.fault ?? `the server answered ${reply.status}`);
  return reply.arrayBuffer();
}
