// The page: opens a case when it is chosen, and connects table, pictures and panel.

import { CaseTable } from "./table.js";
import { Training } from "./curves.js";
import { element, loadBuffer, loadJson } from "./dom.js";
import { Layers } from "./layers.js";
import { Lines } from "./lines.js";
import { Volume } from "./nifti.js";
import { Notes } from "./notes.js";
import { Panel } from "./panel.js";
import { Scene } from "./scene.js";
import { Windowing } from "./windowing.js";
import { listenToKeys } from "./keys.js";

const at = (id) => document.getElementById(id);

class Viewer {
  constructor(subject) {
    this.subject = subject;
    this.scene = new Scene(at("volume"));
    this.state = { id: null, layers: new Layers(subject.labels), points: [], chosen: -1, names: false, maps: [], map: -1, facts: {}, remarks: [] };
    this.lines = new Lines(at("lines"), this.scene, this.state);
    this.windowing = new Windowing(at("window"), ([low, high]) => this.scene.window(low, high));
    this.windowing.range = () => this.scene.volume.range();
    this.notes = subject.notes ? new Notes(subject.ids, () => this.table.update()) : null;
    this.panel = new Panel(at("panel"), {
      fill: (key) => { this.state.layers.choose(key); this.refill(); },
      outline: (key, on) => { on ? this.state.layers.outlined.add(key) : this.state.layers.outlined.delete(key); this.lines.draw(); },
      opacity: (value) => { this.state.layers.opacity = value; this.scene.opacity(value); },
      labels: (values, on) => { values.forEach((value) => (on ? this.state.layers.hidden.delete(value) : this.state.layers.hidden.add(value))); this.refill(); },
      goLabel: (value) => this.goLabel(value),
      goPoint: (number) => this.goPoint(number),
      saliency: (number) => { this.state.map = number; this.attempt(() => this.reheat()); },
      names: (on) => { this.state.names = on; this.lines.draw(); },
    });
    this.channels = [];
    this.channel = 0;
    this.wantedChannel = null;
  }

  async start() {
    const { subject } = this;
    at("title").textContent = subject.title;
    at("kind").textContent = subject.kind;
    document.title = `${subject.title} – mambamed`;
    at("report").hidden = !subject.report;
    await this.scene.start();
    this.scene.onDraw = () => this.lines.draw();
    this.scene.onMove = () => this.cursor();
    if (this.notes) await this.notes.load();
    this.table = new CaseTable(subject, this.notes, (index) => this.open(index));
    listenToKeys(this);
    at("render").checked = this.scene.renders;
    at("render").addEventListener("change", () => this.scene.render(at("render").checked));
    at("show-help").addEventListener("click", () => at("help").showModal());
    if (subject.training) {
      this.training = new Training(at("training"), (folds) => this.offer(folds));
      at("show-training").hidden = false;
      at("show-training").addEventListener("click", () => this.training.open());
      if (subject.ids.length) this.training.refresh();
      else await this.training.open();
    }
    addEventListener("hashchange", () => this.openNamed());
    if (!this.openNamed() && subject.ids.length) this.table.step(1);
    at("faults").replaceChildren(...subject.faults.map((text) => element("p", { textContent: text })));
    if (!subject.ids.length) this.say(subject.training ? "No validation cases yet." : "No cases.");
  }

  // The case in the address, e.g. #case=BRATS_001, to which reports link.
  openNamed() {
    const name = new URLSearchParams(location.hash.slice(1)).get("case");
    const index = name === null ? -1 : this.subject.ids.indexOf(name);
    if (index >= 0 && index !== this.table.chosen) this.table.choose(index);
    return index >= 0;
  }

  // The cases of folds that were validated meanwhile.
  offer(folds) {
    const button = element("button", { textContent: `${folds.join(", ").replaceAll("_", " ")} done: show the cases` });
    button.addEventListener("click", () => location.reload());
    at("added").replaceChildren(button);
  }

  say(text, isFault = false) {
    at("message").textContent = text;
    at("message").classList.toggle("fault", isFault);
  }

  async open(index) {
    this.loading?.abort();
    const { signal } = (this.loading = new AbortController());
    const id = this.subject.ids[index];
    this.shown = false;
    history.replaceState(null, "", `#${new URLSearchParams({ case: id })}`);
    this.say(`loading ${id} …`);
    await this.attempt(async () => {
      const found = await loadJson(`case/${index}.json`, { signal });
      signal.throwIfAborted();
      Object.assign(this.state, { id, points: found.points, chosen: -1, facts: found.facts, remarks: found.remarks, maps: [], map: -1 });
      this.state.layers.show([]);
      this.scene.clear();
      const of = (...roles) => found.volumes.map((volume, number) => ({ ...volume, number })).filter((volume) => roles.includes(volume.role));
      this.channels = of("image");
      this.address = (volume) => `volume/${index}/${volume.number}.nii`;
      this.channel = Math.max(0, this.channels.findIndex((channel) => channel.name === this.wantedChannel));
      this.tabs();
      this.panel.draw(this.state, this.notes);
      const masks = of("reference", "prediction");
      const loads = masks.map((mask) => this.load(mask, signal));
      const background = this.channels.length ? this.load(this.channels[this.channel], signal) : null;
      for (const load of [...loads, background]) load?.catch(() => {});
      const first = this.channel;
      const image = await background;
      if (image && this.channel === first) await this.image(image, false);
      const ready = [];
      for (const [k, mask] of masks.entries()) {
        try {
          ready.push({ ...mask, key: mask.role === "reference" ? "reference" : mask.name, short: mask.role === "reference" ? "ref." : "pred.", volume: await loads[k] });
        } catch (error) {
          if (signal.aborted) throw error;
          this.state.remarks = [...this.state.remarks, error.message];
        }
      }
      signal.throwIfAborted();
      if (!background && ready.length) await this.blank(ready[0].volume);
      signal.throwIfAborted();
      this.state.layers.show(ready);
      if (!this.scene.volume && found.points.length) this.say("No image: landmarks are listed on the right.");
      await this.refill();
      signal.throwIfAborted();
      if (ready.length) this.goLargest();
      const maps = of("saliency");
      if (maps.length) {
        this.state.maps = maps.map((map) => ({ ...map }));
        this.state.map = 0;
        await this.reheat();
        signal.throwIfAborted();
      }
      if (this.scene.volume) this.say("");
      this.panel.draw(this.state, this.notes);
      if (!ready.length && found.points.length) this.goPoint(this.worstPoint());
    });
    if (!signal.aborted) this.shown = true;
  }

  // Say what fails, unless another case is opened meanwhile.
  async attempt(action) {
    const { signal } = this.loading;
    try {
      await action();
    } catch (error) {
      if (!signal.aborted) this.say(error.message, true);
    }
  }

  async load(volume, signal) {
    return new Volume(await loadBuffer(this.address(volume), { signal }));
  }

  tabs() {
    at("channels").replaceChildren(...this.channels.map((channel, number) => {
      const tab = element("button", { textContent: channel.name, title: channel.source });
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-selected", number === this.channel);
      tab.addEventListener("click", () => this.choose(number));
      return tab;
    }));
  }

  // Show another channel at the same place.
  async choose(number) {
    if (number >= this.channels.length || number === this.channel) return;
    this.channel = number;
    this.wantedChannel = this.channels[number].name;
    this.tabs();
    this.say("loading …");
    await this.attempt(async () => {
      const volume = await this.load(this.channels[number], this.loading.signal);
      if (number === this.channel && (await this.image(volume, true))) this.say("");
    });
  }

  async image(volume, keep) {
    const window = this.windowing.of(this.channels[this.channel], volume);
    if (!(await this.scene.image(volume, window, keep))) return false;
    this.windowing.show(window);
    this.cursor();
    return true;
  }

  // Masks without an image: on black.
  async blank(volume) {
    const empty = new Volume(volume.withIndices(new Uint8Array(volume.data.length)));
    await this.scene.image(empty, [0, 1], false);
    at("window").replaceChildren();
  }

  async refill() {
    const { layers } = this.state;
    await this.scene.filled(layers.filled(), layers.fill === "differences" ? Math.max(layers.opacity, 0.85) : layers.opacity);
    this.panel.draw(this.state, this.notes);
    this.cursor();
  }

  async reheat() {
    const map = this.state.maps[this.state.map];
    if (map && !map.volume) map.volume = await this.load(map, this.loading.signal);
    if (map !== this.state.maps[this.state.map]) return;
    await this.scene.heated(map?.volume ?? null, 0.75);
    if (map) this.goMaximum(map.volume);
    this.panel.draw(this.state, this.notes);
  }

  goLargest() {
    const { layers } = this.state;
    const counts = layers.masks.flatMap((mask) => [...mask.counts].map(([value, entry]) => ({ value, count: entry.count })));
    counts.sort((a, b) => b.count - a.count);
    if (counts.length) this.goLabel(counts[0].value);
  }

  goLabel(value) {
    const mask = this.state.layers.masks.find((each) => each.counts.has(value));
    if (!mask || !this.scene.volume) return;
    const { count, sum } = mask.counts.get(value);
    const middle = sum.map((total) => total / count);
    this.scene.moveTo(mask.volume.world(nearest(mask.volume, value, middle)));
  }

  goMaximum(volume) {
    let best = 0;
    volume.data.forEach((value, index) => { if (value > volume.data[best]) best = index; });
    const [x, y] = volume.dims;
    this.scene.moveTo(volume.world([best % x, Math.floor(best / x) % y, Math.floor(best / (x * y))]));
  }

  worstPoint() {
    const errors = this.state.points.map((point) => point.error_mm ?? -1);
    return errors.indexOf(Math.max(...errors));
  }

  goPoint(number) {
    const point = this.state.points[number];
    const place = point?.reference ?? point?.prediction;
    this.state.chosen = number;
    if (place && this.scene.volume) this.scene.moveTo(place);
    this.panel.draw(this.state, this.notes);
  }

  // What is under the cross: values of the image and the masks, and the place.
  get under() {
    if (!this.scene.volume) return null;
    const { mm } = this.scene;
    const labels = this.state.layers.masks.map((mask) => ({ name: mask.name, value: mask.volume.at(mm) }));
    return { mm, voxel: this.scene.volume.voxel(mm).map(Math.round), value: this.scene.volume.at(mm), labels };
  }

  cursor() {
    const under = this.under;
    if (!under) return at("cursor").replaceChildren();
    const [x, y, z] = under.mm;
    const side = (value, [plus, minus]) => `${Math.abs(value).toFixed(1)} ${value >= 0 ? plus : minus}`;
    const parts = [`${side(x, "RL")}   ${side(y, "AP")}   ${side(z, "SI")} mm`];
    if (this.channels.length) parts.push(`${this.channels[this.channel].name} ${number(under.value)}`);
    for (const label of under.labels) parts.push(`${label.name}: ${label.value ? this.state.layers.label(label.value).name : "–"}`);
    at("cursor").replaceChildren(...parts.map((text) => element("span", { textContent: text })));
  }
}

// The voxel of a label that is closest to a place.
function nearest(volume, value, [a, b, c]) {
  const [x, y] = volume.dims;
  let [best, place] = [Infinity, null];
  for (let index = 0; index < volume.data.length; index++) {
    if (volume.data[index] !== value) continue;
    const [i, j, k] = [index % x, Math.floor(index / x) % y, Math.floor(index / (x * y))];
    const far = (i - a) ** 2 + (j - b) ** 2 + (k - c) ** 2;
    if (far < best) [best, place] = [far, [i, j, k]];
  }
  return place;
}

function number(value) {
  return value === null ? "–" : Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));
}

window.name = "viewer"; // reports open their links here
const viewer = new Viewer(await loadJson("subject.json"));
window.mambamed = viewer; // the page's own interface, e.g. for tests
await viewer.start();
