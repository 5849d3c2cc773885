// Selection: the bits of a whole network as a map, any layer's table, at any step; two searches beside each other.
import {
  colour,
  commas,
  explorer,
  fixed,
  make,
  many,
  Panel,
  percent,
  range,
  sum,
} from "./common.js";
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

const FIXED = "repaired"; // the last moment: the schemes that stage 2 trains with, after the repair

export function prepare({ searches, weights, steps, stages }) {
  const made = searches.map(({ run, label, final }) => ({ run: prepareRun(run), label, final }));
  return {
    searches: made,
    weights,
    steps,
    stages,
    top: Math.max(8, ...made.flatMap(({ run }) => run.bits)),
  };
}

const read = ({ steps }, state, name) =>
  name === "play" ? steps.indexOf(state.step) : state[name];

function change({ steps }, state, name, value) {
  return name === "play" ? { ...state, step: steps[value] } : { ...state, [name]: value };
}

/** What the records say at a moment. */
export function compute({ searches, weights }, state) {
  const sides = searches.map((search) => sideOf(search, searches[0].run, weights, state));
  const differ = weights.map((_, i) => sides[0].bits[i] !== sides.at(-1).bits[i]);
  return { sides, differ, sentence: sentence(searches, weights, state, sides, differ) };
}

/** One search at the moment that has the same share of its steps as the state has of the first search's. */
function sideOf({ run, final, label }, first, weights, { step, layer }) {
  const isFixed = step === FIXED;
  const share = isFixed || !first.steps.at(-1) ? 1 : step / first.steps.at(-1);
  const wanted = share * run.steps.at(-1);
  const at = range(run.steps.length).reduce((best, k) => {
    return Math.abs(run.steps[k] - wanted) < Math.abs(run.steps[best] - wanted) ? k : best;
  }, 0);
  const tensor = run.byName[layer];
  const table = tensor.tables[at];
  const [bits, exponent] = isFixed ? final[layer] : [];
  const choice = isFixed
    ? { bits, exponent, row: tensor.bits.indexOf(bits) }
    : chosenOf(tensor, table);
  const now = Object.fromEntries(
    run.weights.map((one) => [one.name, isFixed ? final[one.name][0] : run.selected(one, at)]),
  );
  const rate = run.rateOf(run.weights.map((one) => now[one.name]));
  const found = { at, tensor, table, choice, rate, expected: run.expected[at], label, run };
  return { ...found, bits: weights.map((name) => now[name]) };
}

function sentence(searches, weights, { step, layer }, sides, differ) {
  const [side] = sides;
  const { run } = side;
  const isFixed = step === FIXED;
  let text = "After the repair";
  if (!isFixed) {
    const shown = run.steps[side.at];
    text = `Step ${shown} of ${run.steps.at(-1)}${momentText(momentOf(run, shown))}`;
  }
  text += `: ${shortName(layer)}, ${commas(side.tensor.size)} elements, has `;
  const parts = sides.map(({ tensor, table, choice, rate, expected, label }) => {
    const share = sum(table[choice.row]);
    const searched = `${percent(share)} probable${isFixed ? " at the end of the search" : ""}`;
    const rates = `compression of the network ${fixed(rate, 2)}${isFixed ? "" : `, expected ${fixed(expected, 2)}`}`;
    const of = sides.length > 1 ? ` for ${label}` : "";
    return `${many(choice.bits, "bit")} below 2^${choice.exponent}${of} (${searched}, ${rates})`;
  });
  text += `${parts.join(" and ")}.`;
  if (sides.length > 1) {
    const sizes = weights.map((name) => run.byName[name].size);
    const same = differ.filter((one) => !one).length;
    const share = sum(sizes.filter((_, i) => !differ[i])) / sum(sizes);
    text += ` The two agree in ${same} of ${weights.length} weights, ${percent(share)} of their elements.`;
  } else if (isFixed) {
    const changed = run.weights.filter(
      (one, i) => side.bits[i] !== run.selected(one, run.steps.length - 1),
    ).length;
    text += ` The repair changed the bits of ${changed} of ${side.bits.length} weights.`;
  }
  return text;
}

function panels(root, given) {
  const { searches, weights, stages, top } = given;
  const add = (flex) => {
    const part = root.appendChild(document.createElement("div"));
    part.style.flex = flex;
    return part;
  };
  const made = { maps: [], tables: [] };
  const count = weights.length;
  const wide = add("1 1 100%");
  searches.forEach(({ run, label }, number) => {
    const sizes = weights.map((name) => run.byName[name].size);
    const [low, high] = [Math.min(...sizes) / 3, Math.max(...sizes)];
    const y = { from: low, to: high * (high / low) ** 0.3, log: true, label: "elements" };
    y.ticks = range(12)
      .map((i) => 10 ** i)
      .filter((tick) => tick >= low && tick <= y.to);
    y.texts = y.ticks.map((tick) =>
      tick < 1000 ? `${tick}` : tick < 1e6 ? `${tick / 1000}k` : `${tick / 1e6}M`,
    );
    const isLast = number === searches.length - 1;
    const isNarrow = root.clientWidth > 0 && root.clientWidth < 560; // 0: not in the page yet
    const width = isNarrow ? 430 : Math.max(820, 60 + 15 * count);
    const panel = new Panel(wide, {
      name: `bits of every weight: ${label}`,
      width,
      height: isLast ? 210 : 188,
      left: 52,
      bottom: isLast ? 40 : 18,
      x: {
        from: -0.7,
        to: count - 0.3,
        label: isLast ? "weights in the order of the network" : "",
      },
      y,
    });
    const height = isNarrow ? "height: elements" : "bits of every weight; height: its elements";
    panel.title(number ? `${label}; ▼: not those above` : `${label}; ${height}`);
    const letters = (width - 60) / count / 6.4; // that fit above one place
    for (const [from, size, text] of isLast ? stages : []) {
      if (text.length > 1.3 * letters * size) continue;
      const middle = panel.X(from + size / 2 - 0.5);
      const place = { x: middle, y: panel.height - panel.bottom + 15, "text-anchor": "middle" };
      make(panel.still, "text", place, text);
    }
    made.maps.push(panel);
  });
  wide.style.minWidth = "100%";
  searches.forEach(({ run, label }) => {
    const size = { width: 400, height: 300, left: 36 };
    made.tables.push(
      new Panel(add("1 1 320px"), {
        name: `table of the layer: ${label}`,
        ...size,
        ...tableAxes(run),
      }),
    );
  });
  if (searches.length === 1) {
    const { steps } = searches[0].run;
    const x = { from: steps[0], to: Math.max(steps.at(-1), steps[0] + 1), label: "training step" };
    x.ticks = roundTicks(x.from, x.to);
    const y = {
      from: 0.5,
      to: top + 0.5,
      ticks: range(top).map((i) => i + 1),
      label: "bits of the layer",
    };
    made.history = new Panel(add("1 1 320px"), {
      name: "bits of the layer over the steps",
      width: 400,
      height: 300,
      x,
      y,
    });
    made.history.legend([
      { text: "mean", colour: "var(--blue)" },
      { text: "selected", colour: "var(--orange)", marker: "circle" },
    ]);
  }
  return made;
}

function draw({ weights, top }, made, { sides, differ }, { step, layer }, set) {
  sides.forEach((side, number) => {
    drawMap(made.maps[number], side, { weights, layer, top, differ: number ? differ : [] }, set);
    drawTable(made.tables[number], side.run, side.tensor, side.table, side.choice);
    const name = shorten(shortName(layer), 30);
    made.tables[number].title(
      sides.length > 1 ? `${name}: ${side.label}` : `${name}: probabilities (%)`,
    );
  });
  if (made.history) drawHistory(made.history, sides[0]);
}

function drawMap(panel, { run, bits }, { weights, layer, top, differ }, set) {
  const floor = panel.y.from;
  weights.forEach((name, i) => {
    const { size } = run.byName[name];
    const bar = panel.rect(
      i - 0.43,
      i + 0.43,
      floor,
      size,
      colour("viridis", (bits[i] - 1) / (top - 1)),
    );
    bar.classList.add("pick");
    bar.addEventListener("click", () => set("layer", name));
    panel.text(i, size, bits[i], { dy: -9 });
    if (differ[i])
      panel.dot(i, panel.y.to, "down", "var(--ink)", 5, { transform: "translate(0 9)" });
  });
  const at = weights.indexOf(layer);
  if (at >= 0) panel.frame(at - 0.5, at + 0.5, floor, panel.y.to);
}

function drawHistory(panel, { run, tensor, at }) {
  panel.line(
    run.steps.map((step, k) => [step, run.mean(tensor, k)]),
    "var(--blue)",
  );
  const selected = run.steps.map((step, k) => [step, run.selected(tensor, k)]);
  panel.line(selected, "var(--orange)", { "stroke-width": 1.2 });
  for (const [x, y] of selected) panel.dot(x, y, "circle", "var(--orange)", 2.8);
  panel.line(
    [
      [run.steps[at], panel.y.from],
      [run.steps[at], panel.y.to],
    ],
    "var(--red)",
  );
}

const view = explorer({ prepare, compute, change, read, panels, draw });
export default view;
