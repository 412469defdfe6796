// Loads a generator and runs it in this browser, with ONNX Runtime Web on one thread.
import * as ort from "./runtime/ort.wasm.bundle.min.js";
import {toPixels} from "./pixels.js";

const IMAGES_PER_RUN = 8;
const PATIENCE = 50; // milliseconds without a chance for the page to react

class Generator {
  constructor(manifest, session) {
    this.manifest = manifest;
    this.session = session;
  }

  // Draws images of latents, Float32Array [D] each, and labels, numbers. Yields lists of images [H, W, C], Uint8Array.
  async* draw(latents, labels) {
    const dim = this.manifest.z.dim;
    let reacted = performance.now();
    for (let start = 0; start < latents.length; start += IMAGES_PER_RUN) {
      const rows = latents.slice(start, start + IMAGES_PER_RUN), z = new Float32Array(rows.length * dim);
      rows.forEach((row, i) => z.set(row, i * dim));
      const feeds = {z: new ort.Tensor("float32", z, [rows.length, dim])};
      if (this.manifest.conditional) {
        const label = BigInt64Array.from(labels.slice(start, start + IMAGES_PER_RUN), BigInt);
        feeds.label = new ort.Tensor("int64", label, [rows.length]);
      }
      const {[this.manifest.output]: image} = await this.session.run(feeds);
      yield toPixels(image.data, this.manifest.image);
      image.dispose();
      if (performance.now() - reacted > PATIENCE) {
        await new Promise((resolve) => setTimeout(resolve));
        reacted = performance.now();
      }
    }
  }
}

async function request(path, options) {
  const reply = await fetch(path, options);
  if (!reply.ok) throw new Error(`${path}: the server replied with status ${reply.status}.`);
  return reply;
}

// Fetches a compressed file. `onBytes` receives the number of bytes of each part.
async function download(path, version, signal, onBytes) {
  const reply = await request(`${path}?v=${version}`, {signal}), parts = [];
  const reader = reply.body.getReader();
  for (let part; !(part = await reader.read()).done;) {
    parts.push(part.value);
    onBytes(part.value.length);
  }
  const file = new Blob(parts), [first, second] = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  // a server that declares `Content-Encoding: gzip` for such a file makes the browser decompress it
  const compressed = first === 0x1F && second === 0x8B;
  return new Uint8Array(await (compressed ? new Response(file.stream().pipeThrough(new DecompressionStream("gzip"))) : file).arrayBuffer());
}

// Loads the manifest, the runtime and the model. `onProgress` receives the bytes loaded and their total.
export async function loadGenerator(onProgress = () => {}) {
  const manifest = await (await request("manifest.json", {cache: "no-cache"})).json();
  const {model, runtime, bytes} = manifest.browser;
  let loaded = 0;
  const onBytes = (count) => onProgress(loaded += count, bytes);
  const abort = new AbortController(); // if one file is missing, the other one is not loaded to its end
  const [wasm, network] = await Promise.all([
    download("runtime/ort-wasm-simd-threaded.wasm.gz", runtime, abort.signal, onBytes),
    download(`${model}.gz`, manifest.model_version, abort.signal, onBytes),
  ]).catch((error) => {
    abort.abort();
    throw error;
  });
  ort.env.wasm.numThreads = 1; // more need headers of the server for cross-origin isolation
  ort.env.wasm.wasmBinary = wasm;
  return new Generator(manifest, await ort.InferenceSession.create(network, {executionProviders: ["wasm"]}));
}
