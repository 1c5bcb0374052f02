// A person's marks and notes; saved by the server, one after the other.

import { element, loadJson, section } from "./dom.js";

const MARKS = ["right", "wrong", "doubtful"];

export class Notes {
  constructor(ids, onChange) {
    this.ids = ids;
    this.entries = {};
    this.onChange = onChange;
    this.form = null; // of the case that is shown: {id, made, text, state, buttons}
    this.saved = Promise.resolve();
  }

  async load() {
    this.entries = await loadJson("notes.json");
  }

  of(id) {
    return this.entries[id] ?? { mark: "", note: "" };
  }

  // The same element as long as the case is the same, so that nothing typed is lost.
  section(id) {
    if (this.form?.id === id) return this.form.made;
    if (this.form && this.form.text.value !== this.of(this.form.id).note) this.save(this.form);
    const text = element("input", { type: "text", value: this.of(id).note, placeholder: "note", maxLength: 2000 });
    const state = element("p", { className: "quiet" });
    const buttons = MARKS.map((name) => element("button", { textContent: name, className: `mark ${name}` }));
    const made = section("Your note", element("div", { className: "marks" }, ...buttons), text, state);
    const form = (this.form = { id, made, text, state, buttons });
    buttons.forEach((button, k) => button.addEventListener("click", () => this.save(form, this.of(id).mark === MARKS[k] ? "" : MARKS[k])));
    text.addEventListener("change", () => this.save(form));
    this.press(form);
    return made;
  }

  // Save the text, and a mark if one is given.
  save(form, mark) {
    this.saved = this.saved.then(async () => {
      const { id, text, state } = form;
      try {
        const fields = { case: this.ids.indexOf(id), mark: mark ?? this.of(id).mark, note: text.value };
        this.entries = await loadJson("notes", { method: "POST", headers: { "X-Mambamed": "note" }, body: new URLSearchParams(fields) });
        state.textContent = "";
        this.press(form);
        this.onChange();
      } catch (error) {
        state.textContent = `not saved: ${error.message}`;
      }
    });
  }

  press({ id, buttons }) {
    const { mark } = this.of(id);
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", mark === MARKS[k]));
  }
}
