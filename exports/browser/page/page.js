// The page: reads the form, draws the pictures, and keeps the form in the fragment of the address.
import {onPlane, segment, slerp} from "./interpolation.js";
import {MAX_SEED, drawLabels, latents, truncate} from "./latents.js";
import {makePad} from "./pad.js";
import {tile, toImageData} from "./pixels.js";
import {encodePng} from "./png.js";

const $ = (id) => document.getElementById(id);
const form = $("form");
const KEYFRAMES = 8, KEYFRAMES_PER_SECOND = 0.5;
const WIDTH = 448; // pixels; the first pictures, four in a row, are about this wide
const COLUMNS_OF_LABELS = 12;

// (module (func (result v128) i32.const 0 i8x16.splat i8x16.popcnt)): valid only with SIMD
const SIMD_MODULE = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

function missingFeatures() {
  const missing = [];
  if (typeof WebAssembly !== "object") missing.push("WebAssembly");
  else if (!WebAssembly.validate(Uint8Array.from(SIMD_MODULE))) missing.push("WebAssembly with SIMD");
  if (typeof DecompressionStream !== "function") missing.push("DecompressionStream");
  return missing;
}

function notify(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

class Pictures {
  constructor(generator) {
    this.generator = generator;
    this.manifest = generator.manifest;
    this.shape = generator.manifest.image;
    this.busy = this.pending = false;
    this.drawn = null; // what the canvas shows: images, columns, seed
    this.rows = new Map(); // latents of recent seeds
  }

  chosenLabels() {
    return [...form.querySelectorAll("[name=digits]:checked")].map((box) => Number(box.value));
  }

  latentsOf(seed, count) {
    const key = `${seed} ${count}`;
    if (!this.rows.has(key)) {
      if (this.rows.size > 2 * KEYFRAMES) this.rows.clear();
      this.rows.set(key, latents(seed, count, this.manifest.z.dim));
    }
    return this.rows.get(key);
  }

  // The latents and labels that the form describes, as `ganctl sample --seed` draws them if the walk and the pad are at rest.
  inputs() {
    const seed = Number($("seed").value), count = Number($("count").value);
    const [previous, next, fraction] = segment(Number($("walk").value), KEYFRAMES);
    const seedOf = (keyframe) => keyframe ? Math.min(seed, MAX_SEED - KEYFRAMES) + keyframe : seed;
    const starts = this.latentsOf(seedOf(previous), count), ends = fraction ? this.latentsOf(seedOf(next), count) : starts;
    const [u, v] = this.latentsOf(pad.seed, 2), truncation = Number($("truncation").value);
    const rows = starts.map((start, i) => {
      const z = fraction ? slerp(start, ends[i], fraction) : start;
      return truncate(onPlane(z, u, v, pad.x, pad.y), truncation);
    });
    const chosen = this.chosenLabels();
    const labels = chosen.length ? rows.map((_, i) => chosen[i % chosen.length]) : drawLabels(seed, count, this.manifest.class_names.length);
    const columns = chosen.length > 1 && chosen.length <= COLUMNS_OF_LABELS ? Math.min(chosen.length, count) : Math.ceil(Math.sqrt(count));
    return {rows, labels, columns, seed};
  }

  // One drawing at a time: changes during a drawing lead to one more, so that a slider does not queue work.
  async draw() {
    this.pending = true;
    if (this.busy) return;
    this.busy = true;
    while (this.pending) {
      this.pending = false;
      if (showInvalidFields()) continue;
      try {
        await this.drawOnce();
        $("error").textContent = "";
      } catch (error) {
        stop();
        $("error").textContent = `The pictures could not be drawn: ${error.message}`;
      }
      await new Promise(requestAnimationFrame);
    }
    this.busy = false;
  }

  async drawOnce() {
    const started = performance.now();
    const {rows, labels, columns, seed} = this.inputs(), {width, height} = this.shape;
    const canvas = $("canvas"), context = canvas.getContext("2d"), images = [];
    const size = [columns * width, Math.ceil(rows.length / columns) * height];
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    canvas.style.width = `${size[0] * Number($("scale").value)}px`;
    for await (const part of this.generator.draw(rows, labels)) {
      for (const image of part) {
        context.putImageData(toImageData(image, this.shape), (images.length % columns) * width, Math.floor(images.length / columns) * height);
        images.push(image);
      }
    }
    const milliseconds = performance.now() - started;
    for (let cell = images.length; cell < columns * size[1] / height; cell++) {
      context.clearRect((cell % columns) * width, Math.floor(cell / columns) * height, width, height);
    }
    this.drawn = {images, columns, seed};
    const chosen = this.manifest.conditional ? ` of ${[...new Set(labels)].map((label) => this.manifest.class_names[label]).join(", ")}` : "";
    canvas.setAttribute("aria-label", `${images.length} pictures${chosen}, seed ${seed}`);
    $("status").textContent = `${images.length} picture${images.length === 1 ? "" : "s"} · ${milliseconds.toFixed(0)} ms · ${(1000 * images.length / milliseconds).toFixed(0)} pictures/s`;
  }

  async download() {
    if (!this.drawn) return;
    const {images, columns, seed} = this.drawn;
    const {pixels, width, height} = tile(images, this.shape, columns, Number($("scale").value));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await encodePng(pixels, width, height, this.shape.channels));
    link.download = `pictures-${seed}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

let pictures, pad;
let playing = null; // an object for each time that the walk plays, so that a loop sees that it was paused

function showInvalidFields() {
  for (const field of form.querySelectorAll("[type=number]")) {
    const valid = field.checkValidity();
    field.setAttribute("aria-invalid", !valid);
    $(`error-${field.id}`).textContent = valid ? "" : `Expected a whole number from ${field.min} to ${field.max}.`;
  }
  return !form.checkValidity();
}

function changed() {
  for (const output of form.querySelectorAll("output[for]")) {
    const field = $(output.htmlFor.value);
    if (field.type === "range") output.textContent = field.id === "walk" ? `${Number(field.value).toFixed(2)} of ${KEYFRAMES}` : field.value;
  }
  return pictures.draw();
}

// The fragment keeps the pictures for a reload or a bookmark. Browsers limit how often it may change, so not during a drag.
function save() {
  const fields = new URLSearchParams();
  for (const name of ["seed", "count", "truncation", "scale", "walk"]) fields.set(name, $(name).value);
  const chosen = pictures.chosenLabels();
  if (chosen.length) fields.set("digits", chosen);
  if (pad.x || pad.y) fields.set("pad", [pad.x, pad.y]);
  if (pad.seed) fields.set("plane", pad.seed);
  history.replaceState(null, "", `#${fields}`);
}

function restore() {
  const fields = new URLSearchParams(location.hash.slice(1));
  for (const name of ["seed", "count", "truncation", "scale", "walk"]) if (fields.has(name)) $(name).value = fields.get(name);
  const chosen = (fields.get("digits") ?? "").split(",");
  for (const box of form.querySelectorAll("[name=digits]")) box.checked = chosen.includes(box.value);
  const [x, y] = (fields.get("pad") ?? "0,0").split(",").map(Number);
  const seed = Number(fields.get("plane") ?? 0);
  pad.seed = Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED ? seed : 0;
  if (!fields.has("seed")) newSeed();
  pad.moveTo(x || 0, y || 0);
}

function newSeed() {
  $("seed").value = Math.floor(Math.random() * 1e6);
  $("walk").value = 0;
}

function stop() {
  playing = null;
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", "false");
}

async function play() {
  if (playing) {
    stop();
    return save();
  }
  const mine = playing = {};
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-pressed", "true");
  let before = performance.now();
  while (true) {
    await new Promise(requestAnimationFrame);
    if (playing !== mine) return;
    const now = performance.now(), step = Math.min(0.25, (now - before) / 1000 * KEYFRAMES_PER_SECOND);
    before = now;
    $("walk").value = (Number($("walk").value) + step) % KEYFRAMES;
    await changed();
  }
}

function describe({model_version, image, conditional, class_names, browser}) {
  const text = class_names.length > 0 && conditional && class_names.every((name) => [...name].length === 1);
  document.title = $("title").textContent = text ? "Handwriting from a neural network" : "Pictures from a neural network";
  const colors = {1: "grayscale", 3: "color", 4: "color with transparency"}[image.channels];
  const labels = conditional ? `, ${class_names.length} labels` : "";
  const facts = [`Model ${model_version} (${browser.model})`, `${image.width} × ${image.height} pixels, ${colors}${labels}`];
  const credit = ["Training images", browser.title, browser.authors && `by ${browser.authors}`, browser.license && `license ${browser.license}`];
  facts.push(credit.filter(Boolean).join(", ").replace(",", ""), `runs with ONNX Runtime Web ${browser.runtime}`);
  $("footer").textContent = facts.join(" · ");
}

function fillForm({image, conditional, class_names}) {
  $("labels").hidden = !conditional;
  for (const [label, name] of conditional ? class_names.entries() : []) {
    const chip = document.createElement("label"), box = document.createElement("input");
    chip.className = "chip";
    box.type = "checkbox";
    box.name = "digits";
    box.value = label;
    chip.append(box, name);
    $("chips").append(chip);
  }
  $("seed").max = MAX_SEED;
  $("walk").max = KEYFRAMES;
  $("scale").value = $("scale").defaultValue = Math.max(1, Math.min(16, Math.round(WIDTH / (4 * image.width))));
  $("plate").classList.toggle("checkered", image.channels === 4);
}

function listen() {
  form.addEventListener("input", changed);
  form.addEventListener("change", save);
  form.addEventListener("submit", (event) => event.preventDefault());
  $("new-seed").addEventListener("click", () => {
    newSeed();
    save();
    changed();
  });
  $("new-plane").addEventListener("click", () => {
    pad.seed = Math.floor(Math.random() * 1e6);
    save();
    changed();
  });
  $("center").addEventListener("click", () => pad.moveTo(0, 0));
  $("play").addEventListener("click", play);
  $("download").addEventListener("click", () => pictures.download().catch((error) => { $("error").textContent = error.message; }));
  addEventListener("hashchange", () => { // another bookmark in the same tab
    form.reset();
    restore();
    changed();
  });
}

async function start() {
  const missing = missingFeatures();
  if (missing.length) return notify(`This browser lacks ${missing.join(" and ")}. Use Chrome or Edge 91, Firefox 113, Safari 16.4, or a later version.`);
  notify("Loading …");
  const {loadGenerator} = await import("./generator.js");
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
  const generator = await loadGenerator((loaded, total) => notify(`Loading ${megabytes(loaded)} of ${megabytes(total)} MB …`));
  describe(generator.manifest);
  fillForm(generator.manifest);
  pad = makePad($("pad"), changed, save);
  pictures = new Pictures(generator);
  restore();
  listen();
  form.hidden = false;
  await changed();
  notify("");
}

start().catch((error) => notify(`The generator could not be loaded: ${error.message}`));
