// Lines on top of the planes: outlines of masks, landmarks, the letters of the sides, names of the planes.

const NAMES = ["sagittal", "coronal", "axial"];
const NEAR_MM = 0.5; // of a slice's thickness, at least

export class Lines {
  constructor(canvas, scene, state) {
    this.canvas = canvas;
    this.scene = scene;
    this.state = state; // {layers, points, chosen}
    this.paths = new Map();
  }

  draw() {
    const { canvas, scene } = this;
    const below = scene.canvas;
    if (canvas.width !== below.width || canvas.height !== below.height) {
      canvas.width = below.width;
      canvas.height = below.height;
    }
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (!scene.volume) return;
    this.ratio = canvas.width / (below.clientWidth || canvas.width);
    for (const plane of scene.planes()) {
      const [left, top, width, height] = plane.box;
      pen.save();
      pen.beginPath();
      pen.rect(left, top, width, height);
      pen.clip();
      if (this.state.layers.outlines) {
        for (const mask of this.state.layers.masks) if (this.state.layers.outlined.has(mask.key)) this.outline(pen, plane, mask);
      }
      this.cross(pen, plane);
      this.points(pen, plane);
      pen.restore();
      this.letters(pen, plane);
    }
    this.render(pen);
  }

  // The cross, open in the middle, so that it does not hide what it points to.
  cross(pen, plane) {
    const [left, top, width, height] = plane.box;
    const [x, y] = plane.pixel(this.scene.volume.voxel(this.scene.mm));
    const gap = 12 * this.ratio;
    pen.beginPath();
    for (const [a, b, c, d] of [[left, y, x - gap, y], [x + gap, y, left + width, y], [x, top, x, y - gap], [x, y + gap, x, top + height]]) {
      pen.moveTo(a, b);
      pen.lineTo(c, d);
    }
    pen.strokeStyle = "rgba(110, 200, 255, 0.6)";
    pen.lineWidth = this.ratio;
    pen.stroke();
  }

  // Edges between pixels of different labels, in the color of the label inside.
  outline(pen, plane, mask) {
    const { scene, state } = this;
    const { layers } = state;
    const base = scene.volume;
    const { axis, u, v, slice } = plane;
    const [width, height] = [base.dims[u], base.dims[v]];
    const values = new mask.volume.data.constructor(width * height);
    const same = base.sameGrid(mask.volume);
    const voxel = [0, 0, 0];
    voxel[axis] = slice;
    for (let b = 0; b < height; b++) for (let a = 0; a < width; a++) {
      voxel[u] = a;
      voxel[v] = b;
      const value = same
        ? mask.volume.data[voxel[0] + base.dims[0] * (voxel[1] + base.dims[1] * voxel[2])]
        : mask.volume.at(base.world(voxel));
      if (value && !layers.hidden.has(value)) values[b * width + a] = value;
    }
    const paths = new Map();
    const line = (value, a0, b0, a1, b1) => {
      if (!value) return;
      if (!paths.has(value)) paths.set(value, new Path2D());
      const place = (a, b) => {
        const at = [0, 0, 0];
        at[u] = a - 0.5;
        at[v] = b - 0.5;
        return plane.pixel(at);
      };
      paths.get(value).moveTo(...place(a0, b0));
      paths.get(value).lineTo(...place(a1, b1));
    };
    for (let b = 0; b <= height; b++) for (let a = 0; a <= width; a++) {
      const here = a < width && b < height ? values[b * width + a] : 0;
      const before = a > 0 && b < height ? values[b * width + a - 1] : 0;
      const under = b > 0 && a < width ? values[(b - 1) * width + a] : 0;
      if (here !== before) { line(here, a, b, a, b + 1); line(before, a, b, a, b + 1); }
      if (here !== under) { line(here, a, b, a + 1, b); line(under, a, b, a + 1, b); }
    }
    pen.lineCap = "round";
    pen.setLineDash(mask.role === "reference" ? [] : [5 * this.ratio, 3 * this.ratio]);
    for (const [value, path] of paths) {
      pen.strokeStyle = "rgba(0, 0, 0, 0.55)";
      pen.lineWidth = 3 * this.ratio;
      if (mask.role === "reference") pen.stroke(path);
      pen.strokeStyle = layers.label(value).color;
      pen.lineWidth = 1.6 * this.ratio;
      pen.stroke(path);
    }
    pen.setLineDash([]);
  }

  points(pen, plane) {
    const { scene, state } = this;
    const base = scene.volume;
    const thick = Math.max(base.spacing[plane.axis] * 1.5, NEAR_MM * base.spacing[plane.axis]);
    state.points.forEach((point, number) => {
      const isChosen = number === state.chosen;
      const placed = ["reference", "prediction"].map((side) => {
        if (!point[side]) return null;
        const voxel = base.voxel(point[side]);
        const off = Math.abs(voxel[plane.axis] - plane.slice) * base.spacing[plane.axis];
        return { at: plane.pixel(voxel), off };
      });
      const near = placed.some((each) => each && each.off <= thick);
      if (!near && !isChosen) return;
      const alpha = (each) => (each.off <= thick ? 1 : 0.35);
      const [truth, found] = placed;
      if (truth && found) {
        pen.globalAlpha = Math.max(alpha(truth), alpha(found));
        stroke(pen, point.color, 1.5 * this.ratio, () => { pen.moveTo(...truth.at); pen.lineTo(...found.at); });
      }
      const size = (isChosen ? 6 : 4) * this.ratio;
      if (truth) {
        pen.globalAlpha = alpha(truth);
        stroke(pen, point.color, (isChosen ? 2.5 : 1.8) * this.ratio, () => pen.arc(...truth.at, size, 0, 7));
      }
      if (found) {
        pen.globalAlpha = alpha(found);
        const [x, y] = found.at;
        stroke(pen, point.color, (isChosen ? 2.5 : 1.8) * this.ratio, () => {
          pen.moveTo(x - size, y); pen.lineTo(x + size, y); pen.moveTo(x, y - size); pen.lineTo(x, y + size);
        });
      }
      pen.globalAlpha = 1;
      const anchor = truth && found && found.off < truth.off ? found : truth ?? found;
      if (isChosen || state.names) {
        const text = isChosen && point.error_mm !== null ? `${point.name}  ${point.error_mm.toFixed(2)} mm` : point.name;
        this.text(pen, text, anchor.at[0] + 8 * this.ratio, anchor.at[1] - 8 * this.ratio, isChosen ? "#fff" : point.color, isChosen ? 13 : 11, "left");
      }
    });
  }

  letters(pen, plane) {
    const [left, top, width, height] = plane.box;
    const [first, last] = [["L", "R"], ["P", "A"], ["I", "S"]][plane.u];
    const [below, above] = [["L", "R"], ["P", "A"], ["I", "S"]][plane.v];
    const pad = 10 * this.ratio;
    const sides = plane.mirrored ? [last, first] : [first, last];
    this.text(pen, sides[0], left + pad, top + height / 2, "#fff", 14, "center", true);
    this.text(pen, sides[1], left + width - pad, top + height / 2, "#fff", 14, "center", true);
    this.text(pen, above, left + width / 2, top + pad, "#fff", 14, "center", true);
    this.text(pen, below, left + width / 2, top + height - pad, "#fff", 14, "center", true);
    const count = this.scene.volume.dims[plane.axis];
    const under = width < 260 * this.ratio ? 18 : 2; // the letter, where both do not fit side by side
    this.text(pen, `${NAMES[plane.axis]} ${plane.slice + 1}/${count}`, left + 8 * this.ratio, top + pad + under * this.ratio, "#9fb0c3", 11, "left");
  }

  render(pen) {
    const tile = this.scene.nv.screenSlices.find((each) => each.axCorSag === 4);
    if (!tile) return;
    const [left, top] = tile.leftTopWidthHeight;
    this.text(pen, "3D", left + 8 * this.ratio, top + 12 * this.ratio, "#9fb0c3", 11, "left");
  }

  text(pen, text, x, y, color, size, align, bold = false) {
    pen.font = `${bold ? "600 " : ""}${size * this.ratio}px system-ui, sans-serif`;
    pen.textAlign = align;
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    pen.strokeStyle = "rgba(0, 0, 0, 0.85)";
    pen.lineWidth = 3 * this.ratio;
    pen.strokeText(text, x, y);
    pen.fillStyle = color;
    pen.fillText(text, x, y);
  }
}

function stroke(pen, color, width, path) {
  for (const [style, extra] of [["rgba(0, 0, 0, 0.8)", 2], [color, 0]]) {
    pen.beginPath();
    path();
    pen.strokeStyle = style;
    pen.lineWidth = width + extra;
    pen.stroke();
  }
}
