// Rounding to 8 bits and tiling, as in ganctl/common/pixels.py.

// Rounds images [N, C, H, W] in [0, 1], Float32Array, to a list of N images [H, W, C], Uint8Array.
export function toPixels(values, {channels, height, width}) {
  const area = height * width, size = channels * area;
  return Array.from({length: values.length / size}, (_, n) => {
    const pixels = new Uint8Array(size);
    for (let c = 0; c < channels; c++) {
      for (let i = 0; i < area; i++) {
        const level = Math.fround(Math.min(1, Math.max(0, values[n * size + c * area + i])) * 255);
        pixels[i * channels + c] = Math.fround(level + 0.5);
      }
    }
    return pixels;
  });
}

// Tiles images [H, W, C] row by row, each pixel enlarged to scale × scale. Empty cells are black, or transparent with alpha.
export function tile(images, {channels, height, width}, columns, scale) {
  const rows = Math.ceil(images.length / columns);
  const total = {width: columns * width * scale, height: rows * height * scale};
  const pixels = new Uint8Array(total.width * total.height * channels);
  for (let y = 0; y < total.height; y++) {
    const row = Math.floor(y / (height * scale)), lineOfImage = Math.floor(y / scale) % height;
    for (let x = 0; x < total.width; x++) {
      const image = images[row * columns + Math.floor(x / (width * scale))];
      if (!image) continue;
      const source = (lineOfImage * width + Math.floor(x / scale) % width) * channels;
      for (let c = 0; c < channels; c++) pixels[(y * total.width + x) * channels + c] = image[source + c];
    }
  }
  return {pixels, ...total};
}

// Converts pixels [H, W, C] to an ImageData, which is always RGBA.
export function toImageData(pixels, {channels, height, width}) {
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = pixels[i * channels + (channels === 1 ? 0 : c)];
    data.data[4 * i + 3] = channels === 4 ? pixels[i * channels + 3] : 255;
  }
  return data;
}
