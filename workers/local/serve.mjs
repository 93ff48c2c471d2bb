// One Worker in one workerd process: `node serve.mjs PLAN`. PLAN is JSON made by kairos_cli/fabric/plan.py. Writes
// {"ready": URL, "inspector": URL} on standard output when it answers, and stops cleanly on SIGTERM or when standard input closes. The
// inspector is V8's; it runs where PLAN.meter is set. SIGUSR2 runs the Worker's crons at once.
// `node serve.mjs PLAN snapshot` makes the memory snapshot instead.
import { appendFileSync, existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { mkdir, readFile, readdir, rename, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { Miniflare, convertV4MiniflareOptions } from "miniflare";

const here = import.meta.dirname;
const pyodide = path.dirname(createRequire(import.meta.url).resolve("pyodide/package.json"));
const plan = JSON.parse(await readFile(process.argv[2], "utf8"));
const makeSnapshot = process.argv[3] === "snapshot";

function text(type, name, contents) {
  return { type, path: path.join(here, name), contents };
}

async function file(type, source, name = path.basename(source)) {
  const contents = await readFile(source, type === "ESModule" || type === "Text" ? "utf8" : null);
  return text(type, name, contents);
}

function entry() {
  if (makeSnapshot)
    return 'import { takeSnapshot } from "./host.mjs";\nexport default { fetch: () => new Response(takeSnapshot()) };';
  if (plan.importOnRequest)
    return 'import { importMain } from "./host.mjs";\nexport default { fetch: () => { importMain(); return new Response("imported"); } };';
  return [
    'import { durableObject, entrypoint } from "./host.mjs";',
    'export default class extends entrypoint("Default") {}',
    ...plan.classes.map((name) => `export class ${name} extends durableObject("${name}") {}`),
  ].join("\n");
}

async function modules() {
  const imports = plan.extensions.map((_, i) => `import m${i} from "./extension${i}.wasm";\n`).join("");
  const table = plan.extensions.map(({ path: at }, i) => `[${JSON.stringify(at)}, m${i}]`);
  const settings = { main: plan.main, makeSnapshot, warm: plan.warm, limits: plan.limits, meter: plan.meter, importOnRequest: plan.importOnRequest };
  return [
    text("ESModule", "worker.mjs", entry()),
    await file("ESModule", path.join(here, "prelude.mjs")),
    await file("ESModule", path.join(here, "host.mjs")),
    await file("ESModule", path.join(here, "limits.mjs")),
    await file("ESModule", path.join(here, "meter.mjs")),
    text("Text", "settings.json", JSON.stringify(settings)),
    text("ESModule", "extensions.mjs", `${imports}export default [${table}];`),
    text("Data", "snapshot.bin", makeSnapshot || !plan.snapshot ? Buffer.alloc(0) : await readFile(plan.snapshot)),
    await file("Data", plan.bundle, "bundle.zip"),
    await file("ESModule", path.join(pyodide, "pyodide.mjs")),
    await file("ESModule", path.join(pyodide, "pyodide.asm.mjs")),
    await file("CompiledWasm", path.join(pyodide, "pyodide.asm.wasm")),
    await file("Data", path.join(pyodide, "python_stdlib.zip")),
    await file("Text", path.join(pyodide, "pyodide-lock.json")),
    ...(await Promise.all(plan.extensions.map(({ file: at }, i) => file("CompiledWasm", at, `extension${i}.wasm`)))),
  ];
}

// Standard error is the log. What limits.mjs reports goes to a file as well: PLAN.faults has a line of JSON for each limit that was exceeded and
// each exception that nobody caught, PLAN.most the most that any one invocation asked of its bindings.
const most = existsSync(plan.most) ? JSON.parse(readFileSync(plan.most, "utf8")) : {};
function logged({ level, message }) {
  const [, kind, json] = /^kairos-(fault|most) (.*)$/s.exec(message) ?? [];
  if (kind === "fault") {
    const fault = JSON.parse(json);
    appendFileSync(plan.faults, `${json}\n`);
    console.error(fault.kind === "limit" ? `limit: ${fault.name}: ${fault.place}: ${fault.value} > ${fault.limit}` : `uncaught in ${fault.place}: ${fault.text}`);
  } else if (kind === "most") {
    const { name, ...what } = JSON.parse(json);
    if (what.value <= (most[name]?.value ?? 0)) return; // a Worker that was started again begins to count anew
    most[name] = what;
    writeFileSync(`${plan.most}.partial`, JSON.stringify(most)); // whole or not at all: a kill in between left a file that no start could read
    renameSync(`${plan.most}.partial`, plan.most);
  } else console.error(`${level}: ${message}`);
}

async function start() {
  const inspected = plan.meter ? { inspectorPort: 0 } : {};
  const bound = makeSnapshot ? {} : { ...plan.bindings, ...inspected, resourcePersistencePath: plan.state, host: plan.host, port: plan.port };
  const common = {
    name: plan.name,
    compatibilityDate: plan.compatibilityDate,
    compatibilityFlags: plan.compatibilityFlags,
    cf: false,
    modulesRoot: here,
    modules: await modules(),
    handleStructuredLogs: logged,
  };
  return new Miniflare(convertV4MiniflareOptions({ ...common, ...bound }));
}

// Before the Worker runs: it refuses each call until the database has its schema, and nodes call at once.
async function migrateFirst() {
  const script = 'export default { fetch: () => new Response() };';
  const { d1Databases } = plan.bindings;
  const own = { name: `${plan.name}-migrations`, compatibilityDate: plan.compatibilityDate, modulesRoot: here, cf: false };
  const modules = [text("ESModule", "migrations.mjs", script)];
  const bound = { d1Databases, resourcePersistencePath: plan.state };
  const miniflare = new Miniflare(convertV4MiniflareOptions({ ...own, modules, ...bound }));
  for (const each of plan.migrations) await migrate(miniflare, each);
  await miniflare.dispose();
}

async function migrate(miniflare, { binding, folder }) {
  const database = await miniflare.getD1Database(binding);
  await database.prepare("CREATE TABLE IF NOT EXISTS d1_migrations (name TEXT PRIMARY KEY)").run();
  const { results } = await database.prepare("SELECT name FROM d1_migrations").all();
  const applied = new Set(results.map((row) => row.name));
  for (const name of (await readdir(folder)).sort()) {
    if (applied.has(name)) continue;
    const source = await readFile(path.join(folder, name), "utf8");
    const statements = source.replace(/--.*$/gm, "").split(";").filter((each) => each.trim());
    const record = database.prepare("INSERT INTO d1_migrations (name) VALUES (?)").bind(name);
    await database.batch([...statements.map((each) => database.prepare(each)), record]); // all of it or nothing
  }
}

async function runCrons(miniflare) {
  const worker = await miniflare.getWorker();
  const run = (isDue) => {
    for (const cron of plan.crons) {
      const every = Number(/^\*\/(\d+) \* \* \* \*$/.exec(cron)?.[1] ?? 60); // others: once an hour
      if (isDue(every)) worker.scheduled({ cron }).catch((error) => console.error(`cron ${cron}: ${error}`));
    }
  };
  // What is measured is asked for: no sweep may come in between.
  if (!plan.meter) setInterval(() => run((every) => new Date().getMinutes() % every === 0), 60_000).unref();
  process.on("SIGUSR2", () => run(() => true)); // now
}

async function writeSnapshot(miniflare) {
  const answer = await miniflare.dispatchFetch("http://local/");
  const bytes = Buffer.from(await answer.arrayBuffer());
  if (answer.status !== 200) throw new Error(bytes.toString());
  await mkdir(path.dirname(plan.snapshot), { recursive: true });
  const partial = `${plan.snapshot}.${process.pid}.partial`; // two first starts may make it at the same time
  await writeFile(partial, bytes);
  await rename(partial, plan.snapshot);
}

if (plan.migrations?.length && !makeSnapshot) await migrateFirst();
const miniflare = await start();
if (makeSnapshot) {
  await writeSnapshot(miniflare);
  await miniflare.dispose();
} else {
  const stop = async () => {
    await miniflare.dispose();
    process.exit(0);
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  process.stdin.on("end", stop).resume(); // the process that started this one has ended
  await miniflare.ready;
  if (plan.crons.length) await runCrons(miniflare);
  const inspector = plan.meter ? String(await miniflare.getInspectorURL()) : "";
  process.stdout.write(`${JSON.stringify({ ready: String(await miniflare.ready), inspector })}\n`);
}
