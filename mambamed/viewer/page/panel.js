// The right side: layers, labels, landmarks, notes and facts of a case.

import { element, section, swatch, whenReleased } from "./dom.js";
import { DIFFERENCES } from "./layers.js";
import { shown } from "./table.js";

export class Panel {
  constructor(place, actions) {
    this.above = element("div");
    this.note = element("div"); // stays where it is when the rest is drawn again
    this.below = element("div");
    place.replaceChildren(this.above, this.note, this.below);
    this.actions = actions; // fill, outline, opacity, labels, goLabel, goPoint, saliency, names
  }

  draw(state, notes) {
    this.state = state;
    whenReleased(this, () => {
      const note = notes?.section(state.id);
      if (note && note !== this.note.firstChild) this.note.replaceChildren(note);
      this.above.replaceChildren(...[this.remarks()].filter(Boolean));
      this.below.replaceChildren(...[this.layers(), this.labels(), this.saliency(), this.points(), this.facts()].filter(Boolean));
    });
  }

  remarks() {
    const { remarks } = this.state;
    return remarks.length ? element("section", { className: "remarks" }, ...remarks.map((text) => element("p", { textContent: text }))) : null;
  }

  layers() {
    const { layers } = this.state;
    if (!layers.masks.length) return null;
    const rows = layers.masks.map((mask) => {
      const fill = element("input", { type: "radio", name: "fill", checked: layers.fill === mask.key, title: "filled" });
      fill.addEventListener("change", () => this.actions.fill(mask.key));
      const outline = element("input", { type: "checkbox", checked: layers.outlined.has(mask.key), title: "outlined" });
      outline.addEventListener("change", () => this.actions.outline(mask.key, outline.checked));
      return element("tr", {}, element("td", { textContent: mask.name, title: mask.source }), element("td", {}, fill), element("td", {}, outline));
    });
    for (const [key, name] of [["differences", "differences"], ["none", "none"]]) {
      if (!layers.choices.includes(key)) continue;
      const fill = element("input", { type: "radio", name: "fill", checked: layers.fill === key });
      fill.addEventListener("change", () => this.actions.fill(key));
      rows.push(element("tr", {}, element("td", { textContent: name }), element("td", {}, fill), element("td")));
    }
    const head = element("tr", {}, element("th"), element("th", { textContent: "fill" }), element("th", { textContent: "outline" }));
    const opacity = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: layers.opacity, title: "opacity of the filled layer" });
    opacity.addEventListener("input", () => this.actions.opacity(Number(opacity.value)));
    const made = section("Layers", element("table", { className: "layers" }, element("tbody", {}, head, ...rows)), opacity);
    if (layers.fill === "differences") {
      const { counts } = layers.differences();
      const ml = volumeMl(layers.pair.reference.volume);
      made.append(element("ul", { className: "legend" }, ...DIFFERENCES.map((entry, k) =>
        element("li", {}, swatch(entry.color), element("span", { textContent: entry.name }), element("i", { textContent: `${shown(counts[k] * ml)} ml` })))));
    }
    return made;
  }

  labels() {
    const { layers } = this.state;
    if (!layers.labels.length) return null;
    const heads = layers.masks.slice(0, 2);
    const rows = layers.labels.map((label) => {
      const box = element("input", { type: "checkbox", checked: !layers.hidden.has(label.value) });
      box.addEventListener("change", () => this.actions.labels([label.value], box.checked));
      const name = element("button", { textContent: label.name, title: `${label.name} (${label.value}): go to its middle` });
      name.addEventListener("click", () => this.actions.goLabel(label.value));
      const volumes = heads.map((mask) => element("td", { className: "number", textContent: mask.counts.has(label.value)
        ? (mask.counts.get(label.value).count * volumeMl(mask.volume)).toFixed(1) : "–" }));
      return element("tr", {}, element("td", {}, element("label", {}, box, swatch(label.color))), element("td", { className: "name" }, name), ...volumes);
    });
    const head = element("tr", {}, element("th"), element("th"), ...heads.map((mask) => element("th", { textContent: `${mask.short} ml`, title: mask.name })));
    const all = element("button", { textContent: layers.hidden.size ? "all on" : "all off" });
    all.addEventListener("click", () => this.actions.labels(layers.labels.map((label) => label.value), layers.hidden.size > 0));
    const made = section("Labels", element("div", { className: "tall" }, element("table", { className: "labels" }, element("tbody", {}, head, ...rows))));
    made.querySelector("h2").append(all);
    return made;
  }

  saliency() {
    const { maps, map } = this.state;
    if (!maps.length) return null;
    const choice = element("select", {}, ...maps.map((each, k) => element("option", { value: k, textContent: each.name, selected: k === map })), element("option", { value: -1, textContent: "off", selected: map < 0 }));
    choice.addEventListener("change", () => this.actions.saliency(Number(choice.value)));
    return section("Maps", choice, element("div", { className: "hot" }), element("p", { className: "quiet", textContent: "20 % to 100 % of the maximum; clear below" }));
  }

  points() {
    const { points, chosen, names } = this.state;
    if (!points.length) return null;
    const both = points.some((point) => point.reference) && points.some((point) => point.prediction);
    const rows = points.map((point, number) => {
      const what = point.error_mm !== null ? point.error_mm.toFixed(2)
        : point.reference && !point.prediction ? (both ? "missed" : "") : !point.reference && point.prediction ? (both ? "spurious" : "") : "absent";
      const row = element("tr", { dataset: { number } }, element("td", {}, swatch(point.color)), element("td", { textContent: point.name }), element("td", { className: "number", textContent: what }));
      row.classList.toggle("chosen", number === chosen);
      row.addEventListener("click", () => this.actions.goPoint(number));
      return row;
    });
    const box = element("input", { type: "checkbox", checked: names });
    box.addEventListener("change", () => this.actions.names(box.checked));
    const legend = both ? "○ reference  + prediction  — error, mm" : points.some((point) => point.prediction) ? "+ prediction" : "○ reference";
    const made = section("Landmarks", element("p", { className: "quiet" }, legend, element("label", {}, " ", box, " names")),
      element("div", { className: "tall" }, element("table", { className: "points" }, element("tbody", {}, ...rows))));
    setTimeout(() => made.querySelector(".chosen")?.scrollIntoView({ block: "nearest" }));
    return made;
  }

  facts() {
    const { facts } = this.state;
    const entries = Object.entries(facts);
    if (!entries.length) return null;
    return section("Scores and facts", element("div", { className: "tall" }, element("dl", {}, ...entries.flatMap(([name, value]) => [
      element("dt", { textContent: name }), element("dd", { textContent: shown(value === "Infinity" ? Infinity : value) })]))));
  }
}

export function volumeMl(volume) {
  const [a, b, c] = volume.affine;
  const det = a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0]);
  return Math.abs(det) / 1000;
}
