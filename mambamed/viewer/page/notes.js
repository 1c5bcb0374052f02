// A person's marks and notes; saved by the server, one case at a time.

import { element, loadJson, section } from "./dom.js";

const MARKS = ["right", "wrong", "doubtful"];

export class Notes {
  constructor(onChange) {
    this.entries = {};
    this.onChange = onChange;
  }

  async load() {
    this.entries = await loadJson("notes.json");
  }

  of(id) {
    return this.entries[id] ?? { mark: "", note: "" };
  }

  section(id) {
    const { mark, note } = this.of(id);
    const text = element("input", { type: "text", value: note, placeholder: "note", maxLength: 2000 });
    const state = element("p", { className: "quiet" });
    const save = async (chosen) => {
      try {
        this.entries = await loadJson("notes", {
          method: "POST", headers: { "X-Mambamed": "note" }, body: new URLSearchParams({ case: id, mark: chosen, note: text.value }),
        });
        this.onChange(id);
      } catch (error) {
        state.textContent = `not saved: ${error.message}`;
      }
    };
    const buttons = MARKS.map((name) => {
      const button = element("button", { textContent: name, className: `mark ${name}` });
      button.setAttribute("aria-pressed", mark === name);
      button.addEventListener("click", () => save(mark === name ? "" : name));
      return button;
    });
    text.addEventListener("change", () => save(mark));
    return section("Your note", element("div", { className: "marks" }, ...buttons), text, state);
  }
}
