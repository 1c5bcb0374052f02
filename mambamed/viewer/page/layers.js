// The masks of a case: which is filled, which are outlined, which labels are on; and where two differ.

export const DIFFERENCES = [
  { value: 1, name: "missed", color: "#ff4d6d" },
  { value: 2, name: "invented", color: "#ffd23f" },
  { value: 3, name: "other label", color: "#b388ff" },
];
const MOST = 255; // colors of a filled layer

export class Layers {
  constructor(labels) {
    this.named = new Map(labels.map((label) => [label.value, label]));
    this.hidden = new Set();
    this.opacity = 0.45;
    this.outlines = true;
    this.masks = [];
    this.labels = [];
    this.fill = null; // "differences", or the key of a mask
    this.wanted = "prediction"; // kept from case to case
    this.outlined = new Set(["reference"]);
  }

  // masks: [{key, name, role, volume}]
  show(masks) {
    this.masks = masks;
    const seen = new Map();
    for (const mask of masks) {
      mask.counts = mask.volume.labels();
      for (const [value, entry] of mask.counts) if (!seen.has(value)) seen.set(value, { mask, entry });
    }
    this.labels = [...seen.keys()].sort((a, b) => a - b).map((value) => this.label(value));
    const fits = (key) => key === "none" || (key === "differences" ? this.pair : masks.some((mask) => mask.key === key));
    this.fill = [this.wanted, "prediction", "reference"].find(fits) ?? masks[0]?.key ?? "none";
  }

  label(value) {
    return this.named.get(value) ?? { value, name: `label ${value}`, color: colorOf(value - 1) };
  }

  // Reference and prediction, if there are both.
  get pair() {
    const reference = this.masks.find((mask) => mask.role === "reference");
    const prediction = this.masks.find((mask) => mask.key === (this.compared ?? "prediction")) ?? this.masks.find((mask) => mask.role === "prediction");
    return reference && prediction ? { reference, prediction } : null;
  }

  get choices() {
    return [...this.masks.map((mask) => mask.key), ...(this.pair ? ["differences"] : []), "none"];
  }

  choose(key) {
    this.fill = this.wanted = key;
    if (this.masks.some((mask) => mask.key === key && mask.role === "prediction")) this.compared = key;
  }

  // What NiiVue fills: indices on the grid of a mask, and the color of each index.
  filled() {
    if (this.fill === "none" || !this.masks.length) return null;
    if (this.fill === "differences") {
      const { volume, indices } = this.differences();
      return { volume, indices, colors: DIFFERENCES.map((entry) => entry.color) };
    }
    const mask = this.masks.find((each) => each.key === this.fill);
    const shown = this.labels.filter((label) => !this.hidden.has(label.value)).slice(0, MOST);
    const size = this.labels.length ? this.labels[this.labels.length - 1].value + 1 : 1;
    const table = new Uint8Array(size);
    shown.forEach((label, k) => (table[label.value] = k + 1));
    const { data } = mask.volume;
    const indices = new Uint8Array(data.length);
    for (let index = 0; index < data.length; index++) if (data[index]) indices[index] = table[data[index]];
    return { volume: mask.volume, indices, colors: shown.map((label) => label.color) };
  }

  differences() {
    const { reference, prediction } = this.pair;
    const { volume } = reference;
    const truth = volume.data;
    const answer = volume.resampled(prediction.volume);
    const indices = new Uint8Array(truth.length);
    const counts = [0, 0, 0];
    const size = this.labels.length ? this.labels[this.labels.length - 1].value + 1 : 1;
    const off = new Uint8Array(size);
    for (const value of this.hidden) if (value < size) off[value] = 1;
    for (let index = 0; index < truth.length; index++) {
      let a = truth[index];
      let b = answer[index];
      if (a === b) continue;
      if (off[a]) a = 0;
      if (off[b]) b = 0;
      if (a === b) continue;
      const kind = !b ? 1 : !a ? 2 : 3;
      indices[index] = kind;
      counts[kind - 1]++;
    }
    return { volume, indices, counts };
  }
}

const FIRST = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"];

// The color of a label without a name; as in mambamed's pictures.
export function colorOf(number) {
  if (number < FIRST.length) return FIRST[number];
  const hue = (number * 0.6180339887) % 1;
  const channel = (n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * 0.95 * (1 - 0.63 * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return `#${[5, 3, 1].map((n) => channel(n).toString(16).padStart(2, "0")).join("")}`;
}
