// The HMQ block: probability moved over bits and thresholds, the quantizer it implies, the gradient it gets back.
import {
  colour,
  explorer,
  fixed,
  general,
  gumbelNoise,
  largest,
  loss,
  make,
  many,
  names,
  Panel,
  percent,
  range,
  rint,
  sample,
  scheme,
  staircase,
  sum,
} from "./common.js";

const [LEAST, MOST] = [0.001, 0.999]; // mass of the picked cell: with none, or all of it, the others lose their proportions

export function prepare({ values, bits, exponents, signed, view }) {
  const cells = bits.flatMap((b) => exponents.map((e) => ({ bits: b, exponent: e })));
  const steps = cells.map((cell) => 2 ** (cell.exponent - cell.bits + (signed ? 1 : 0)));
  const thresholds = cells.map((cell) => 2 ** cell.exponent);
  return { x: sample(values), bits, exponents, signed, view, cells, steps, thresholds, noise: {} };
}

const cellOf = ({ bits, exponents }, state) =>
  bits.indexOf(state.bits) * exponents.length + exponents.indexOf(state.exponent);

function read(given, state, name) {
  if (name !== "mass") return state[name];
  return Math.min(Math.max(state.table[cellOf(given, state)], LEAST), MOST);
}

/** The mass of the picked cell is set: the others keep their proportions. */
function change(given, state, name, value) {
  if (name !== "mass") return { ...state, [name]: value };
  const at = cellOf(given, state);
  const others = 1 - state.table[at];
  const even = (1 - value) / (state.table.length - 1);
  const table = state.table.map((p) => (others > 1e-12 ? (p * (1 - value)) / others : even));
  table[at] = value;
  const total = sum(table);
  return { ...state, table: table.map((p) => p / total) };
}

/** Ends of the mixed quantizer in steps; one that rounding alone keeps from an integer is that integer. */
function endsOf(step, threshold, signed) {
  const near = (end) => (Math.abs(end - rint(end)) < 1e-9 ? rint(end) : end);
  return [signed ? near(-threshold / step) : 0, near(threshold / step - 1)];
}

/**
 * What a block with the state's table does to x, by the equations of HMQ: p = softmax((log table + g) / temperature),
 * step = sum p s, threshold = sum p t. The logit of a cell gets p ((s - step) dL/dstep + (t - threshold) dL/dthreshold)
 * / temperature.
 */
export function compute(given, state) {
  const { x, steps, thresholds, signed, view } = given;
  const { table, temperature, sample: seed } = state;
  if (seed) given.noise[seed] ??= gumbelNoise(seed, table.length);
  const scores = table.map(
    (p, i) => (Math.log(p) + (seed ? given.noise[seed][i] : 0)) / temperature,
  );
  const most = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - most));
  const total = sum(powers);
  const p = powers.map((power) => power / total);
  const step = sum(p.map((one, i) => one * steps[i]));
  const threshold = sum(p.map((one, i) => one * thresholds[i]));
  const slope = slopes(x, step, threshold, signed);
  const gradient = p.map((one, i) => {
    const inner = (steps[i] - step) * slope.step + (thresholds[i] - threshold) * slope.threshold;
    return (one * inner) / temperature;
  });

  // The selection: bits by their marginal, then the threshold given them.
  const columns = given.exponents.length;
  const marginals = given.bits.map((_, row) =>
    sum(table.slice(row * columns, (row + 1) * columns)),
  );
  const row = largest(marginals);
  const column = largest(table.slice(row * columns, (row + 1) * columns));
  const selected = { bits: given.bits[row], exponent: given.exponents[column] };
  const hard = scheme(selected.bits, selected.exponent, signed);
  const ends = endsOf(step, threshold, signed);
  const lost = [loss(x, step, ends), loss(x, hard.step, hard.ends)].map(
    (one) => one.rounding + one.clipping,
  );
  const levels =
    Math.floor(ends[1]) -
    Math.ceil(ends[0]) +
    1 +
    !Number.isInteger(ends[0]) +
    !Number.isInteger(ends[1]);
  const result = { p, step, threshold, ends, gradient, selected, hard, levels, lost };
  return { ...result, sentence: sentence(given, state, result) };
}

/** d error / d step and d threshold, straight-through, of the squared error over the sum of squares. */
function slopes({ v, n, s, energy }, step, threshold, signed) {
  const [low, high] = endsOf(step, threshold, signed);
  let [dStep, dThreshold] = [0, 0];
  for (let i = 0; i < v.length; i++) {
    const r = rint(v[i] / step);
    if (r > high) {
      const error = n[i] * (threshold - step - v[i]);
      dStep -= error;
      dThreshold += error;
    } else if (r < low) dThreshold -= signed ? n[i] * (-threshold - v[i]) : 0;
    else dStep += (n[i] * (r * step - v[i]) ** 2 + s[i]) / step;
  }
  return { step: (2 * dStep) / energy, threshold: (2 * dThreshold) / energy };
}

const nameOf = ({ bits, exponent }) => `${many(bits, "bit")} below 2^${exponent}`;

function sentence(given, state, { step, threshold, gradient, selected, levels, lost }) {
  const share = state.table[cellOf(given, state)];
  let text = `With ${percent(share, 1)} on ${nameOf(state)} the expected step is ${general(step, 3)}, the expected `;
  text += `threshold ${general(threshold, 3)}: ${levels} levels, which lose ${general(100 * lost[0], 3)} % of the sum `;
  text += `of squares; the selection, ${nameOf(selected)}, loses ${general(100 * lost[1], 3)} %.`;
  if (!gradient.some((one) => one !== 0)) return `${text} No gradient reaches the logits.`;
  const up = given.cells[largest(gradient.map((one) => -one))];
  const down = given.cells[largest(gradient)];
  return `${text} To lose less, the gradient raises the logit of ${nameOf(up)} most and lowers that of ${nameOf(down)} most.`;
}

function panels(root, { bits, exponents, view }) {
  const x = { ...names([...exponents].reverse()), label: "M of the threshold 2^M" };
  const size = { width: 310, height: 330, left: 36, top: 46 };
  const add = (name, more = {}) => {
    const part = root.appendChild(document.createElement("div"));
    part.style.flex = "1 1 250px";
    return new Panel(part, {
      ...size,
      name,
      x,
      y: { ...names(bits), label: "bits", grid: false },
      ...more,
    });
  };
  const most = Math.max(-view[0], view[1]) / 1.3;
  const axis = {
    from: view[0],
    to: view[1],
    ticks: [-most, -most / 2, 0, most / 2, most].filter((at) => at >= view[0]),
  };
  const weights = add("probabilities of bits and thresholds");
  const gradient = add("gradient of the logits");
  const stairs = add("staircase of the mixture and of the selection", {
    left: 46,
    x: { ...axis, label: "x", grid: true },
    y: { ...axis, label: "Q(x)" },
  });
  stairs.legend(
    [
      { text: "mixture", colour: "var(--blue)" },
      { text: "selection", colour: "var(--pale)" },
    ],
    36,
  );
  return { weights, gradient, stairs };
}

function draw(given, { weights, gradient, stairs }, result, state, set) {
  const { bits, exponents, view } = given;
  const columns = exponents.length;
  // The thresholds run upwards to the right, in the space downwards.
  const rows = (values) =>
    bits.map((_, row) => values.slice(row * columns, (row + 1) * columns).reverse());
  const pick = (row, column) => {
    set("bits", bits[row]);
    set("exponent", exponents[columns - 1 - column]);
  };
  const words = rows(result.p.map((p) => (p >= 0.01 ? fixed(100 * p, 0) : "")));
  weights.heat(rows(result.p), "cividis", words, pick);
  const most = Math.max(...result.gradient.map(Math.abs));
  gradient.heat(
    rows(result.gradient.map((one) => 0.5 + one / (most || 1) / 2)),
    "vlag",
    null,
    pick,
  );
  const [row, column] = [bits.indexOf(state.bits), columns - 1 - exponents.indexOf(state.exponent)];
  for (const panel of [weights, gradient]) panel.frame(column, column + 1, row, row + 1);
  const isMixed = state.temperature !== 1 || state.sample > 0;
  weights.title(`${isMixed ? "relaxed sample" : "probabilities"} (%); frame: picked`);
  gradient.title(`gradient, largest ${general(most, 2)}`);
  const scale = range(21).map((i) => i / 20);
  scale.forEach((at, i) => bar(gradient, i, colour("vlag", at)));
  gradient.text(0, bits.length, "raises", {
    x: gradient.left,
    y: 38,
    "text-anchor": "start",
    "font-size": 11,
  });
  gradient.text(0, bits.length, "lowers the logit", {
    x: gradient.left + 180,
    y: 38,
    "text-anchor": "start",
    "font-size": 11,
  });

  stairs.title(`step ${general(result.step, 3)}, threshold ${general(result.threshold, 3)}`);
  stairs.line(
    [
      [view[0], view[0]],
      [view[1], view[1]],
    ],
    "var(--muted)",
    { "stroke-width": 1, "stroke-dasharray": "2 4" },
  );
  stairs.line(staircase(result.hard.step, result.hard.ends, view), "var(--pale)", {
    "stroke-width": 5,
  });
  stairs.line(staircase(result.step, result.ends, view), "var(--blue)", { "stroke-width": 2.2 });
}

/** A piece of the colour scale above the map of the gradient. */
function bar(panel, i, fill) {
  make(panel.over, "rect", { x: panel.left + 42 + 6.4 * i, y: 29, width: 6.4, height: 10, fill });
}

const view = explorer({ prepare, compute, change, read, panels, draw });
export default view;
