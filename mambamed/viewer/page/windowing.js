// Black and white of the image: presets for CT, percentiles for others, and two numbers to edit.

import { element } from "./dom.js";

const CT = [["brain", 40, 80], ["stroke", 35, 35], ["soft tissue", 40, 400], ["liver", 60, 160], ["lung", -500, 1500], ["bone", 400, 1800]];
const AIR = -500; // Hounsfield units; only CT has such values

export class Windowing {
  constructor(place, onChange) {
    this.place = place;
    this.onChange = onChange;
    this.kept = new Map(); // channel name -> window a person chose
  }

  // The window of a channel when it is shown.
  of(channel, volume) {
    const [lowest] = volume.range();
    this.isCt = channel.kind === "ct" || (channel.kind === "" && lowest <= AIR);
    this.channel = channel;
    this.automatic = volume.window();
    if (this.kept.has(channel.name)) return this.kept.get(channel.name);
    return this.isCt ? [40 - 200, 40 + 200] : this.automatic;
  }

  show([low, high]) {
    const number = (value) => element("input", { type: "number", step: "any", value: round(value, high - low) });
    const [black, white] = [number(low), number(high)];
    black.title = "black";
    white.title = "white";
    for (const input of [black, white]) {
      input.addEventListener("change", () => {
        const chosen = [Number(black.value), Number(white.value)];
        if (chosen.every(Number.isFinite) && chosen[0] < chosen[1]) this.set(chosen);
      });
    }
    const preset = element("select", { title: "Window" }, element("option", { value: "", textContent: "window" }), element("option", { value: "auto", textContent: "automatic" }),
      element("option", { value: "all", textContent: "whole range" }));
    if (this.isCt) for (const [name, center, width] of CT) preset.append(element("option", { value: name, textContent: `${name}  ${center}/${width}` }));
    preset.addEventListener("change", () => {
      const [, center, width] = CT.find(([name]) => name === preset.value) ?? [];
      if (preset.value === "auto") this.set(this.automatic);
      else if (preset.value === "all") this.set(this.range());
      else if (width) this.set([center - width / 2, center + width / 2]);
    });
    this.place.replaceChildren(preset, black, element("span", { textContent: "–" }), white);
  }

  set(window) {
    this.kept.set(this.channel.name, window);
    this.onChange(window);
    this.show(window);
  }
}

function round(value, width) {
  const digits = Math.min(Math.max(2 - Math.floor(Math.log10(Math.abs(width) || 1)), 0), 6);
  return Number(value.toFixed(digits));
}
