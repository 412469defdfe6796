// Paths through latent space that keep the norm of the latents; `slerp` is that of ganctl/common/interpolation.py.

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const norm = (a) => Math.sqrt(dot(a, a));

// Spherical interpolation from a to b, Float32Array [D], at the fraction t in [0, 1]; linear where their angle is 0 or 180°.
export function slerp(a, b, t) {
  const cosine = dot(a, b) / Math.max(norm(a) * norm(b), 1e-12);
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const sine = Math.sin(angle), linear = sine < 1e-6;
  const weightA = linear ? 1 - t : Math.sin((1 - t) * angle) / sine;
  const weightB = linear ? t : Math.sin(t * angle) / sine;
  return a.map((value, i) => weightA * value + weightB * b[i]);
}

// The segment of a closed walk at a position from 0 to `keyframes`: the keyframes before and after it, and the fraction between.
export function segment(position, keyframes) {
  const previous = Math.floor(position);
  return [previous % keyframes, (previous + 1) % keyframes, position - previous];
}

// The latent at (x, y) of the plane z + x·u + y·v, scaled to the norm of z. At (0, 0) it is z itself.
export function onPlane(z, u, v, x, y) {
  if (x === 0 && y === 0) return z;
  const point = Float64Array.from(z, (value, i) => value + x * u[i] + y * v[i]);
  const scale = norm(z) / Math.max(norm(point), 1e-12);
  return z.map((_, i) => scale * point[i]);
}
