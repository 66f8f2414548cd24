"use strict";
// A mask of whole pixels, and the brush on it. It never reads a canvas back: some browsers add noise to that.

class Mask {
  constructor(width, height, runs = []) {
    this.width = width;
    this.height = height;
    this.pixels = new Uint8Array(width * height);
    for (let i = 0; i < runs.length; i += 2) this.pixels.fill(1, runs[i], runs[i] + runs[i + 1]);
  }

  runs() {
    const runs = [], end = this.pixels.length;
    for (let start = this.pixels.indexOf(1); start >= 0; start = this.pixels.indexOf(1, start)) {
      let stop = start;
      while (stop < end && this.pixels[stop]) stop++;
      runs.push(start, stop - start);
      start = stop;
    }
    return runs;
  }

  get(x, y) {
    return x >= 0 && y >= 0 && x < this.width && y < this.height && this.pixels[y * this.width + x] === 1;
  }

  // A disc of `size` pixels across, whose middle pixel is (x, y); size 1 is that pixel.
  stamp(x, y, size, value) {
    const radius = size / 2, from = -Math.floor((size - 1) / 2), shift = size % 2 ? 0 : -0.5;
    for (let dy = from; dy < from + size; dy++)
      for (let dx = from; dx < from + size; dx++) {
        const inside = (dx + shift) ** 2 + (dy + shift) ** 2 <= radius ** 2;
        const column = x + dx, row = y + dy;
        if (inside && column >= 0 && row >= 0 && column < this.width && row < this.height)
          this.pixels[row * this.width + column] = value;
      }
  }

  line(from, to, size, value) {
    const steps = Math.max(Math.abs(to.x - from.x), Math.abs(to.y - from.y), 1);
    for (let i = 0; i <= steps; i++)
      this.stamp(Math.round(from.x + (to.x - from.x) * i / steps), Math.round(from.y + (to.y - from.y) * i / steps), size, value);
  }

  // The edges between target and background, as [x0, y0, x1, y1] in pixels' corners.
  edges() {
    const edges = [];
    for (let i = this.pixels.indexOf(1); i >= 0; i = this.pixels.indexOf(1, i + 1)) {
      const x = i % this.width, y = (i - x) / this.width;
      if (!this.get(x, y - 1)) edges.push([x, y, x + 1, y]);
      if (!this.get(x, y + 1)) edges.push([x, y + 1, x + 1, y + 1]);
      if (!this.get(x - 1, y)) edges.push([x, y, x, y + 1]);
      if (!this.get(x + 1, y)) edges.push([x + 1, y, x + 1, y + 1]);
    }
    return edges;
  }
}

// Where the frame is on the screen: a pixel is `scale` wide, and (x, y) is the frame's corner.
class View {
  constructor(canvas) { this.canvas = canvas; this.scale = 1; this.x = this.y = 0; }

  fit(width, height) {
    this.scale = Math.min(this.canvas.width / width, this.canvas.height / height) * 0.98;
    this.x = (this.canvas.width - width * this.scale) / 2;
    this.y = (this.canvas.height - height * this.scale) / 2;
  }

  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    factor = Math.min(Math.max(this.scale * factor, 0.05), 80) / this.scale;
    this.x = x - (x - this.x) * factor;
    this.y = y - (y - this.y) * factor;
    this.scale *= factor;
  }

  closeUp([x, y, width, height]) {
    this.scale = Math.min(this.canvas.width, this.canvas.height) / (Math.max(width, height) + 24);
    this.x = this.canvas.width / 2 - (x + width / 2) * this.scale;
    this.y = this.canvas.height / 2 - (y + height / 2) * this.scale;
  }

  pixel(event) {
    const box = this.canvas.getBoundingClientRect(), ratio = this.canvas.width / box.width;
    return {
      x: Math.floor(((event.clientX - box.left) * ratio - this.x) / this.scale),
      y: Math.floor(((event.clientY - box.top) * ratio - this.y) / this.scale),
    };
  }
}
