// What the explorers of a recorded search share: its tables as arrays, the moments between them, a tensor's table.
import { fixed, largest, names, range, sum, unpacked } from "./common.js";

const FLOAT_BITS = 32;

/** A record: by tensor its tables [moment][row of bits][column of thresholds], and what follows for the weights. */
export function prepareRun({ steps, tensors, events, target, margin }) {
  const byName = {};
  for (const tensor of tensors) {
    const [rows, columns] = [tensor.bits.length, tensor.exponents.length];
    const values = unpacked(tensor.tables);
    const tables = steps.map((_, k) => {
      const one = range(rows).map((r) =>
        Array.from(values.subarray((k * rows + r) * columns, (k * rows + r + 1) * columns)),
      );
      const total = sum(one.map(sum));
      return one.map((row) => row.map((value) => value / total)); // the record rounds them
    });
    byName[tensor.name] = { ...tensor, tables, marginals: tables.map(marginalsOf) };
  }
  const weights = tensors
    .filter((tensor) => tensor.kind === "weight")
    .map((tensor) => byName[tensor.name]);
  const bits = [...new Set(weights.flatMap((one) => one.bits))].sort((a, b) => a - b);
  const rows = [...new Set(tensors.flatMap((one) => one.bits))].sort((a, b) => a - b);
  const mean = (one, k) => sum(one.marginals[k].map((p, row) => p * one.bits[row]));
  const selected = (one, k) => one.bits[largest(one.marginals[k])];
  const rateOf = (found) =>
    (FLOAT_BITS * sum(weights.map((one) => one.size))) /
    sum(weights.map((one, i) => found[i] * one.size));
  const rates = (how) => steps.map((_, k) => rateOf(weights.map((one) => how(one, k))));
  const most = Math.max(...tensors.map((one) => one.exponents.length));
  const run = {
    steps,
    byName,
    weights,
    bits,
    rows,
    columns: most,
    events,
    target,
    margin,
    selected,
    mean,
    rateOf,
  };
  return { ...run, expected: rates(mean), actual: rates(selected) };
}

/** The probability of each bit-width; of equal ones the first is selected, whatever rounding does. */
const marginalsOf = (table) => table.map((row) => Math.round(sum(row) * 1e9) / 1e9);

/** The selection of a table: the most probable bits, then the most probable exponent given them. */
export function chosenOf({ bits, exponents }, table) {
  const row = largest(marginalsOf(table));
  return { row, bits: bits[row], exponent: exponents[largest(table[row])] };
}

/** The last step that the record describes, up to this one; null before the first. */
export function momentOf({ events }, step) {
  const at = events.step.filter((one) => one <= step).length - 1;
  return at < 0
    ? null
    : Object.fromEntries(Object.entries(events).map(([key, values]) => [key, values[at]]));
}

/** "(epoch 3, temperature 0.50)", or nothing where the record does not say. */
export const momentText = (now) =>
  now ? ` (epoch ${fixed(now.epoch + 1, 0)}, temperature ${fixed(now.temperature, 2)})` : "";

/** A tensor's table on a panel whose axes count all bits of the record and as many thresholds as a tensor has. */
export function drawTable(panel, run, tensor, table, choice) {
  const place = (exponent) => tensor.exponents.length - 1 - tensor.exponents.indexOf(exponent); // upwards to the right
  const shares = run.rows.map((bits) => {
    const row = table[tensor.bits.indexOf(bits)];
    return range(run.columns).map((column) => row?.[tensor.exponents.length - 1 - column] ?? null);
  });
  const words = shares.map((row) => row.map((p) => (p >= 0.01 ? fixed(100 * p, 0) : "")));
  panel.heat(shares, "cividis", words);
  const [row, column] = [run.rows.indexOf(choice.bits), place(choice.exponent)];
  panel.frame(column, column + 1, row, row + 1);
  [...tensor.exponents].reverse().forEach((exponent, i) => {
    panel.text(i + 0.5, 0, exponent, { y: panel.height - panel.bottom + 15 });
  });
}

/** The axes of such a panel. */
export const tableAxes = (run) => ({
  x: { ...names(range(run.columns).map(() => "")), label: "M of the threshold 2^M" },
  y: { ...names(run.rows), label: "bits", grid: false },
});

/** Four or five round numbers from low to high. */
export function roundTicks(low, high) {
  const raw = (high - low) / 4 || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 2.5, 5, 10].find((times) => times * unit >= raw);
  const first = Math.ceil(low / step);
  return range(Math.floor(high / step) - first + 1).map((i) => (first + i) * step);
}

export const shorten = (name, most) => (name.length < most ? name : `…${name.slice(2 - most)}`);
export const shortName = (name) => name.replace(/\.weight$/, "");
