// The table of cases: sorted by its headings, filtered by text or by conditions such as "dice<0.8".
// Only the rows in sight are in the page, so that thousands of cases scroll smoothly.

import { whenReleased } from "./dom.js";

const ROW = 26; // pixels, as in page.css
const OPERATORS = { "<": (a, b) => a < b, ">": (a, b) => a > b, "=": (a, b) => a === b };

export class CaseTable {
  constructor(subject, notes, onChoose) {
    this.subject = subject;
    this.notes = notes;
    this.onChoose = onChoose;
    this.headings = ["case", ...subject.columns.map((column) => column.title)];
    if (notes) this.headings.push("mark");
    this.element = document.getElementById("table");
    this.scroller = this.element.parentElement;
    this.filter = document.getElementById("filter");
    const better = subject.columns[subject.sort_by]?.better;
    this.order = { column: subject.sort_by === null ? -1 : subject.sort_by + 1, down: better === "lower" };
    this.chosen = null;
    this.scroller.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.scroller);
    this.filter.addEventListener("input", () => this.update());
    this.arrange();
  }

  cell(index, column) {
    if (column === 0) return this.subject.ids[index];
    if (column > this.subject.columns.length) return this.notes.of(this.subject.ids[index]).mark || null;
    const value = this.subject.rows[index][column - 1];
    return value === "Infinity" ? Infinity : value === "-Infinity" ? -Infinity : value;
  }

  update() {
    whenReleased(this, () => this.arrange());
  }

  arrange() {
    const tests = this.filter.value.trim().toLowerCase().split(/\s+/).filter(Boolean).map((word) => this.test(word));
    this.visible = this.subject.ids.map((_, index) => index).filter((index) => tests.every((test) => test(index)));
    const { column, down } = this.order;
    if (column >= 0) {
      this.visible.sort((a, b) => {
        const [x, y] = [this.cell(a, column), this.cell(b, column)];
        if (x === null || y === null) return (x === null) - (y === null);
        const order = typeof x === "number" && typeof y === "number" ? (x === y ? 0 : x - y)
          : String(x).localeCompare(String(y), undefined, { numeric: true });
        return (down ? -order : order) || a - b;
      });
    }
    const all = this.subject.ids.length;
    document.getElementById("count").textContent = this.visible.length === all ? all === 1 ? "1 case" : `${all} cases` : `${this.visible.length} of ${all}`;
    this.drawHead();
    this.draw();
  }

  test(word) {
    const match = word.match(/^([^<>=]+)([<>=])(.+)$/);
    if (match) {
      const names = this.headings.map((heading) => heading.toLowerCase());
      const column = names.includes(match[1]) ? names.indexOf(match[1]) : names.findIndex((name) => name.includes(match[1]));
      const number = Number(match[3]);
      if (column >= 0) {
        return (index) => {
          const value = this.cell(index, column);
          if (value === null) return false;
          if (typeof value === "number" && !Number.isNaN(number)) return OPERATORS[match[2]](value, number);
          return match[2] === "=" && String(value).toLowerCase() === match[3];
        };
      }
    }
    return (index) => this.headings.some((_, column) => typeof this.cell(index, column) === "string" && this.cell(index, column).toLowerCase().includes(word));
  }

  drawHead() {
    const row = document.createElement("tr");
    this.headings.forEach((heading, column) => {
      const cell = document.createElement("th");
      const button = document.createElement("button");
      button.textContent = heading;
      cell.append(button);
      if (this.order.column === column) cell.setAttribute("aria-sort", this.order.down ? "descending" : "ascending");
      button.addEventListener("click", () => {
        const same = this.order.column === column;
        this.order = { column, down: same ? !this.order.down : false };
        this.update();
      });
      row.append(cell);
    });
    this.element.tHead.replaceChildren(row);
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - 10);
    const last = Math.min(this.visible.length, first + Math.ceil(this.scroller.clientHeight / ROW) + 20);
    const rows = this.visible.slice(first, last).map((index) => this.row(index));
    this.element.tBodies[0].replaceChildren(spacer(first * ROW, this.headings.length), ...rows,
      spacer((this.visible.length - last) * ROW, this.headings.length));
  }

  row(index) {
    const row = document.createElement("tr");
    row.dataset.index = index;
    row.classList.toggle("chosen", index === this.chosen);
    this.headings.forEach((_, column) => {
      const value = this.cell(index, column);
      const cell = document.createElement("td");
      cell.textContent = shown(value);
      cell.title = cell.textContent;
      if (typeof value === "number") cell.className = "number";
      if (this.notes && column === this.headings.length - 1 && value) cell.className = `mark ${value}`;
      row.append(cell);
    });
    row.addEventListener("click", () => this.choose(index));
    return row;
  }

  choose(index) {
    this.chosen = index;
    const place = this.visible.indexOf(index);
    if (place >= 0) {
      const [top, height] = [place * ROW, this.scroller.clientHeight - ROW * 2];
      if (top < this.scroller.scrollTop || top > this.scroller.scrollTop + height) this.scroller.scrollTop = top - height / 2;
    }
    this.draw();
    this.onChoose(index);
  }

  step(by) {
    if (!this.visible.length) return;
    const place = this.visible.indexOf(this.chosen);
    const next = place < 0 ? 0 : Math.min(Math.max(place + by, 0), this.visible.length - 1);
    if (this.visible[next] !== this.chosen) this.choose(this.visible[next]);
  }
}

function spacer(height, columns) {
  const row = document.createElement("tr");
  row.className = "spacer";
  const cell = document.createElement("td");
  cell.colSpan = columns;
  cell.style.height = `${height}px`;
  row.append(cell);
  return row;
}

export function shown(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) < 10 ? value.toFixed(3) : value.toFixed(1);
}
