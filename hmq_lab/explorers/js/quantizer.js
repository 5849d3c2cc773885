// The quantizer: what bits, threshold and sign do to the values of a tensor.
import {
  commas,
  explorer,
  general,
  histogram,
  loss,
  many,
  Panel,
  range,
  sample,
  scheme,
  staircase,
} from "./common.js";

const [OURS, AUTHORS] = ["two's complement", "the authors' range"];
const FLOOR = 1e-4; // percent: where the axis of the errors begins
const LINES = 64; // so many levels are drawn as lines over the whole height
const share = (value) => `${general(100 * value, 3)} %`;

export function prepare(data) {
  const x = sample(data.values);
  return { x, view: data.view, counts: histogram(x, data.view, 60) };
}

/** Ends, levels and losses in two's complement, and in the authors' range where the state asks for it. */
export function compute({ x }, { bits, exponent, signed, authors }) {
  const { step, ends } = scheme(bits, exponent, signed);
  const ranges = { [OURS]: { ends } };
  if (authors) ranges[AUTHORS] = { ends: signed ? [ends[0] + 1, ends[1] + 1] : [0, ends[1] + 1] };
  for (const one of Object.values(ranges)) one.loss = loss(x, step, one.ends);
  const levels = 2 ** bits;
  return {
    step,
    levels,
    ranges,
    sentence: sentence(x, { bits, exponent, signed }, step, levels, ranges),
  };
}

function sentence(x, { bits, exponent, signed }, step, levels, ranges) {
  let text = `${many(bits, "bit")} ${signed ? "signed" : "unsigned"} below 2^${exponent}: `;
  text += `${levels} levels, ${general(step)} apart. `;
  if (!(x.v[0] || x.v.at(-1)))
    return `${text}The ${commas(x.size)} values are all zero: nothing is lost.`;
  const ours = ranges[OURS].loss;
  text += `Of the sum of squares of ${commas(x.size)} values ${share(ours.rounding)} is lost to rounding and `;
  text += `${share(ours.clipping)} to clipping (clipped values: ${commas(ours.clipped)})`;
  const other = ranges[AUTHORS];
  if (other) {
    const [low, high] = other.ends;
    text += `; ${AUTHORS} has ${high - low + 1} levels from ${general(low * step)} to ${general(high * step)} and `;
    text += `loses ${share(other.loss.rounding)} and ${share(other.loss.clipping)}`;
  }
  return `${text}.`;
}

function panels(root, { view, counts }) {
  const ticks = range(5)
    .map((i) => (((i - 2) / 2) * Math.max(-view[0], view[1])) / 1.3)
    .filter((x) => x >= view[0]);
  const axis = { from: view[0], to: view[1], ticks };
  const left = root.appendChild(document.createElement("div"));
  const right = root.appendChild(document.createElement("div"));
  for (const part of [left, right]) part.style.flex = "1 1 330px";
  const stairs = new Panel(left, {
    name: "staircase of the quantizer",
    height: 400,
    x: { ...axis, label: "x", grid: true },
    y: { ...axis, label: "Q(x)" },
  });
  const top = 1.1 * Math.max(...counts);
  const values = new Panel(right, {
    name: "histogram of the values with the levels on it",
    height: 245,
    bottom: 24,
    x: axis,
    y: {
      from: 0,
      to: top,
      ticks: [0, top / 3, (2 * top) / 3].map((y) => Number(y.toPrecision(1))),
      label: "values (%)",
    },
  });
  const errors = new Panel(right, {
    name: "share lost to rounding and to clipping",
    height: 150,
    left: 70,
    top: 22,
    x: {
      from: FLOOR,
      to: 1e4,
      log: true,
      ticks: [1e-4, 1e-2, 1, 100],
      grid: true,
      label: "lost of the sum of squares (%)",
    },
    y: { from: 2, to: 0, ticks: [0.5, 1.5], texts: ["rounding", "clipping"], grid: false },
  });
  values.title("values and levels; shaded: clipped");
  return { stairs, values, errors };
}

function draw({ view, counts }, { stairs, values, errors }, { step, levels, ranges }) {
  stairs.title(`${levels} levels, step ${general(step, 4)}`);
  stairs.line(
    [
      [view[0], view[0]],
      [view[1], view[1]],
    ],
    "var(--muted)",
    { "stroke-width": 1, "stroke-dasharray": "2 4" },
  );
  const looks = { [OURS]: ["var(--blue)", "none"], [AUTHORS]: ["var(--orange)", "7 4"] };
  Object.entries(ranges).forEach(([name, one], i) => {
    const [colour, dash] = looks[name];
    stairs.line(staircase(step, one.ends, view), colour, {
      "stroke-width": 2.5,
      "stroke-dasharray": dash,
    });
    const place = {
      x: stairs.left + 10,
      y: stairs.top + 18 + 16 * i,
      style: `fill:${colour}`,
      "text-anchor": "start",
    };
    stairs.text(0, 0, (i ? "- - " : "— ") + name, place);
    for (const [row, part] of ["rounding", "clipping"].entries()) {
      const value = Math.max(100 * one.loss[part], FLOOR);
      const y = row + (AUTHORS in ranges ? 0.1 + 0.42 * i : 0.25);
      errors.rect(FLOOR, value, y, y + 0.38, colour, i ? { opacity: 0.75 } : {});
      errors.text(value, y + 0.2, share(one.loss[part]), { "text-anchor": "start", dx: 5 });
    }
  });

  const width = (view[1] - view[0]) / counts.length;
  counts.forEach((count, i) =>
    values.rect(view[0] + i * width, view[0] + (i + 1) * width, 0, count, "var(--pale)"),
  );
  const [low, high] = ranges[OURS].ends.map((end) => end * step);
  const top = values.y.to;
  for (const [from, to] of [
    [view[0], low - step / 2],
    [high + step / 2, view[1]],
  ]) {
    if (to > from) values.rect(from, to, 0, top, "var(--red)", { opacity: 0.2 });
  }
  // Levels finer than two pixels would be a block: they are a strip of ticks, then a line from end to end.
  const gap = values.X(step) - values.X(0);
  if (gap < 2) {
    values.line(
      [
        [low, 0.02 * top],
        [high, 0.02 * top],
      ],
      "var(--blue)",
      { "stroke-width": 5 },
    );
    const place = { x: values.width - values.right - 6, y: values.top + 16, "text-anchor": "end" };
    return values.text(0, 0, `${levels} levels, nearer than two pixels`, place);
  }
  const height = levels > LINES ? 0.12 * top : top;
  const path = range(levels)
    .map((i) => `M${values.X(low + i * step)} ${values.Y(0)}V${values.Y(height)}`)
    .join("");
  values.line([[low, 0]], "var(--blue)", { d: path, "stroke-width": gap < 6 ? 0.8 : 1.3 });
}

const view = explorer({ prepare, compute, panels, draw });
export default view;
