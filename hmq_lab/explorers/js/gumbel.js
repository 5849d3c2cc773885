// Gumbel-Softmax: what temperature does to samples of a relaxed categorical.
import {
  explorer,
  fixed,
  general,
  gumbelNoise,
  largest,
  make,
  Panel,
  percent,
  range,
  rint,
  sum,
} from "./common.js";

const MOST = 1000; // samples
const DECIDED = 0.95; // a sample with so large an entry is as good as one-hot
const BINS = 20;
const CORNERS = [
  [0, 0],
  [1, 0],
  [0.5, Math.sqrt(3) / 2],
]; // of the simplex, in the plane

/** The paper's schedule: an exponential decay to a floor that starts again every few epochs. */
export function temperatureAt(epoch, { steps, length, update, decay, floor }) {
  const step = rint(epoch * steps) % length;
  return Math.max(floor, Math.exp(-decay * rint(step / update)));
}

export function prepare({ schedule, epochs }) {
  return { schedule, epochs, noise: {} };
}

/** All the noise there is for a seed: fewer samples are the first of more. */
function noiseOf(given, seed, count) {
  const key = `${seed} ${count}`;
  given.noise[key] ??= gumbelNoise(seed, MOST * count);
  return given.noise[key];
}

function softmax(scores) {
  const most = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - most));
  const total = sum(powers);
  return powers.map((power) => power / total);
}

export function compute(given, { logits, temperature, samples, seed }) {
  const count = logits.length;
  const noise = noiseOf(given, seed, count);
  const probabilities = softmax(logits);
  const logs = probabilities.map(Math.log);
  const drawn = range(samples).map((s) =>
    softmax(logs.map((log, k) => (log + noise[s * count + k]) / temperature)),
  );
  const chosen = new Array(count).fill(0);
  const mean = new Array(count).fill(0);
  let decided = 0;
  for (const one of drawn) {
    const top = largest(one);
    chosen[top] += 1 / samples;
    if (one[top] > DECIDED) decided += 1;
    one.forEach((value, k) => (mean[k] += value / samples));
  }
  decided /= samples;
  const result = { probabilities, drawn, chosen, mean, decided };
  return { ...result, sentence: sentence(result, temperature) };
}

function sentence({ probabilities, drawn, chosen, mean, decided }, temperature) {
  let text = `At temperature ${general(temperature, 3)}, ${percent(decided)} of ${drawn.length} samples have an entry `;
  text += `above ${DECIDED}: as good as one-hot. `;
  const count = probabilities.length;
  if (count <= 4) {
    text += `The largest entry is that of categories 1 to ${count} in ${shares(chosen)} of them; `;
    return `${text}their probabilities are ${shares(probabilities)}.`;
  }
  const top = largest(probabilities);
  text += `Category ${top + 1}, the most probable of ${count} with ${percent(probabilities[top], 1)}, has the largest `;
  return `${text}entry in ${percent(chosen[top], 1)} of them, and ${percent(mean[top], 1)} of the mass on average.`;
}

function shares(values) {
  const words = values.map((value) => percent(value));
  return `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

function change({ schedule }, state, name, value) {
  const changed = { ...state };
  if (name === "logit")
    changed.logits = state.logits.map((old, k) => (k === state.category ? value : old));
  else changed[name] = value;
  if (name === "epoch") changed.temperature = temperatureAt(value, schedule);
  return changed;
}

const read = (_, state, name) => (name === "logit" ? state.logits[state.category] : state[name]);

function panels(root, { schedule, epochs, noise, ...given }) {
  const left = root.appendChild(document.createElement("div"));
  const right = root.appendChild(document.createElement("div"));
  for (const part of [left, right]) part.style.flex = "1 1 330px";
  const made = { left, samples: null };
  made.largest = new Panel(right, {
    name: "how large the largest entry of a sample is",
    height: 195,
    x: { from: 0, to: 1, ticks: range(6).map((i) => i / 5), label: "largest entry of a sample" },
    y: { from: 0, to: 100, ticks: [0, 50, 100], label: "samples (%)" },
  });
  made.schedule = new Panel(right, {
    name: "the paper's schedule of the temperature",
    height: 195,
    x: { from: 0, to: epochs, ticks: range(6).map((i) => (i * epochs) / 5), label: "epoch" },
    y: { from: 0.05, to: 20, log: true, ticks: [0.1, 1, 10], label: "temperature" },
  });
  made.schedule.title("the paper's schedule, and now");
  return made;
}

/** The panel of the samples: a triangle for three categories, bars for others. It is made when they are known. */
function samplesPanel(root, count) {
  if (count !== 3) {
    const every = Math.ceil(count / 12);
    const panel = new Panel(root, {
      name: "probabilities, mean of the samples and share of the largest entry",
      height: 390,
      top: 50,
      x: {
        from: 0.3,
        to: count + 0.7,
        ticks: range(Math.ceil(count / every)).map((i) => 1 + i * every),
        label: "category",
      },
      y: { from: 0, to: 100, ticks: [0, 25, 50, 75, 100], label: "%" },
    });
    panel.legend([
      { text: "probability", colour: "var(--pale)" },
      { text: "share of the largest", colour: "var(--blue)" },
    ]);
    panel.legend([{ text: "mean of the samples", colour: "var(--orange)", marker: "diamond" }], 36);
    return panel;
  }
  const panel = new Panel(root, {
    name: "samples as points in a triangle",
    height: 390,
    left: 20,
    right: 20,
    top: 44,
    bottom: 44,
  });
  Object.assign(panel, { x: { from: 0, to: 1 }, y: { from: 0, to: 0.8661 } });
  const corners = CORNERS.map(([x, y]) => `${panel.X(x)},${panel.Y(y)}`).join(" ");
  make(panel.still, "polygon", { points: corners, fill: "var(--face)", stroke: "var(--ink)" });
  panel.moving.removeAttribute("clip-path");
  panel.legend([
    { text: "samples", colour: "var(--blue)", marker: "circle" },
    { text: "their mean", colour: "var(--orange)", marker: "diamond" },
    { text: "probabilities", colour: "var(--ink)", marker: "triangle" },
  ]);
  return panel;
}

function draw(
  given,
  made,
  { probabilities, drawn, chosen, mean },
  { category, epoch, temperature },
) {
  const panel = (made.samples ??= samplesPanel(made.left, probabilities.length));
  if (probabilities.length === 3) drawTriangle(panel, { probabilities, drawn, mean }, category);
  else drawBars(panel, { probabilities, chosen, mean }, category);

  const counts = new Array(BINS).fill(0);
  for (const one of drawn)
    counts[Math.min(BINS - 1, Math.floor(Math.max(...one) * BINS))] += 100 / drawn.length;
  counts.forEach((count, i) =>
    made.largest.rect(i / BINS, (i + 0.94) / BINS, 0, count, "var(--blue)"),
  );
  made.largest.title(`${fixed(sum(counts.slice(-1)), 0)} % of the samples are as good as one-hot`);

  const points = range(501)
    .slice(0, -1)
    .map((i) => (i * given.epochs) / 500);
  made.schedule.line(
    points.map((at) => [at, temperatureAt(at, given.schedule)]),
    "var(--green)",
  );
  made.schedule.line(
    [
      [epoch, 0.05],
      [epoch, 20],
    ],
    "var(--pale)",
  );
  made.schedule.dot(epoch, temperature, "circle", "var(--red)", 6);
}

function drawTriangle(panel, { probabilities, drawn, mean }, category) {
  const at = (one) => [0, 1].map((axis) => sum(one.map((value, k) => value * CORNERS[k][axis])));
  const points = drawn.map((one) => {
    const [x, y] = at(one);
    return `M${panel.X(x).toFixed(1)} ${panel.Y(y).toFixed(1)}h0`; // a round cap makes a dot of nothing
  });
  const look = { "stroke-width": 6, "stroke-linecap": "round", opacity: 0.4 };
  panel.line([[0, 0]], "var(--blue)", { d: points.join(""), ...look });
  const edge = { stroke: "var(--ground)", "stroke-width": 1.2 };
  panel.dot(...at(mean), "diamond", "var(--orange)", 6, edge);
  panel.dot(...at(probabilities), "triangle", "var(--ink)", 7, edge);
  CORNERS.forEach(([x, y], k) => {
    const anchor = ["start", "end", "middle"][k];
    const weight = k === category ? 700 : 400;
    const place = { "text-anchor": anchor, dy: y ? -12 : 16, "font-weight": weight };
    panel.text(x, y, `category ${k + 1}${k === category ? " (its logit is set)" : ""}`, place);
  });
}

function drawBars(panel, { probabilities, chosen, mean }, category) {
  probabilities.forEach((p, k) => {
    panel.rect(k + 0.58, k + 1.42, 0, 100 * p, "var(--pale)");
    const y = 100 * chosen[k];
    panel.line(
      [
        [k + 0.7, y],
        [k + 1.3, y],
      ],
      "var(--blue)",
      { "stroke-width": 3 },
    );
    panel.dot(k + 1, 100 * mean[k], "diamond", "var(--orange)", 3.5);
  });
  panel.frame(category + 0.5, category + 1.5, 0, 100, "var(--muted)");
}

const view = explorer({ prepare, compute, change, read, panels, draw });
export default view;
