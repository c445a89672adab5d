// Prepare an image file for the vision tower, with the pixel values of Pillow and the image processor. A canvas would
// resize with the browser's own filters.
"use strict";

const BITS = 22; // of a weight's fraction, as in Pillow's Resample.c for 8 bits a channel

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0);
const FILTERS = { // PIL.Image.Resampling: its number -> half width, weight at a distance
  1: { support: 3, weight: (x) => (x < 3 ? sinc(x) * sinc(x / 3) : 0) },
  2: { support: 1, weight: (x) => (x < 1 ? 1 - x : 0) },
  3: { support: 2, weight: cubic },
};

// For each pixel of the new line: the first old pixel that it reads, and the integer weights of that and the next ones.
function resizeWeights(before, after, filter) {
  const scale = before / after;
  const stretch = Math.max(scale, 1); // smaller: the filter covers all old pixels (antialias)
  const support = filter.support * stretch;
  return Array.from({ length: after }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(before, Math.trunc(centre + support + 0.5));
    const weights = new Float64Array(end - first);
    let sum = 0;
    for (let k = 0; k < weights.length; k++) {
      weights[k] = filter.weight(Math.abs((k + first - centre + 0.5) / stretch));
      sum += weights[k];
    }
    const whole = Int32Array.from(weights, (weight) => {
      const value = (weight / sum) * 2 ** BITS;
      return Math.trunc(value < 0 ? value - 0.5 : value + 0.5);
    });
    return { first, weights: whole };
  });
}

function resizeWidth({ width, height, data }, newWidth, filter) {
  if (newWidth === width) return { width, height, data };
  const plan = resizeWeights(width, newWidth, filter);
  const to = new Uint8Array(newWidth * height * 3);
  let next = 0;
  for (let line = 0; line < height; line++) {
    for (const { first, weights } of plan) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** (BITS - 1);
        let at = (line * width + first) * 3 + channel;
        for (let k = 0; k < weights.length; k++, at += 3) sum += data[at] * weights[k];
        to[next++] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** BITS)));
      }
    }
  }
  return { width: newWidth, height, data: to };
}

function transpose({ width, height, data }) {
  const to = new Uint8Array(data.length);
  let next = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      for (let channel = 0; channel < 3; channel++) to[next++] = data[(y * width + x) * 3 + channel];
    }
  }
  return { width: height, height: width, data: to };
}

const resizeHeight = (image, newHeight, filter) => transpose(resizeWidth(transpose(image), newHeight, filter));

// {width, height, data: RGB bytes} -> the same of another size, bit for bit as PIL.Image.resize. Bytes are rounded
// between the two directions, so their order counts: before Pillow 13 the width comes first. Pillow 13 (`tallFirst`) starts
// with the height if that loses more than twice as many pixels as the width (found by trying all orders).
function resize(image, newWidth, newHeight, resample, tallFirst) {
  const filter = FILTERS[resample];
  const lost = image.height - newHeight;
  if (tallFirst && lost > 0 && lost > 2 * (image.width - newWidth)) {
    return resizeWidth(resizeHeight(image, newHeight, filter), newWidth, filter);
  }
  return resizeHeight(resizeWidth(image, newWidth, filter), newHeight, filter);
}

// RGB image -> RGB image of the tower's size. `size`: [height, width], or one number for the shorter edge.
function fit(image, { size, crop, resample, tall_first: tallFirst }) {
  const { width, height } = image;
  const short = Math.min(width, height);
  const long = (edge) => Math.trunc((size * edge) / short);
  const [newHeight, newWidth] = Array.isArray(size)
    ? size
    : [height <= width ? size : long(height), width <= height ? size : long(width)];
  const resized = resize(image, newWidth, newHeight, resample, tallFirst);
  if (crop === null) return resized;
  const [cropHeight, cropWidth] = crop;
  const top = Math.floor((newHeight - cropHeight) / 2);
  const left = Math.floor((newWidth - cropWidth) / 2);
  const data = new Uint8Array(cropHeight * cropWidth * 3);
  for (let line = 0; line < cropHeight; line++) {
    const start = ((top + line) * newWidth + left) * 3;
    data.set(resized.data.subarray(start, start + cropWidth * 3), line * cropWidth * 3);
  }
  return { width: cropWidth, height: cropHeight, data };
}

// RGB image -> Float32Array (3, H, W).
function normalise({ width, height, data }, { mean, std }) {
  const area = width * height;
  const values = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel++) {
    for (let place = 0; place < area; place++) {
      values[channel * area + place] = (data[3 * place + channel] / 255 - mean[channel]) / std[channel];
    }
  }
  return values;
}

// File -> RGB image, rotated by its EXIF orientation, transparency on white.
async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name} is not an image that this browser can read; choose a JPEG, PNG or WebP.`);
  }
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    data[to++] = rgba[from];
    data[to++] = rgba[from + 1];
    data[to++] = rgba[from + 2];
  }
  return { width, height, data };
}
