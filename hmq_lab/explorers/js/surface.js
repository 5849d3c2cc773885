// The error surface: what a tensor loses under every bit-width and threshold, and the best threshold for each.
import {
  explorer,
  general,
  make,
  many,
  names,
  Panel,
  range,
  sample,
  scheme,
  loss,
} from "./common.js";

const BITS = range(8).map((i) => i + 1);
const FLOOR = 1e-4; // percent: where the axis of the errors begins

/** Quantize the tensor with every bit-width and threshold. exponents descend. */
export function prepare(data) {
  const x = sample(data.values);
  const { exponents } = data;
  const losses = BITS.map((bits) =>
    exponents.map((exponent) => {
      const { step, ends } = scheme(bits, exponent, x.signed);
      const found = loss(x, step, ends);
      return { ...found, total: found.rounding + found.clipping };
    }),
  );
  // Of equal losses the larger threshold is the best one.
  const best = losses.map((row) =>
    row.reduce((at, one, i) => (one.total < row[at].total ? i : at), 0),
  );
  return { exponents, losses, best };
}

/** The loss at the picked point beside the least that its bits allow. */
export function compute({ exponents, losses, best }, { bits, exponent }) {
  const row = losses[bits - 1];
  const at = best[bits - 1];
  const lost = row[exponents.indexOf(exponent)].total;
  const least = row[at].total;
  let sentence = `${many(bits, "bit")} below 2^${exponent}: ${general(100 * lost, 3)} % of the tensor's sum of squares is lost`;
  if (!lost && !least) sentence += ": no error at all.";
  else if (lost === least)
    sentence += ", the least that any threshold here allows with as many bits.";
  else {
    const away = exponents[at] - exponent;
    const where = `${many(Math.abs(away), "octave")} ${away < 0 ? "below" : "above"}`;
    sentence += `; with the best threshold, 2^${exponents[at]}, ${where}, it is ${general(100 * least, 3)} %.`;
  }
  sentence += ` From 8 bits to 1 the best threshold goes from 2^${exponents[best[7]]} to 2^${exponents[best[0]]}.`;
  return { loss: lost, least, best: best.map((i) => exponents[i]), sentence };
}

const upwards = (exponents) => [...exponents].sort((a, b) => a - b);

function panels(root, { exponents, losses, best }, set) {
  const columns = upwards(exponents);
  const texts = columns.map((exponent) => `2^${exponent}`);
  const map = new Panel(add(root, 400), {
    name: "map of the errors: bits over thresholds",
    width: 450,
    height: 340,
    left: 36,
    top: 44,
    x: { ...names(texts), label: "threshold" },
    y: { ...names(BITS), label: "bits", grid: false },
  });
  map.title("lost of the sum of squares (%); ring: the best threshold");
  // The map is the same for every state: it is drawn once, into the part that stands still.
  const cells = losses.map((row) =>
    columns.map((exponent) => 100 * row[exponents.indexOf(exponent)].total),
  );
  const depth = Math.log10(Math.max(FLOOR, Math.min(10, ...cells.flat()))) - 2; // of the least error below 100 %
  const shares = cells.map((row) =>
    row.map((value) => (Math.log10(Math.max(value, FLOOR)) - 2) / depth),
  );
  const words = cells.map((row) =>
    row.map((value) => (value < 99.5 ? general(value, 2) : value.toFixed(0))),
  );
  map.heat(shares, "cividis", words, (row, column) => {
    set("bits", BITS[row]);
    set("exponent", columns[column]);
  });
  best.forEach((at, row) => {
    const column = columns.indexOf(exponents[at]);
    const place = {
      x: map.X(column) + 5,
      y: map.Y(row + 1) + 4,
      width: 40,
      height: map.Y(row) - map.Y(row + 1) - 8,
      rx: 12,
    };
    make(map.over, "rect", { ...place, fill: "none", stroke: "#ff9a5c", "stroke-width": 2 });
  });
  map.still.append(map.moving, ...map.over.childNodes);
  map.moving = map.svg.insertBefore(map.moving.cloneNode(false), map.over);

  const ticks = [1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100];
  const row = new Panel(add(root, 330), {
    name: "loss with the picked bits over the thresholds",
    width: 370,
    height: 340,
    left: 56,
    top: 44,
    x: {
      from: columns[0] - 0.5,
      to: columns.at(-1) + 0.5,
      ticks: columns,
      texts,
      label: "threshold",
    },
    y: { from: FLOOR, to: 1e3, log: true, ticks, label: "lost (%)" },
  });
  row.legend(
    [
      { text: "rounding", colour: "var(--blue)", marker: "circle" },
      { text: "clipping", colour: "var(--orange)", marker: "square", dash: "5 3" },
      { text: "both", colour: "var(--green)" },
    ],
    34,
  );
  return { map, row };
}

function add(root, width) {
  const part = root.appendChild(document.createElement("div"));
  part.style.flex = `1 1 ${width}px`;
  return part;
}

function draw({ exponents, losses }, { map, row }, { loss: lost }, { bits, exponent }) {
  const columns = upwards(exponents);
  const column = columns.indexOf(exponent);
  map.frame(column, column + 1, bits - 1, bits, "var(--ink)");
  row.title(`with ${many(bits, "bit")}`);
  const at = (part) =>
    columns.map((e) => [e, Math.max(100 * losses[bits - 1][exponents.indexOf(e)][part], FLOOR)]);
  row.line(at("total"), "var(--green)", { "stroke-width": 5, opacity: 0.5 });
  row.line(at("clipping"), "var(--orange)", { "stroke-dasharray": "5 3" });
  row.line(at("rounding"), "var(--blue)");
  for (const [x, y] of at("clipping")) row.dot(x, y, "square", "var(--orange)", 3.5);
  for (const [x, y] of at("rounding")) row.dot(x, y, "circle", "var(--blue)", 4);
  const look = { stroke: "var(--ink)", "stroke-width": 2.5 };
  row.dot(exponent, Math.max(100 * lost, FLOOR), "square", "none", 8, look);
}

const view = explorer({ prepare, compute, panels, draw });
export default view;
