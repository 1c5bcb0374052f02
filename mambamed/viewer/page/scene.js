// The pictures: NiiVue draws image, filled layer and saliency; lines.js draws on top of it.

const { Niivue, NVImage, SLICE_TYPE } = window.niivue;
const WITH_RENDERING = [
  { sliceType: SLICE_TYPE.AXIAL, position: [0, 0, 0.5, 0.5] },
  { sliceType: SLICE_TYPE.CORONAL, position: [0.5, 0, 0.5, 0.5] },
  { sliceType: SLICE_TYPE.SAGITTAL, position: [0, 0.5, 0.5, 0.5] },
  { sliceType: SLICE_TYPE.RENDER, position: [0.5, 0.5, 0.5, 0.5] },
];
const PLANES = [
  { sliceType: SLICE_TYPE.AXIAL, position: [0, 0, 0.58, 1] },
  { sliceType: SLICE_TYPE.CORONAL, position: [0.58, 0, 0.42, 0.5] },
  { sliceType: SLICE_TYPE.SAGITTAL, position: [0.58, 0.5, 0.42, 0.5] },
];
// From dark red to pale yellow: on gray images, and distinguishable for the color-blind.
const HOT = { R: [80, 190, 245, 255], G: [0, 30, 150, 250], B: [40, 30, 20, 190], A: [0, 120, 200, 230], I: [0, 85, 170, 255] };

export class Scene {
  constructor(canvas) {
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1], isRadiologicalConvention: true, isOrientationTextVisible: false,
      show3Dcrosshair: false, crosshairWidth: 0, dragMode: 3, dragAndDropEnabled: false,
      isResizeCanvas: true, logLevel: "error", loadingText: "", multiplanarShowRender: 1, isColorbar: false,
      clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", limitFrames4D: 1, isAlphaClipDark: false,
    });
    this.canvas = canvas;
    this.saliency = null;
    this.onDraw = () => {};
    this.onMove = () => {};
    this.turns = { image: 0, fill: 0, heat: 0 };
  }

  // Decode a volume, if there is one; undefined if another one was asked for meanwhile.
  async decoded(part, bytes, ...given) {
    const turn = ++this.turns[part];
    const made = bytes ? await NVImage.new(bytes, ...given) : null;
    return turn === this.turns[part] ? made : undefined;
  }

  async start() {
    await this.nv.attachToCanvas(this.canvas, true);
    this.nv.addColormap("mambamed_hot", HOT);
    const draw = this.nv.drawScene.bind(this.nv);
    this.nv.drawScene = () => {  // several changes, one picture
      this.waiting ??= requestAnimationFrame(() => {
        this.waiting = null;
        draw();
        this.onDraw();
      });
    };
    this.nv.onLocationChange = () => this.onMove();
    withoutGradients(this.nv);
    const { gl } = this.nv;
    const names = gl.getExtension("WEBGL_debug_renderer_info");
    this.renders = !/swiftshader|llvmpipe|software/i.test(gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    this.layout("all");
  }

  // "all", or one plane or the rendering alone. A rendering takes seconds without a graphics card.
  layout(name = this.laidOut) {
    this.laidOut = name;
    const type = { axial: 0, coronal: 1, sagittal: 2, "3d": 4 }[name];
    const tiles = this.renders ? WITH_RENDERING : PLANES;
    this.nv.setCustomLayout(type === undefined ? tiles : [{ sliceType: type, position: [0, 0, 1, 1] }]);
  }

  render(on) {
    this.renders = on;
    this.layout();
  }

  clear() {
    this.nv.volumes = [];
    this.nv.back = null;
    this.nv.overlays = [];
    this.base = this.fill = this.heat = null;
    this.volume = null;
    for (const part in this.turns) this.turns[part]++;
    this.nv.drawScene();
  }

  // The image below everything; `volume` is an instance of nifti.Volume. Returns whether it is shown.
  async image(volume, window, keep) {
    const base = await this.decoded("image", volume.buffer.slice(0), "image.nii", "gray", 1);
    if (!base) return false;
    [base.cal_min, base.cal_max] = window;
    const place = keep && this.volume ? this.mm : null;
    this.base = base;
    this.volume = volume;
    this.arrange(0);
    if (place) this.moveTo(place);
    else this.moveTo(volume.world(volume.dims.map((n) => (n - 1) / 2)));
    return true;
  }

  window(low, high) {
    if (!this.base) return;
    this.base.cal_min = low;
    this.base.cal_max = high;
    this.arrange(0);
  }

  async filled(layer, opacity) {
    const fill = await this.decoded("fill", layer?.volume.withIndices(layer.indices), "fill.nii", "gray", opacity);
    if (fill === undefined) return;
    fill?.setColormapLabel(palette(layer.colors));
    this.fill = fill;
    this.arrange(1);
  }

  opacity(value) {
    if (!this.fill) return;
    this.fill.opacity = value;
    this.arrange(1);
  }

  async heated(volume, opacity) {
    const heat = await this.decoded("heat", volume?.buffer.slice(0), "saliency.nii", "mambamed_hot", opacity);
    if (heat === undefined) return;
    if (heat) {
      const [, high] = volume.range();
      heat.cal_min = 0.2 * high || 0.2;
      heat.cal_max = high || 1;
    }
    this.heat = heat;
    this.arrange(1);
  }

  // Send the volumes from this one on to the graphics card; the image is 0.
  arrange(first) {
    const { nv } = this;
    if (!this.base) return;
    nv.volumes = [this.base, ...[this.fill, this.heat].filter(Boolean)];
    nv.back = this.base;
    nv.overlays = nv.volumes.slice(1);
    const from = nv.volumes.length === 1 ? 0 : first; // it is the image that tells the shader that it is alone
    nv.volumes.forEach((volume, layer) => {
      if (layer >= from) nv.refreshLayers(volume, layer);
    });
    nv.furthestVertexFromOrigin = nv.volumeObject3D?.furthestVertexFromOrigin ?? 0;
    nv.drawScene();
  }

  // World mm of the cross.
  get mm() {
    const [x, y, z] = this.nv.scene.crosshairPos;
    return this.volume.world([x, y, z].map((share, k) => share * this.volume.dims[k] - 0.5));
  }

  moveTo(mm) {
    const voxel = this.volume.voxel(mm);
    const share = voxel.map((x, k) => Math.min(Math.max((x + 0.5) / this.volume.dims[k], 0), 0.999999));
    this.nv.scene.crosshairPos = share;
    this.nv.drawScene();
    this.onMove();
  }

  // Move the cross by whole slices along an axis of the image.
  step(axis, by) {
    const voxel = this.volume.voxel(this.mm).map((x) => Math.round(x));
    voxel[axis] = Math.min(Math.max(voxel[axis] + by, 0), this.volume.dims[axis] - 1);
    this.moveTo(this.volume.world(voxel));
  }

  reset() {
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
    this.nv.setRenderAzimuthElevation(110, 15);
  }

  // The planes in sight: the axes u (across) and v (up) of the image, its slice, and voxel -> pixel.
  planes() {
    const found = [];
    if (!this.volume) return found;
    this.nv.screenSlices.forEach((tile, index) => {
      if (tile.axCorSag > 2) return;
      const [left, top, width, height] = tile.leftTopWidthHeight;
      const axis = [2, 1, 0][tile.axCorSag];
      const [u, v] = [0, 1, 2].filter((k) => k !== axis);
      // Two points inside of the tile say how it is scaled and mirrored.
      const inside = (share) => this.nv.screenXY2TextureFrac(left + width * share, top + height * share, index, false);
      const [near, far] = [inside(0.25), inside(0.75)];
      const along = (k, start, size) => {
        const slope = (far[k] - near[k]) / (0.5 * size);
        return (vox) => start + 0.25 * size + ((vox[k] + 0.5) / this.volume.dims[k] - near[k]) / slope;
      };
      const [across, up] = [along(u, left, width), along(v, top, height)];
      const slice = Math.round(this.volume.voxel(this.mm)[axis]);
      found.push({ axis, u, v, slice, box: [left, top, width, height], pixel: (vox) => [across(vox), up(vox)], mirrored: far[u] < near[u] });
    });
    return found;
  }
}

// NiiVue computes the gradients of every image, which takes seconds without a graphics card, also when the
// rendering is not lit. They begin with its blur shader and are followed by its render shader.
function withoutGradients(nv) {
  let skipped = false;
  const { gl, blurShader, renderShader } = nv;
  const [draw, blur, render] = [gl.drawArrays.bind(gl), blurShader.use.bind(blurShader), renderShader.use.bind(renderShader)];
  gl.drawArrays = (...given) => { if (!skipped) draw(...given); };
  blurShader.use = (...given) => { blur(...given); skipped = true; };
  renderShader.use = (...given) => { render(...given); skipped = false; };
}

function palette(colors) {
  const parts = [[0, 0, 0], ...colors.map((text) => [1, 3, 5].map((k) => parseInt(text.slice(k, k + 2), 16)))];
  const column = (k) => parts.map((part) => part[k]);
  return { R: column(0), G: column(1), B: column(2), A: parts.map((_, k) => (k ? 255 : 0)), I: parts.map((_, k) => k), labels: parts.map((_, k) => `${k}`) };
}
