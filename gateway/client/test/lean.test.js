// What the gateway leaves out of modules (gateway/src/pages/lean.rs) has a line to itself: it knows
// no JavaScript. These are the rules that make that safe.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import ts from "typescript";

const folder = new URL("../", import.meta.url);
const others = ["node_modules", "test", "types"];
const modules = readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
  const below = entry.isDirectory() && !others.includes(entry.name);
  const names = below ? readdirSync(new URL(entry.name, folder)).map((name) => `${entry.name}/${name}`) : [entry.name];
  return names.filter((name) => name.endsWith(".js"));
});

test("every_module_says_the_same_without_its_comments", () => {
  assert.ok(modules.length > 20);
  for (const name of modules) {
    const source = readFileSync(new URL(name, folder), "utf8");
    // As the gateway does it.
    let inComment = false;
    const lean = source.split("\n").map((line) => {
      line = line.trim();
      const begins = line.startsWith("/*");
      const left = inComment || begins || line.startsWith("//") ? "" : line;
      inComment = (inComment || begins) && !line.endsWith("*/");
      return left;
    });
    assert.deepEqual(tokens(lean.join("\n")), tokens(source), name);
  }
});

/**
 * The module's words, without comments. Blanks at a line's beginning say nothing, also in markup.
 *
 * @param {string} source
 */
function tokens(source) {
  const options = {
    languageVersion: ts.ScriptTarget.ES2022,
    jsDocParsingMode: ts.JSDocParsingMode.ParseNone,
  };
  const file = ts.createSourceFile("module.js", source, options, true, ts.ScriptKind.JS);
  /** @type {string[]} */
  const found = [];
  /** @param {ts.Node} node */
  function visit(node) {
    const isWord = ts.isTokenKind(node.kind) || ts.isTemplateLiteralToken(node);
    found.push(isWord ? node.getText(file).replaceAll(/\n\s*/g, "\n") : ts.SyntaxKind[node.kind]);
    ts.forEachChild(node, visit);
  }
  visit(file);
  return found;
}
