// The keyboard; see the help of the page.

const LAYOUTS = { a: "axial", c: "coronal", s: "sagittal", d: "3d", m: "all" };

export function listenToKeys(viewer) {
  const { scene, state, table } = viewer;
  let mouse = null;
  scene.canvas.addEventListener("pointermove", (event) => (mouse = [event.offsetX, event.offsetY]));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.matches("input[type=text], input[type=search], input[type=number], select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (act(event.key)) {
      event.preventDefault();
      event.stopPropagation();
    }
  }, true);

  function act(key) {
    if (key === "ArrowDown" || key === "ArrowUp") return table.step(key === "ArrowDown" ? 1 : -1) ?? true;
    if (key === "PageUp" || key === "PageDown") return slice(key === "PageUp" ? 1 : -1);
    if (key === "/") return document.getElementById("filter").focus() ?? true;
    if (key === "?") return document.getElementById("help").showModal() ?? true;
    const letter = key.toLowerCase();
    if (/^[1-9]$/.test(key)) return viewer.choose(Number(key) - 1) && true;
    if (LAYOUTS[letter]) return scene.layout(LAYOUTS[letter]) ?? true;
    if (letter === "f") return fill();
    if (letter === "o") {
      state.layers.outlines = !state.layers.outlines;
      return viewer.lines.draw() ?? true;
    }
    if (letter === "r") return scene.reset() ?? true;
    if ((letter === "n" || letter === "p") && state.points.length) {
      const count = state.points.length;
      return viewer.goPoint((Math.max(state.chosen, letter === "n" ? -1 : 0) + (letter === "n" ? 1 : count - 1)) % count) ?? true;
    }
    return false;
  }

  function fill() {
    const { choices } = state.layers;
    if (!choices.length) return false;
    state.layers.choose(choices[(choices.indexOf(state.layers.fill) + 1) % choices.length]);
    viewer.refill();
    return true;
  }

  // Another slice of the plane under the mouse; of the axial one if it is elsewhere.
  function slice(by) {
    if (!scene.volume) return false;
    const ratio = scene.canvas.width / scene.canvas.clientWidth;
    const inside = ({ box: [left, top, width, height] }) => mouse && mouse[0] * ratio >= left && mouse[0] * ratio < left + width &&
      mouse[1] * ratio >= top && mouse[1] * ratio < top + height;
    const plane = scene.planes().find(inside);
    scene.step(plane?.axis ?? 2, by);
    return true;
  }
}
