// Replay: a recorded search, step by step, so that the selection can be watched as it forms.
import { explorer, fixed, general, many, names, Panel, percent } from "./common.js";
import {
  chosenOf,
  drawTable,
  momentOf,
  momentText,
  prepareRun,
  roundTicks,
  shorten,
  shortName,
  tableAxes,
} from "./record.js";

const ROWS = 24; // so many names of layers fit beside the map

export const prepare = (data) => prepareRun(data.run);

const read = ({ steps }, state, name) =>
  name === "play" ? steps.indexOf(state.step) : state[name];

function change({ steps }, state, name, value) {
  return name === "play" ? { ...state, step: steps[value] } : { ...state, [name]: value };
}

/** What the record says at a step. */
export function compute(run, { step, layer }) {
  const at = run.steps.indexOf(step);
  const tensor = run.byName[layer];
  const table = tensor.tables[at];
  const choice = chosenOf(tensor, table);
  const now = momentOf(run, step);
  let sentence = `Step ${step} of ${run.steps.at(-1)}${momentText(now)}`;
  if (run.weights.length) {
    sentence += `: the expected compression of the weights is ${fixed(run.expected[at], 2)}, that of the selection `;
    sentence += `${fixed(run.actual[at], 2)}${now ? `, ${aim(now.target_rate, run)}` : ""}`;
  }
  const share = tensor.marginals[at][choice.row];
  sentence += `. ${layer} has ${percent(share)} on ${many(choice.bits, "bit")}, and given these `;
  sentence += `${percent(Math.max(...table[choice.row]) / share)} on the threshold 2^${choice.exponent}.`;
  return { at, table, choice, expected: run.expected[at], actual: run.actual[at], sentence };
}

/** What the loss pulls the expected rate to, and how that follows from the target. */
function aim(rate, { target, margin }) {
  if (target === null) return `the aim ${fixed(rate, 2)}`;
  const words = `the target ${general(target)}${margin ? ` and a margin of ${general(100 * margin)} %` : ""}`;
  const full = target * (1 + margin);
  if (Math.abs(rate - full) > 1e-6 * Math.max(rate, full))
    return `the aim ${fixed(rate, 2)} (on its way to ${words})`;
  return margin ? `the aim ${fixed(rate, 2)} (${words})` : words;
}

function panels(root, run) {
  const add = (flex) => {
    const part = root.appendChild(document.createElement("div"));
    part.style.flex = flex;
    return part;
  };
  const made = {};
  if (run.weights.length) {
    const every = Math.ceil(run.weights.length / ROWS);
    const texts = run.weights.map((one, i) => (i % every ? "" : shortName(one.name)));
    const rows = names(texts);
    made.map = new Panel(add("1 1 250px"), {
      name: "bits of every weight",
      width: 330,
      height: 430,
      left: 12 + 6.3 * Math.max(...texts.map((text) => text.length)),
      x: { ...names(run.bits), label: "bits" },
      y: { ...rows, from: rows.to, to: 0, grid: false },
    });
  }
  made.table = new Panel(add("1 1 250px"), {
    name: "table of the layer",
    width: 310,
    height: 430,
    left: 36,
    ...tableAxes(run),
  });
  const curves = add("1 1 280px");
  const x = { from: run.steps[0], to: Math.max(run.steps.at(-1), run.steps[0] + 1) };
  x.ticks = roundTicks(x.from, x.to);
  const of = (...series) =>
    series.flat().filter((value) => value !== null && Number.isFinite(value));
  const parts = [
    ["rate", of(run.expected, run.actual, run.events.target_rate), 175],
    ["temperature", of(0, run.events.temperature), 120],
    ["loss", of(run.events.task_loss), 135],
  ];
  for (const [name, values, height] of parts) {
    const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    const room = 0.05 * (high - low || 1);
    const y = {
      from: low - room,
      to: high + room,
      label: { rate: "compression", temperature: "temperature", loss: "task loss" }[name],
    };
    y.ticks = roundTicks(y.from, y.to);
    const isLast = name === "loss";
    const axis = isLast ? { ...x, label: "training step" } : { ...x, texts: x.ticks.map(() => "") };
    const size = {
      width: 340,
      height,
      left: 54,
      top: name === "rate" ? 44 : 8,
      bottom: isLast ? 38 : 8,
    };
    made[name] = new Panel(curves, { name: `${name} over the steps`, ...size, x: axis, y });
    if (name !== "rate") made[name].heading.remove();
  }
  made.rate.legend([
    { text: "expected", colour: "var(--blue)" },
    { text: "of the selection", colour: "var(--orange)", marker: "circle" },
  ]);
  made.rate.legend([{ text: "aim of the loss", colour: "var(--muted)", dash: "5 3" }], 36);
  drawCurves(run, made);
  return made;
}

/** The curves are the same at every step: they are drawn once, into the part that stands still. */
function drawCurves(run, { rate, temperature, loss }) {
  const pairs = (steps, values) =>
    steps.map((step, i) => [step, values[i]]).filter(([, value]) => value !== null);
  const { events } = run;
  if (run.weights.length) {
    rate.line(pairs(run.steps, run.expected), "var(--blue)");
    rate.line(pairs(run.steps, run.actual), "var(--orange)", { "stroke-width": 1.2 });
    for (const [x, y] of pairs(run.steps, run.actual))
      rate.mark(rate.moving, rate.X(x), rate.Y(y), "circle", "var(--orange)", 2.6);
  }
  if (events.step.length) {
    const targets = pairs(events.step, events.target_rate);
    const stairs = targets.flatMap(([x, y], i) =>
      i
        ? [
            [x, targets[i - 1][1]],
            [x, y],
          ]
        : [[x, y]],
    );
    rate.line(stairs, "var(--muted)", { "stroke-dasharray": "5 3" });
    temperature.line(pairs(events.step, events.temperature), "var(--green)");
    loss.line(pairs(events.step, events.task_loss), "var(--blue)", { "stroke-width": 1.2 });
  }
  for (const panel of [rate, temperature, loss]) {
    panel.still.append(panel.moving);
    panel.moving = panel.svg.insertBefore(panel.moving.cloneNode(false), panel.over);
  }
}

function draw(run, made, { at, table, choice }, { step, layer }, set) {
  const tensor = run.byName[layer];
  if (made.map) {
    const shares = run.weights.map((one) =>
      run.bits.map((bits) => one.marginals[at][one.bits.indexOf(bits)] ?? 0),
    );
    made.map.heat(shares, "cividis", null, (row) => set("layer", run.weights[row].name));
    run.weights.forEach((one, row) => {
      const column = run.bits.indexOf(run.selected(one, at)) + 0.5;
      made.map.dot(column, row + 0.5, "circle", "#fff", run.weights.length > ROWS ? 2.5 : 4, {
        stroke: "#333",
        "pointer-events": "none",
      });
    });
    const row = run.weights.indexOf(tensor);
    if (row >= 0) made.map.frame(0, run.bits.length, row + 1, row);
    made.map.title("bits; dots: selection");
  }
  drawTable(made.table, run, tensor, table, choice);
  made.table.title(`${shorten(shortName(layer), 28)}: p (%)`);
  for (const panel of [made.rate, made.temperature, made.loss]) {
    panel.line(
      [
        [step, panel.y.from],
        [step, panel.y.to],
      ],
      "var(--red)",
    );
  }
}

const view = explorer({ prepare, compute, change, read, panels, draw });
export default view;
