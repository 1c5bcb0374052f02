// Volumes: the NIfTI that the server made (little endian, axes closest to RAS+), and what is read from it.

const TYPES = { 2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 512: Uint16Array };
const HEADER = 352;
const FEW = 100; // values, too few for percentiles, e.g. of a small lesion

export class Volume {
  constructor(buffer) {
    const view = new DataView(buffer);
    this.header = buffer.slice(0, HEADER);
    this.buffer = buffer;
    this.dims = [1, 2, 3].map((k) => view.getInt16(40 + 2 * k, true));
    this.affine = [0, 1, 2].map((row) => [0, 1, 2, 3].map((k) => view.getFloat32(280 + 16 * row + 4 * k, true)));
    this.inverse = inverted(this.affine);
    this.data = new TYPES[view.getInt16(70, true)](buffer, HEADER);
  }

  // World mm -> voxel, not rounded.
  voxel(mm) {
    return applied(this.inverse, mm);
  }

  world(voxel) {
    return applied(this.affine, voxel);
  }

  // The value of the nearest voxel; null outside.
  at(mm) {
    const [i, j, k] = this.voxel(mm).map((x) => Math.round(x));
    const [x, y, z] = this.dims;
    if (i < 0 || j < 0 || k < 0 || i >= x || j >= y || k >= z) return null;
    return this.data[i + x * (j + y * k)];
  }

  // Length of each edge of a voxel, mm.
  get spacing() {
    return [0, 1, 2].map((k) => Math.hypot(...this.affine.map((row) => row[k])));
  }

  sameGrid(other) {
    return this.dims.every((n, k) => n === other.dims[k]) &&
      this.affine.every((row, r) => row.every((x, k) => Math.abs(x - other.affine[r][k]) < 1e-3));
  }

  // The nearest values of another volume on this grid.
  resampled(other) {
    if (this.sameGrid(other)) return other.data;
    const [x, y, z] = this.dims;
    const step = multiplied(other.inverse, this.affine);
    const found = new other.data.constructor(x * y * z);
    const [a, b, c] = other.dims;
    let index = 0;
    for (let k = 0; k < z; k++) for (let j = 0; j < y; j++) for (let i = 0; i < x; i++, index++) {
      const u = Math.round(step[0][0] * i + step[0][1] * j + step[0][2] * k + step[0][3]);
      const v = Math.round(step[1][0] * i + step[1][1] * j + step[1][2] * k + step[1][3]);
      const w = Math.round(step[2][0] * i + step[2][1] * j + step[2][2] * k + step[2][3]);
      if (u >= 0 && v >= 0 && w >= 0 && u < a && v < b && w < c) found[index] = other.data[u + a * (v + b * w)];
    }
    return found;
  }

  // Bytes of a NIfTI file with other voxels on this grid: 8-bit indices.
  withIndices(indices) {
    const bytes = new Uint8Array(HEADER + indices.length);
    bytes.set(new Uint8Array(this.header));
    bytes.set(indices, HEADER);
    const view = new DataView(bytes.buffer);
    view.setInt16(70, 2, true);
    view.setInt16(72, 8, true);
    return bytes.buffer;
  }

  // Intensities for black and white: percentiles of what differs from the background, which stays black.
  window() {
    const [x, y, z] = this.dims;
    const steps = this.dims.map((n) => Math.ceil(n / 32));
    const values = [];
    const corner = this.data[0];
    let lowest = Infinity;
    for (let k = 0; k < z; k += steps[2]) for (let j = 0; j < y; j += steps[1]) for (let i = 0; i < x; i += steps[0]) {
      const value = this.data[i + x * (j + y * k)];
      lowest = Math.min(lowest, value);
      if (value !== corner) values.push(value);
    }
    if (values.length < FEW) {
      const [low, high] = this.range();
      return [low, high > low ? high : low + 1];
    }
    values.sort((a, b) => a - b);
    const at = (share) => values[Math.round(share * (values.length - 1))];
    const [low, high] = [at(0.005), at(0.995)];
    const background = corner <= low ? corner : lowest;
    const black = Math.max(background, low - 0.15 * (high - low));
    return [black, Math.max(high, black + 1e-6)];
  }

  range() {
    let [low, high] = [Infinity, -Infinity];
    const { data } = this;
    for (let index = 0; index < data.length; index++) {
      if (data[index] < low) low = data[index];
      if (data[index] > high) high = data[index];
    }
    return [low, high];
  }

  // Values > 0 that occur -> number of voxels and the middle of them, as voxel.
  labels() {
    const [x, y] = this.dims;
    const counts = new Map();
    const { data } = this;
    for (let index = 0; index < data.length; index++) {
      const value = data[index];
      if (!value) continue;
      let entry = counts.get(value);
      if (!entry) counts.set(value, (entry = { count: 0, sum: [0, 0, 0] }));
      entry.count++;
      entry.sum[0] += index % x;
      entry.sum[1] += Math.floor(index / x) % y;
      entry.sum[2] += Math.floor(index / (x * y));
    }
    return counts;
  }
}

export function applied(affine, [x, y, z]) {
  return affine.map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
}

function multiplied(a, b) {
  return a.map((row) => [0, 1, 2, 3].map((k) => row[0] * b[0][k] + row[1] * b[1][k] + row[2] * b[2][k] + (k === 3 ? row[3] : 0)));
}

function inverted(m) {
  const [[a, b, c, t], [d, e, f, u], [g, h, i, v]] = m;
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const r = [
    [(e * i - f * h) / det, (c * h - b * i) / det, (b * f - c * e) / det],
    [(f * g - d * i) / det, (a * i - c * g) / det, (c * d - a * f) / det],
    [(d * h - e * g) / det, (b * g - a * h) / det, (a * e - b * d) / det],
  ];
  return r.map((row) => [...row, -(row[0] * t + row[1] * u + row[2] * v)]);
}
