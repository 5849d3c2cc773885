// Run by test_explorers_js.py: what a module of an explorer computes for many states, as JSON.
// node explorers_node.mjs ASKED.json, where ASKED is [{source, data, states, moves}, ...]
import { readFileSync, writeFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const asked = JSON.parse(readFileSync(process.argv[2], "utf-8"));
const folder = mkdtempSync(join(tmpdir(), "explorers-"));
const found = [];
for (const [i, { source, data, states, moves, keys }] of asked.entries()) {
  const file = join(folder, `module${i}.mjs`);
  writeFileSync(file, source);
  const { default: view, prepare, compute } = await import(pathToFileURL(file));
  const given = prepare(data);
  const started = performance.now();
  const results = states.map((state) => {
    const result = compute(given, state);
    return Object.fromEntries(keys.map((key) => [key, result[key]]));
  });
  const milliseconds = (performance.now() - started) / Math.max(states.length, 1);
  // A path of moves from the first state: the state after each.
  let state = states[0];
  const path = moves.map(([name, value]) => (state = view.module.change(given, state, name, value)));
  found.push({ results, milliseconds, path });
}
process.stdout.write(JSON.stringify(found));
