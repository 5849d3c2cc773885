// What the modules of all explorers share: numbers as Python writes them, controls, panels of a figure, and
// `explorer`, which makes of a module what anywidget and a page without a kernel can show.

// ---- numbers

/** The nearest integer; halves go to the even one, as in Python and NumPy. */
export const rint = (x) => (Math.abs(x) < 2 ** 51 ? x + 2 ** 52 * 1.5 - 2 ** 52 * 1.5 : x);

/** x with so many decimals, as Python's `:.2f` writes it: of two equally near ones the even one. */
export function fixed(x, decimals) {
  const scaled = x * 10 ** decimals;
  const isHalf = Number.isInteger(x * 2 ** (decimals + 1)) && Math.abs(scaled % 1) === 0.5;
  return isHalf ? (rint(scaled) / 10 ** decimals).toFixed(decimals) : x.toFixed(decimals);
}

/** x with so many digits, as Python's `:.3g` writes it. */
export function general(x, digits = 6) {
  if (x === 0) return "0";
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "nan" : x > 0 ? "inf" : "-inf";
  let power = Number(x.toExponential(digits - 1).split("e")[1]);
  if (power < -4 || power >= digits) {
    const [mantissa, exponent] = x.toExponential(digits - 1).split("e");
    const short = mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa;
    return `${short}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
  }
  const text = fixed(x, digits - 1 - power);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/** A share as percent with so many decimals. It is rounded to 9 digits first, so that sums in any order agree. */
export const percent = (share, decimals = 0) =>
  `${fixed(100 * (Math.round(share * 1e9) / 1e9), decimals)}%`;

/** A count with commas between the thousands. */
export const commas = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, ",");

/** "1 bit", "8 bits". */
export const many = (count, word) => `${commas(count)} ${word}${count === 1 ? "" : "s"}`;

/** "2^-3" with a raised exponent, for the eye. */
export const raised = (text) => {
  const above = {
    "-": "⁻",
    0: "⁰",
    1: "¹",
    2: "²",
    3: "³",
    4: "⁴",
    5: "⁵",
    6: "⁶",
    7: "⁷",
    8: "⁸",
    9: "⁹",
  };
  return String(text).replace(/\^(-?\d+)/g, (_, digits) =>
    digits.replace(/./g, (one) => above[one]),
  );
};

export const sum = (values) => values.reduce((total, value) => total + value, 0);
export const range = (count) => Array.from({ length: count }, (_, i) => i);
export const largest = (values) =>
  values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

/** The array that Python packed as {dtype, data}; `data` is a DataView from a kernel, base64 text in a page. */
export function unpacked({ dtype, data }) {
  const kind = {
    float64: Float64Array,
    float32: Float32Array,
    uint32: Uint32Array,
    uint16: Uint16Array,
    uint8: Uint8Array,
  }[dtype];
  if (typeof data !== "string")
    return new kind(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
  return new kind(Uint8Array.from(atob(data), (character) => character.charCodeAt(0)).buffer);
}

// ---- tensors: values in groups, ascending. v: mean of a group, n: how many, s: their squared distances to it

export function sample(packed) {
  const v = Float64Array.from(unpacked(packed.v));
  const n = packed.n ? unpacked(packed.n) : new Uint32Array(v.length).fill(1);
  const s = packed.s ? unpacked(packed.s) : new Float64Array(v.length);
  return { v, n, s, size: packed.size, energy: packed.energy, signed: v[0] < 0 };
}

/** What rounding to multiples of `step` within `ends` (in steps) loses, as shares of the sum of squares. */
export function loss({ v, n, s, energy }, step, [low, high]) {
  let rounding = 0,
    clipping = 0,
    clipped = 0;
  for (let i = 0; i < v.length; i++) {
    const code = rint(v[i] / step);
    const error = v[i] - Math.min(Math.max(code, low), high) * step;
    const square = n[i] * error * error + s[i];
    if (code < low || code > high) {
      clipping += square;
      clipped += n[i];
    } else rounding += square;
  }
  return { rounding: rounding / energy, clipping: clipping / energy, clipped };
}

/** The step and the ends (in steps) of a scheme: two's complement. */
export function scheme(bits, exponent, signed) {
  const half = 2 ** (bits - 1);
  return {
    step: 2 ** (exponent - bits + (signed ? 1 : 0)),
    ends: signed ? [-half, half - 1] : [0, 2 * half - 1],
  };
}

/** The corners of x -> Q(x) from view[0] to view[1]. */
export function staircase(step, [low, high], view) {
  const points = [];
  const clip = (code) => Math.min(Math.max(code, low), high) * step;
  let code = Math.ceil(low) - 1;
  points.push([Math.min(view[0], (code + 0.5) * step), clip(code)]);
  for (; code < Math.floor(high) + 1; code++) {
    points.push([(code + 0.5) * step, clip(code)], [(code + 0.5) * step, clip(code + 1)]);
  }
  points.push([Math.max(view[1], points.at(-1)[0]), points.at(-1)[1]]);
  return points;
}

/** Counts of a sample in `bins` parts of the view, in percent of all values. */
export function histogram({ v, n, size }, view, bins) {
  const counts = new Array(bins).fill(0);
  v.forEach((value, i) => {
    const bin = Math.floor(((value - view[0]) / (view[1] - view[0])) * bins);
    if (bin >= 0 && bin < bins) counts[bin] += n[i];
  });
  return counts.map((count) => (100 * count) / size);
}

// ---- randomness: the Mersenne Twister, so that a seed gives the numbers that NumPy's RandomState gives

export function uniforms(seed, count) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++)
    state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 624;
  const next = () => {
    if (at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
  return Float64Array.from(
    { length: count },
    () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53,
  );
}

/** Standard Gumbel noise, -log(-log(U)). */
export const gumbelNoise = (seed, count) =>
  uniforms(seed, count).map((u) => -Math.log(-Math.log(u || 2 ** -54)));

// ---- colours

const MAPS = {
  cividis: "00224e 1a386f 434e6c 61656f 7d7c78 9b9476 bcae6c dec958 fee838",
  viridis: "482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b",
  vlag: "2369bd 678bbe 9baecb cfd4e0 faf5f4 e7c8c6 d39794 bf6765 a9373b",
};

const STOPS = Object.fromEntries(
  Object.entries(MAPS).map(([name, hexes]) => {
    const channels = (hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
    return [name, hexes.split(" ").map(channels)];
  }),
);

/** The colour at a share from 0 to 1 of a colour map. */
export function colour(map, share) {
  const stops = STOPS[map];
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const mixed = stops[low].map((from, i) =>
    Math.round(from + (place - low) * (stops[low + 1][i] - from)),
  );
  return `rgb(${mixed})`;
}

const STYLE = `
.hmq { --ink: #222; --muted: #5c5c5c; --grid: #dedede; --pale: #c4c4c4; --ground: #fff; --face: #f2f4f6;
  --blue: #0173b2; --orange: #b36a00; --green: #018a65; --red: #c94a00;
  color: var(--ink); font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; max-width: 62rem; color-scheme: light }
.hmq.dark { --ink: #e8e8e8; --muted: #a9a9a9; --grid: #3b4046; --pale: #666c74; --ground: #111; --face: #23272c;
  --blue: #5ab4ee; --orange: #f0a940; --green: #35cda0; --red: #ff8a4c; color-scheme: dark }
.hmq * { box-sizing: border-box }
.hmq .controls { display: grid; gap: 2px 24px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr));
  margin: 0 0 6px }
.hmq label { display: grid; grid-template-columns: 9.5em 1fr 4.8em; gap: 8px; align-items: center; min-height: 28px }
.hmq label.switch { grid-template-columns: auto 1fr; justify-items: start }
.hmq label.list { align-items: start; grid-row: span 2 }
.hmq label.list select { grid-column: 2 / 4; width: 100%; color: inherit; background: var(--face); font: inherit;
  border: 1px solid var(--pale); border-radius: 4px }
.hmq label.off { opacity: .45 }
.hmq output { font-variant-numeric: tabular-nums }
.hmq input[type=range] { width: 100%; min-width: 0; accent-color: var(--blue) }
.hmq button { font: inherit; color: inherit; background: var(--face); border: 1px solid var(--pale);
  border-radius: 4px; padding: 3px 12px; min-height: 28px; justify-self: start; cursor: pointer }
.hmq :is(input, select, button):focus-visible { outline: 2px solid var(--blue); outline-offset: 2px }
.hmq .panels { display: flex; flex-wrap: wrap; gap: 6px 10px }
.hmq .panels > div { display: flex; flex-direction: column; gap: 6px }
.hmq svg { display: block; width: 100%; height: auto }
.hmq svg text { fill: var(--ink); font: 12px system-ui, "DejaVu Sans", sans-serif }
.hmq svg .pick { cursor: pointer }
.hmq .said { margin: 8px 0 0; min-height: 4.4em }
.hmq .said.refused { color: var(--red) }
@media (max-width: 480px) { .hmq label { grid-template-columns: 7.5em 1fr 4.4em; min-height: 34px } }`;

// ---- panels

/** An element of SVG or HTML with attributes and a text, appended to a parent. */
export function make(parent, tag, attributes = {}, text) {
  const isHtml = parent.namespaceURI !== SVG && tag !== "svg";
  const element = isHtml ? document.createElement(tag) : document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
const SVG = "http://www.w3.org/2000/svg";

const around = ({ from, to, log }) => (log ? [Math.log(from), Math.log(to)] : [from, to]);

/**
 * One panel: axes that are drawn once, and a group `moving` that each state draws anew.
 * x, y: {from, to, log, label, ticks, texts}. A panel without axes leaves out x and y.
 */
export class Panel {
  constructor(
    root,
    { name, width = 400, height = 290, x, y, left = 50, right = 10, top = 28, bottom = 40 },
  ) {
    Object.assign(this, { x, y, width, height, left, right, top, bottom });
    this.svg = make(root, "svg", {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": name,
    });
    this.still = make(this.svg, "g");
    const id = `hmq${Math.random().toString(36).slice(2)}`;
    const clip = make(make(this.svg, "defs"), "clipPath", { id });
    const inner = { x: left, y: top, width: width - left - right, height: height - top - bottom };
    make(clip, "rect", inner);
    this.moving = make(this.svg, "g", { "clip-path": `url(#${id})` });
    this.over = make(this.svg, "g"); // moves, too, and may leave the axes
    this.heading = make(this.svg, "text", { x: left, y: 16, "font-weight": 600 });
    this.axes();
  }

  X(value) {
    const [from, to] = around(this.x);
    const share = ((this.x.log ? Math.log(value) : value) - from) / (to - from);
    return this.left + share * (this.width - this.left - this.right);
  }

  Y(value) {
    const [from, to] = around(this.y);
    const share = ((this.y.log ? Math.log(value) : value) - from) / (to - from);
    return this.height - this.bottom - share * (this.height - this.top - this.bottom);
  }

  axes() {
    this.still.replaceChildren();
    const { x, y, width, height, left, right, top, bottom } = this;
    const base = height - bottom;
    if (x) this.xTicks(x.ticks ?? [], x.texts, x.grid);
    if (y) this.yTicks(y.ticks ?? [], y.texts, y.grid ?? true);
    const centre = (left + width - right) / 2;
    const middle = (top + base) / 2;
    if (x?.label)
      make(this.still, "text", { x: centre, y: height - 6, "text-anchor": "middle" }, x.label);
    const turned = { transform: `translate(13 ${middle}) rotate(-90)`, "text-anchor": "middle" };
    if (y?.label) make(this.still, "text", turned, y.label);
    const frame = { x: left, y: top, width: width - left - right, height: base - top };
    if (x) make(this.still, "rect", { ...frame, fill: "none", stroke: "var(--pale)" });
  }

  xTicks(ticks, texts, grid) {
    ticks.forEach((tick, i) => {
      const at = this.X(tick);
      const base = this.height - this.bottom;
      if (grid)
        make(this.still, "line", { x1: at, x2: at, y1: this.top, y2: base, stroke: "var(--grid)" });
      const text = raised(texts?.[i] ?? general(tick, 4));
      make(this.still, "text", { x: at, y: base + 15, "text-anchor": "middle" }, text);
    });
  }

  yTicks(ticks, texts, grid) {
    ticks.forEach((tick, i) => {
      const at = this.Y(tick);
      const ends = { x1: this.left, x2: this.width - this.right };
      if (grid) make(this.still, "line", { ...ends, y1: at, y2: at, stroke: "var(--grid)" });
      const text = texts?.[i] ?? general(tick, 4);
      make(this.still, "text", { x: this.left - 5, y: at + 4, "text-anchor": "end" }, text);
    });
  }

  /** Names and looks above the axes: [{text, stroke, dash, marker}]. */
  legend(entries, y = 16) {
    let x = this.left;
    for (const { text, colour: fill, dash, marker } of entries) {
      const line = { x1: x, x2: x + 18, y1: y - 4, y2: y - 4, stroke: fill, "stroke-width": 2.5 };
      if (!marker || dash)
        make(this.still, "line", { ...line, "stroke-dasharray": dash ?? "none" });
      if (marker) this.mark(this.still, x + 9, y - 4, marker, fill, 4.5);
      make(this.still, "text", { x: x + 23, y }, text);
      x += 35 + 6.4 * text.length;
    }
  }

  clear() {
    this.moving.replaceChildren();
    this.over.replaceChildren();
  }

  title(text) {
    this.heading.textContent = text;
  }

  line(points, stroke, more = {}) {
    const path = points
      .map(([x, y]) => `${this.X(x).toFixed(2)} ${this.Y(y).toFixed(2)}`)
      .join("L");
    return make(this.moving, "path", {
      d: `M${path}`,
      fill: "none",
      stroke,
      "stroke-width": 2,
      ...more,
    });
  }

  rect(x0, x1, y0, y1, fill, more = {}) {
    const [left, right] = [this.X(x0), this.X(x1)];
    const [base, top] = [this.Y(y0), this.Y(y1)];
    const place = {
      x: Math.min(left, right),
      width: Math.abs(right - left),
      y: Math.min(base, top),
    };
    return make(this.moving, "rect", { ...place, height: Math.abs(base - top), fill, ...more });
  }

  text(x, y, text, more = {}) {
    return make(
      this.over,
      "text",
      { x: this.X(x), y: this.Y(y) + 4, "text-anchor": "middle", ...more },
      text,
    );
  }

  /** A marker: circle, square, diamond, triangle or down. */
  mark(parent, x, y, kind, fill, size = 5, more = {}) {
    const look = { fill, ...more };
    if (kind === "circle") return make(parent, "circle", { cx: x, cy: y, r: size, ...look });
    const shapes = {
      square: [
        [-1, -1],
        [1, -1],
        [1, 1],
        [-1, 1],
      ],
      diamond: [
        [0, -1.3],
        [1.3, 0],
        [0, 1.3],
        [-1.3, 0],
      ],
      triangle: [
        [0, -1.2],
        [1.1, 0.9],
        [-1.1, 0.9],
      ],
      down: [
        [0, 1.2],
        [1.1, -0.9],
        [-1.1, -0.9],
      ],
    };
    const points = shapes[kind].map(([a, b]) => `${x + a * size},${y + b * size}`).join(" ");
    return make(parent, "polygon", { points, ...look });
  }

  dot(x, y, kind, fill, size, more) {
    return this.mark(this.over, this.X(x), this.Y(y), kind, fill, size, more);
  }

  /**
   * A table of coloured cells, on axes that count rows and columns; the first row is at the bottom.
   * shares: rows of shares from 0 to 1, or null for a cell that is not there. texts: rows of words, or "".
   */
  heat(shares, map, texts, pick) {
    shares.forEach((row, r) =>
      row.forEach((share, c) => {
        if (share === null) return;
        const look = { stroke: "var(--grid)", "stroke-width": 0.6 };
        const cell = this.rect(c, c + 1, r, r + 1, colour(map, share), look);
        if (pick) {
          cell.classList.add("pick");
          cell.addEventListener("click", () => pick(r, c));
        }
        const word = texts?.[r]?.[c];
        const isLight = map === "vlag" ? Math.abs(share - 0.5) < 0.3 : share > 0.45;
        if (word)
          this.text(c + 0.5, r + 0.5, word, {
            style: `fill:${isLight ? "#000" : "#fff"}`,
            "font-size": 11,
          });
      }),
    );
  }

  frame(x0, x1, y0, y1, stroke = "var(--red)") {
    const [x, y] = [this.X(x0), this.Y(y1)];
    const size = { width: this.X(x1) - x, height: this.Y(y0) - y };
    make(this.over, "rect", { x, y, ...size, fill: "none", stroke, "stroke-width": 3 });
  }
}

/** Axes for a table with names of rows and columns. */
export const names = (texts) => ({
  from: 0,
  to: texts.length,
  ticks: range(texts.length).map((i) => i + 0.5),
  texts,
});

// ---- controls

/** The place of a slider for a value of a control, and the value at a place. */
const SCALES = {
  slider: ({ logarithmic }) => ({
    place: (value) => (logarithmic ? Math.log10(value) : value),
    value: (place) => (logarithmic ? 10 ** place : place),
    text: (value) => general(value, 3),
  }),
  choice: ({ options, texts }) => ({
    place: (value) => options.indexOf(value),
    value: (place) => options[place],
    text: (value) => texts[options.indexOf(value)] ?? "",
  }),
};
SCALES.list = SCALES.choice;

/** A control with its name: `show(value, isDead)` shows a value, `chosen(value)` is called when the reader moves it. */
function controlled(root, control, chosen) {
  const { kind, label } = control;
  if (kind === "play") return player(root, control, chosen);
  const outer = make(root, "label", { class: kind });
  if (kind === "switch") {
    const box = make(outer, "input", { type: "checkbox" });
    make(outer, "span", {}, label);
    box.addEventListener("input", () => chosen(box.checked));
    return {
      element: box,
      show: (value, isDead) => ((box.checked = value), off(outer, box, isDead)),
    };
  }
  make(outer, "span", {}, label);
  const scale = SCALES[kind](control);
  if (kind === "list") {
    const list = make(outer, "select", { size: control.rows });
    control.texts.forEach((text, i) => make(list, "option", { value: i }, text));
    list.addEventListener("input", () => chosen(scale.value(list.selectedIndex)));
    return {
      element: list,
      show: (value, isDead) => (
        (list.selectedIndex = scale.place(value)),
        off(outer, list, isDead)
      ),
    };
  }
  const { low = 0, high = control.options?.length - 1, step = 1 } = control;
  const slider = make(outer, "input", { type: "range", min: low, max: high, step });
  const shown = make(outer, "output");
  slider.addEventListener("input", () => chosen(scale.value(Number(slider.value))));
  const show = (value, isDead) => {
    slider.value = scale.place(value);
    const text = scale.text(value);
    shown.value = raised(text);
    slider.setAttribute("aria-valuetext", text);
    off(outer, slider, isDead);
  };
  return { element: slider, show };
}

function off(outer, element, isDead = false) {
  element.disabled = isDead;
  outer.classList.toggle("off", isDead);
}

/** A button that plays: it moves on by itself, or one step where the reader asked for reduced motion. */
function player(root, { label, low, high, milliseconds }, chosen) {
  const button = make(root, "button", { type: "button" });
  let [now, timer] = [low, null];
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = isStill ? "▶ next step" : `▶ ${label}`;
  };
  const next = () => (now < high ? chosen(now + 1) : stop());
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (now >= high) chosen(low);
    if (isStill) return next();
    button.textContent = "⏸ pause";
    timer = setInterval(() => (button.isConnected ? next() : stop()), milliseconds);
  });
  stop();
  return { element: button, show: (value) => (now = value), stop };
}

// ---- an explorer

/** Whether the page behind an element is dark: its first background that is not transparent says so. */
function isDark(element) {
  for (let at = element; at; at = at.parentElement) {
    const numbers = getComputedStyle(at).backgroundColor.match(/[\d.]+/g); // none before it is in a page
    const [r, g, b, alpha = 1] = (numbers ?? [0, 0, 0, 0]).map(Number);
    if (alpha > 0.5) return 0.3 * r + 0.59 * g + 0.11 * b < 128;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/**
 * What anywidget shows. module: {prepare(data), compute(given, state), change(given, state, name, value),
 * read(given, state, name), dead(state), panels(root, given, set), draw(given, panels, result, state, set)}.
 */
export function explorer(module) {
  const { change = (_, state, name, value) => ({ ...state, [name]: value }) } = module;
  const { read = (_, state, name) => state[name], dead = () => [] } = module;

  function render({ model, el }) {
    const data = model.get("data");
    const given = module.prepare(data);
    const root = make(el, "div", { class: "hmq" });
    root.addEventListener("keydown", (event) => event.stopPropagation()); // a notebook has keys, too
    make(root, "style", {}, STYLE);
    const form = make(root, "div", { class: "controls" });
    const figure = make(root, "div", {
      class: "panels",
      role: "group",
      "aria-label": `figure: ${data.title}`,
    });
    const said = make(root, "p", { class: "said", role: "status", "aria-live": "polite" });
    let state = model.get("state");

    // A move: the state changes, all controls and the figure follow, the kernel (or the link) is told.
    const set = (name, value) => {
      state = change(given, state, name, value);
      show();
      model.set("state", state);
      model.save_changes();
    };
    const controls = data.controls.map((control) => {
      return { ...control, ...controlled(form, control, (value) => set(control.name, value)) };
    });
    for (const { element } of controls) element.setAttribute("data-lm-suppress-shortcuts", "");
    const panels = module.panels(figure, given, set);
    const show = () => {
      const greyed = dead(state);
      for (const control of controls)
        control.show(read(given, state, control.name), greyed.includes(control.name));
      const result = module.compute(given, state);
      for (const panel of Object.values(panels).flat()) panel?.clear?.();
      module.draw(given, panels, result, state, set);
      said.textContent = result.sentence;
    };

    // Others move it, too: the kernel, or another view of the same explorer.
    const heard = () => {
      state = model.get("state");
      show();
    };
    model.on("change:state", heard);
    const theme = () => root.classList.toggle("dark", isDark(el));
    const watcher = new MutationObserver(theme);
    for (const part of [document.documentElement, document.body])
      watcher.observe(part, { attributes: true });
    const media = matchMedia("(prefers-color-scheme: dark)");
    media.addEventListener("change", theme);
    theme();
    requestAnimationFrame(theme); // some front ends attach the element later
    show();
    return () => {
      model.off?.("change:state", heard);
      media.removeEventListener("change", theme);
      watcher.disconnect();
      controls.forEach((control) => control.stop?.());
    };
  }
  return { render, module: { ...module, change, read } };
}

// ---- a page without a kernel

/** The values of a state as the end of a link, where they are not those of the page as it is opened. */
export function linked(state, opened) {
  const parts = Object.entries(state).filter(
    ([name, value]) => String(value) !== String(opened[name]),
  );
  const short = (value) =>
    Array.isArray(value) ? value.map((one) => general(one, 5)).join(",") : value;
  return parts.map(([name, value]) => `${name}=${encodeURIComponent(short(value))}`).join("&");
}

/** The state that the end of a link asks for; what the explorer does not have is left out. */
export function opened(hash, view, given, controls, state) {
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    const control = controls.find((one) => one.name === name);
    const values = text.split(",").map(Number);
    if (Array.isArray(state[name])) {
      if (values.length === state[name].length && values.every(Number.isFinite))
        state = { ...state, [name]: values };
    } else if (control?.options) {
      const byValue = control.options.findIndex((option) => String(option) === text);
      const found = byValue >= 0 ? byValue : control.texts.indexOf(text);
      if (found >= 0) state = view.module.change(given, state, name, control.options[found]);
    } else if (control?.kind === "switch") {
      state = view.module.change(given, state, name, text === "true");
    } else if (control && text !== "" && control.low !== undefined && Number.isFinite(values[0])) {
      const ends = control.logarithmic
        ? [10 ** control.low, 10 ** control.high]
        : [control.low, control.high];
      state = view.module.change(
        given,
        state,
        name,
        Math.min(Math.max(values[0], ends[0]), ends[1]),
      );
    }
  }
  return state;
}

const PAUSE = 150; // milliseconds after a move, until the address follows: browsers limit how often it may

/** Show an explorer in an element of a page. isLinked: its state is kept in the page's address. */
export function mount(view, el, { data, state }, isLinked) {
  const [listeners, given, start] = [[], view.module.prepare(data), state];
  const values = { data, state };
  if (isLinked) values.state = opened(location.hash, view, given, data.controls, start);
  const keep = () => history.replaceState(null, "", `#${linked(values.state, start)}`);
  let waiting = 0;
  const model = {
    get: (name) => values[name],
    set: (name, value) => (values[name] = value),
    on: (_, listener) => listeners.push(listener),
    save_changes: () => {
      clearTimeout(waiting);
      if (isLinked) waiting = setTimeout(keep, PAUSE);
    },
  };
  view.render({ model, el });
  addEventListener("hashchange", () => {
    if (!isLinked) return;
    values.state = opened(location.hash, view, given, data.controls, start);
    listeners.forEach((listener) => listener());
  });
}
