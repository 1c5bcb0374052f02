// The progress of a run: curves of every fold, drawn as SVG, and the time that is left.

import { element, loadJson, section } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [560, 190, 58, 22, 10];
const COLORS = ["#4fc3f7", "#ffb74d", "#81c784", "#ba68c8", "#e57373", "#4db6ac", "#f06292", "#aed581"];
const EVERY = 5000; // ms

export class Training {
  // onValidated: called with the names of folds that were validated since the page was opened.
  constructor(dialog, onValidated) {
    this.dialog = dialog;
    this.onValidated = onValidated;
    this.validated = null;
    this.place = dialog.querySelector("#curves");
    this.pictures = new Map(); // fold and epoch -> element, so that a picture is read once
  }

  async open() {
    this.dialog.showModal();
    await this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    try {
      const { folds } = await loadJson("training.json");
      const validated = folds.filter((fold) => fold.validated).map((fold) => fold.name);
      this.validated ??= validated;
      const added = validated.filter((name) => !this.validated.includes(name));
      if (added.length) this.onValidated(added);
      if (this.dialog.open) this.draw(folds);
    } catch (error) {
      this.place.replaceChildren(element("p", { className: "remarks", textContent: error.message }));
    }
    this.timer = setTimeout(() => this.refresh(), EVERY);
  }

  draw(folds) {
    const parts = folds.map((fold, number) => {
      const left = fold.seconds_left === null ? "" : `, about ${duration(fold.seconds_left)} left`;
      const state = `${fold.state}: epoch ${fold.epoch} of ${fold.epochs}${left}`;
      const { curves, score } = fold;
      const scores = Object.keys(curves).filter((name) => name === score || name.startsWith(`${score}_`));
      const made = section(fold.name.replace("_", " "), element("p", { textContent: state }));
      if (fold.fault) made.append(element("p", { className: "remarks", textContent: fold.fault }));
      if (curves.epoch?.length) {
        const latest = scores.map((name) => `${name} ${format(last(curves[name]))}`).join(", ");
        made.append(
          chart("loss", curves.epoch, { loss: curves.loss, "validation loss": curves.validation_loss }),
          chart(`validation patches: ${score}`, curves.epoch, Object.fromEntries(scores.map((name) => [name, curves[name]]))),
          chart("learning rate", curves.epoch, { "learning rate": curves.learning_rate }),
          chart("seconds per epoch", curves.epoch, { seconds: curves.seconds }),
          element("p", { className: "quiet", textContent: `last validation: ${latest}` }),
        );
      }
      if (fold.patches) made.append(this.patches(number, fold.epoch));
      if (fold.lines.length) made.append(element("pre", { textContent: fold.lines.join("\n") }));
      return made;
    });
    this.place.replaceChildren(...(parts.length ? parts : [element("p", { textContent: "no fold has begun" })]));
  }

  patches(number, epoch) {
    const known = this.pictures.get(number);
    if (known?.epoch === epoch) return known.made;
    const picture = element("img", { src: `patches/${number}/${epoch}.png`, alt: "validation patches: reference and prediction" });
    const made = element("figure", {}, element("figcaption", {}, element("b", { textContent: "validation patches of the last epoch" })), picture);
    this.pictures.set(number, { epoch, made });
    return made;
  }
}

function chart(title, across, series) {
  const known = Object.entries(series).filter(([, values]) => values?.some((value) => typeof value === "number"));
  if (!known.length) return "";
  const all = known.flatMap(([, values]) => values.filter((value) => typeof value === "number"));
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (low === high) [low, high] = [low - Math.abs(low) * 0.1 - 1e-9, high + Math.abs(high) * 0.1 + 1e-9];
  const [first, end] = [across[0], Math.max(last(across), across[0] + 1)];
  const x = (value) => LEFT + ((value - first) / (end - first)) * (WIDTH - LEFT - 12);
  const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  for (const value of [low, (low + high) / 2, high]) {
    svg.append(node("line", { x1: LEFT, x2: WIDTH - 12, y1: y(value), y2: y(value), class: "grid" }),
      node("text", { x: LEFT - 6, y: y(value) + 4, class: "end" }, format(value)));
  }
  for (const value of [first, last(across)]) svg.append(node("text", { x: x(value), y: HEIGHT - 5, class: "middle" }, String(value)));
  known.forEach(([, values], k) => {
    const points = values.flatMap((value, n) => (typeof value === "number" ? [`${x(across[n])},${y(value)}`] : []));
    svg.append(points.length > 1 ? node("polyline", { points: points.join(" "), stroke: COLORS[k % COLORS.length] })
      : node("circle", { cx: points[0].split(",")[0], cy: points[0].split(",")[1], r: 3, fill: COLORS[k % COLORS.length] }));
  });
  const legend = element("figcaption", {}, element("b", { textContent: title }));
  if (known.length > 1) known.forEach(([name], k) => {
    const mark = element("span", { textContent: ` ${name}` });
    mark.style.color = COLORS[k % COLORS.length];
    legend.append(mark);
  });
  return element("figure", {}, legend, svg);
}

function node(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function last(values) {
  return values[values.length - 1];
}

function format(value) {
  if (typeof value !== "number") return "–";
  return value === 0 || (Math.abs(value) >= 0.01 && Math.abs(value) < 1e4) ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}
