// Latents and labels from a seed: the same numbers as ganctl/common/latents.py draws.

export const MAX_SEED = Number.MAX_SAFE_INTEGER; // 2^53 - 1

const Z_STREAM = 0n, LABEL_STREAM = 1n;
const UNIT = 2 ** -53;
const MASK = (1n << 64n) - 1n;
// constants of Philox 4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
const MULTIPLIER_0 = 0xD2E7470EE14C6C93n, MULTIPLIER_1 = 0xCA5A826395121157n;
const WEYL_0 = 0x9E3779B97F4A7C15n, WEYL_1 = 0xBB67AE8584CAA73Bn;
const ROUNDS = 10, WORDS_PER_BLOCK = 4;

// The four words of a block, as BigInt. NumPy increments the counter first, so the first block has the counter 1.
function philox(block, seed, stream) {
  let a = BigInt(block) + 1n, b = 0n, c = 0n, d = 0n, key0 = BigInt(seed), key1 = stream;
  for (let round = 0; round < ROUNDS; round++) {
    const product0 = MULTIPLIER_0 * a, product1 = MULTIPLIER_1 * c;
    [a, b, c, d] = [(product1 >> 64n) ^ b ^ key0, product1 & MASK, (product0 >> 64n) ^ d ^ key1, product0 & MASK];
    key0 = (key0 + WEYL_0) & MASK;
    key1 = (key1 + WEYL_1) & MASK;
  }
  return [a, b, c, d];
}

// The first `count` words of a stream as numbers in [0, 1): Float64Array [count].
function uniform(seed, stream, count) {
  if (!Number.isInteger(seed) || seed < 0 || seed > MAX_SEED) throw new RangeError(`seed: found ${seed}, expected 0 to ${MAX_SEED}`);
  const numbers = new Float64Array(count);
  for (let start = 0; start < count; start += WORDS_PER_BLOCK) {
    const words = philox(start / WORDS_PER_BLOCK, seed, stream);
    for (let i = 0; i < Math.min(WORDS_PER_BLOCK, count - start); i++) numbers[start + i] = Number(words[i] >> 11n) * UNIT;
  }
  return numbers;
}

// Standard normal latents by the Box-Muller transform: `count` rows, each Float32Array [dim]. Row i never depends on `count`.
export function latents(seed, count, dim) {
  const half = Math.ceil(dim / 2), width = 2 * half;
  const words = uniform(seed, Z_STREAM, count * width);
  return Array.from({length: count}, (_, row) => {
    const z = new Float32Array(dim);
    for (let i = 0; i < half; i++) {
      const radius = Math.sqrt(-2 * Math.log1p(-words[row * width + i]));
      const angle = 2 * Math.PI * words[row * width + half + i];
      z[i] = radius * Math.cos(angle);
      if (half + i < dim) z[half + i] = radius * Math.sin(angle);
    }
    return z;
  });
}

// Labels from 0 to classes - 1, drawn uniformly: an array of `count` numbers. Label i never depends on `count`.
export function drawLabels(seed, count, classes) {
  return Array.from(uniform(seed, LABEL_STREAM, count), (number) => Math.floor(number * classes));
}

// Pulls a latent towards the mean, 0, in float32.
export function truncate(z, truncation) {
  const factor = Math.fround(truncation);
  return z.map((value) => value * factor);
}
