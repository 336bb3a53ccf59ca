// Builds the page's program and style sheet into the Python package, with the licenses of its dependencies, and a list of
// checksums by which a test without node can check that the bundle was built from these sources.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "../geosiam/report/bundle");
const ALSO = ["package.json", "package-lock.json", "tsconfig.json", "build.mjs"];

mkdirSync(target, { recursive: true });
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.tsx" },
  outdir: target,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome123", "firefox120", "safari17.5"], // the first with light-dark() in style sheets
  legalComments: "none", // all of them stand in THIRD_PARTY.txt, complete
  metafile: true,
});

writeFileSync(join(target, "THIRD_PARTY.txt"), notices(packages(metafile)));
const listed = { sources: checksums(here, [...ALSO, ...sources()]), bundle: checksums(target, outputs()) };
writeFileSync(join(target, "manifest.json"), `${JSON.stringify(listed, null, 2)}\n`);

function sources() {
  const files = readdirSync(join(here, "src"), { recursive: true, withFileTypes: true }).filter((file) =>
    file.isFile(),
  );
  return files.map(({ parentPath, name }) => relative(here, join(parentPath, name)));
}

function outputs() {
  const names = ["page.js", "page.css", "THIRD_PARTY.txt"];
  // What ends the element that holds it would end the program.
  if (names.slice(0, 2).some((name) => /<\/(script|style)|<!--/i.test(readFileSync(join(target, name), "utf8")))) {
    throw new Error("the bundle cannot stand inside a page");
  }
  return names;
}

/** The folders of the packages of which at least a byte is in the bundle. */
function packages({ outputs, inputs }) {
  const used = Object.values(outputs).flatMap((output) =>
    Object.entries(output.inputs).flatMap(([path, { bytesInOutput }]) => (bytesInOutput && inputs[path] ? [path] : [])),
  );
  const folders = used.flatMap((path) => path.match(/^node_modules\/(?:@[^/]+\/)?[^/]+/) ?? []);
  return [...new Set(folders)].sort();
}

function notices(folders) {
  const parts = folders.map((folder) => {
    const about = JSON.parse(readFileSync(join(here, folder, "package.json"), "utf8"));
    const file = readdirSync(join(here, folder)).find((name) => /^licen[cs]e(\.|$)/i.test(name));
    const text = file ? readFileSync(join(here, folder, file), "utf8").trim() : `License: ${about.license}`;
    return `${about.name} ${about.version} (${about.license})\n\n${text.replaceAll("\r\n", "\n")}\n`;
  });
  const rule = `\n${"-".repeat(80)}\n\n`;
  return ["This page holds parts of these works, each under its own license.\n", ...parts].join(rule);
}

function checksums(folder, names) {
  const sum = (name) =>
    createHash("sha256")
      .update(readFileSync(join(folder, name)))
      .digest("hex");
  return Object.fromEntries(
    names
      .map((name) => name.replaceAll("\\", "/"))
      .sort()
      .map((name) => [name, sum(name)]),
  );
}
