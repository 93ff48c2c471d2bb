// Runs a Python Worker written for Cloudflare's native Python Workers on the npm package `pyodide`, as plain modules in workerd
// (docs/design/0006-local-fabric.md). Python finds what the native runtime gives it: the modules `_pyodide_entrypoint_helper` and
// `_cloudflare_compat_flags`, its sources in /session/metadata, packages in /session/metadata/python_modules.
import { countCall, meterEnvironment, meterObject, report, USAGE_PATH } from "./meter.mjs";
import { realFetch, realSetTimeout, replace, reveal } from "./prelude.mjs";
import { loadPyodide } from "./pyodide.mjs";
import createPyodideModule from "./pyodide.asm.mjs";
import wasm from "./pyodide.asm.wasm";
import stdlib from "./python_stdlib.zip";
import lockText from "./pyodide-lock.json";
import bundle from "./bundle.zip";
import snapshot from "./snapshot.bin";
import * as cloudflareWorkers from "cloudflare:workers";
import * as cloudflareSockets from "cloudflare:sockets";
import settingsText from "./settings.json";
import extensions from "./extensions.mjs"; // [[path in Python's file system, WebAssembly.Module]]
import { Limits, reportException } from "./limits.mjs";

const { main, makeSnapshot, meter, warm, limits: numbers, importOnRequest } = JSON.parse(settingsText);
const INDEX = "http://pyodide.invalid/";
const SOURCES = "/session/metadata";

const flags = {
  python_workflows_implicit_dependencies: true,
  python_request_headers_preserve_commas: true,
  python_no_global_handlers: true,
  enable_python_external_sdk: true,
};

const patched = new WeakSet();
function patchWaitUntil(ctx) {
  if (Object.prototype.toString.call(ctx) !== "[object ExecutionContext]" || patched.has(ctx)) return;
  const waitUntil = ctx.waitUntil.bind(ctx);
  ctx.waitUntil = (promise) =>
    waitUntil(
      (async () => {
        const own = "copy" in promise ? promise.copy() : promise; // the caller's proxy dies with its frame
        await watched("waitUntil", () => own);
        own.destroy?.();
      })(),
    );
  patched.add(ctx);
}

// An object's context is not patched by the native runtime, and not here: what is given to it must live long enough.
function watchWaitUntil(ctx, name) {
  const waitUntil = ctx.waitUntil.bind(ctx);
  ctx.waitUntil = (promise) => waitUntil(watched(`${name}.waitUntil`, () => promise));
}

// Reports what a handler throws; the runtime handles it as usual.
async function watched(place, call) {
  try {
    return await call();
  } catch (error) {
    reportException(place, error);
    throw error;
  }
}

const helper = {
  doAnImport: async (name) =>
    ({ "cloudflare:workers": cloudflareWorkers, "cloudflare:sockets": cloudflareSockets })[name] ?? import(name),
  cloudflareWorkersModule: cloudflareWorkers,
  cloudflareSocketsModule: cloudflareSockets,
  workerEntrypoint: cloudflareWorkers.WorkerEntrypoint,
  patchWaitUntil,
};

// JavaScript objects that Python modules hold are written into a snapshot as [root, key].
const roots = { helper, flags, cloudflareWorkers, cloudflareSockets };
function serialize(object) {
  for (const [name, root] of Object.entries(roots)) {
    if (object === root) return [name];
    const key = Reflect.ownKeys(root).find((each) => typeof each === "string" && root[each] === object);
    if (key !== undefined) return [name, key];
  }
  throw new Error(`a snapshot cannot hold this JavaScript object: ${String(object).slice(0, 200)}`);
}
const deserialize = ([root, key]) => (key === undefined ? roots[root] : roots[root][key]);

const GLUE = `
from contextvars import ContextVar
from inspect import isawaitable
from pyodide.code import relaxed_call
from workers import python_from_rpc, python_to_rpc

_ledger = ContextVar("ledger", default=None)

def current_ledger():
    return _ledger.get()

async def rpc_call(ledger, relaxed, instance, name, *args):
    _ledger.set(ledger)
    method = getattr(instance, name, None)
    if not callable(method):
        raise TypeError(f"Method {name} does not exist")
    values = [python_from_rpc(a) for a in args]
    result = relaxed_call(method, *values) if relaxed else method(*values)
    if isawaitable(result):
        result = await result
    return python_to_rpc(result)
`;

// Extension modules are linked before Python's main() runs, in one order with and without a snapshot, so that they get the same memory
// and table addresses in both.
function createModule(settings) {
  settings.onRuntimeInitialized = () => {
    // INITIAL_MEMORY has no effect on this build: grow to the snapshot's heap before it is copied in.
    if (snapshot.byteLength) settings.growMemory(snapshot.byteLength - new Uint32Array(snapshot, 0, 2)[1]);
    for (const [path, module] of extensions) {
      const library = settings.newDSO(path, undefined, "loading");
      library.global = false;
      const how = { global: false, nodelete: true, loadAsync: false };
      library.exports = settings.loadWebAssemblyModule(module, how, path, {}, undefined);
    }
  };
  return createPyodideModule(settings);
}

let entropyOpen = false;
function arrangeTopLevel() {
  replace("location", INDEX);
  replace("addEventListener", () => {});
  // Pyodide's own files come from here; a snapshot's `from js import fetch` keeps this function, so the rest goes to the real one.
  const own = { ok: true, status: 200, url: INDEX, arrayBuffer: async () => stdlib };
  replace("fetch", async (url, ...rest) => (String(url?.url ?? url).startsWith(INDEX) ? own : realFetch(url, ...rest)));
  const fill = crypto.getRandomValues.bind(crypto);
  crypto.getRandomValues = (array) => {
    if (entropyOpen) return fill(array);
    new Uint8Array(array.buffer, array.byteOffset, array.byteLength).fill(43); // reseeded before the first request
    return array;
  };
  WebAssembly.instantiateStreaming = async (_, imports) => ({
    module: wasm,
    instance: new WebAssembly.Instance(wasm, imports),
  });
}

// asyncio's call_soon: a microtask stays in the request's context, and there are no timers at top level.
const soon = (callback, ms, ...rest) => (ms > 0 ? realSetTimeout(callback, ms, ...rest) : (queueMicrotask(callback), 0));

async function boot() {
  arrangeTopLevel();
  replace("setTimeout", soon);
  const python = await loadPyodide({
    indexURL: INDEX,
    createPyodideModule: createModule,
    lockFileContents: JSON.parse(lockText),
    env: { HOME: "/session", PYTHONHASHSEED: "111" },
    ...(makeSnapshot ? { _makeSnapshot: true } : {}),
    ...(snapshot.byteLength ? { _loadSnapshot: new Uint8Array(snapshot), _snapshotDeserializer: deserialize } : {}),
  });
  reveal();
  replace("setTimeout", soon);
  python.FS.mkdirTree(SOURCES);
  python.unpackArchive(bundle, "zip", { extractDir: SOURCES });
  if (snapshot.byteLength) python.runPython("import importlib; importlib.invalidate_caches()");
  else {
    python.registerJsModule("_pyodide_entrypoint_helper", helper);
    python.registerJsModule("_cloudflare_compat_flags", flags);
    python.runPython(`
import sys
sys.path.insert(0, "${SOURCES}")
sys.path.insert(next(i for i, p in enumerate(sys.path) if "site-packages" in p), "${SOURCES}/python_modules")
`);
  }
  if (makeSnapshot) {
    python.runPython(`${GLUE}\nimport asyncio, json, ${warm.join(", ")}`);
    return { python };
  }
  if (importOnRequest) return { python };
  const glue = python.runPython("{}");
  python.runPython(GLUE, { globals: glue });
  return { python, application: python.pyimport(main), call: glue.get("rpc_call"), currentLedger: glue.get("current_ledger") };
}

const { python, application, call, currentLedger } = await boot();
const limits = new Limits(numbers ?? {}, () => currentLedger());
if (!makeSnapshot) globalThis.addEventListener("unhandledrejection", ({ reason }) => reportException("a promise", reason));

export const importMain = () => python.pyimport(main); // what it costs is measured from outside
export const takeSnapshot = () => python._api.makeSnapshot(serialize);

function openEntropy() {
  if (entropyOpen) return;
  entropyOpen = true;
  python.runPython("import random; random.seed()");
}

const RAW = new Set(["webSocketMessage", "webSocketClose", "webSocketError"]); // given JavaScript objects as they are
const HANDLERS = new Set(["alarm", ...RAW]); // workerd asks for each when it makes the object: absent is undefined, not an error

// A sync or async handler of a socket, with as little as can be around it: the relay's frames come this way. It takes all arguments: to
// bind them by its signature, as the native runtime does, costs more than a frame.
function socketHandler(place, handler) {
  return (...args) => {
    const message = args[1];
    const size = message?.byteLength ?? message?.length;
    if (size > limits.limits.SOCKET_MESSAGE_BYTES) limits.refuse("SOCKET_MESSAGE_BYTES", place, size, limits.limits.SOCKET_MESSAGE_BYTES);
    try {
      const result = handler(...args);
      return typeof result?.then === "function" ? watched(place, () => result) : result;
    } catch (error) {
      reportException(place, error);
      throw error;
    }
  };
}

// What production's edge refuses before it calls the Worker.
function refusedAtTheEdge(request) {
  const size = Number(request.headers?.get("content-length") ?? 0);
  if (size > limits.limits.BODY_BYTES) return new Response("Request Entity Too Large", { status: 413 });
  if (request.url?.length > limits.limits.URL_BYTES) return new Response("URI Too Long", { status: 414 });
  return undefined;
}

function placeOf(name, property, [first]) {
  if (property === "fetch") return `${name}.fetch ${first?.method} ${new URL(first.url).pathname}`;
  return property === "queue" ? `${name}.queue ${first?.queue}` : `${name}.${property}`;
}

function bridged(Base, name, keeps) {
  return class extends Base {
    constructor(ctx, env) {
      super(ctx, env);
      openEntropy();
      if (meter) meterEnvironment(env); // below the limits, whose wrappers call what they find
      if (meter && keeps) meterObject(ctx);
      limits.env(env);
      if (keeps) {
        limits.storage(ctx, name);
        watchWaitUntil(ctx, name);
      }
      // A Durable Object keeps its Python object; an entrypoint's is released after its last call, for the collector does not
      // keep up with one proxy a request.
      let instance = keeps ? application[name](ctx, env) : undefined;
      let running = 0;
      const handlers = new Map();
      const invoke = async (property, args) => {
        if (meter && property === "fetch" && new URL(args[0].url).pathname === USAGE_PATH)
          return report(new URL(args[0].url).searchParams.has("collect"));
        const refusal = property === "fetch" && !keeps && refusedAtTheEdge(args[0]);
        if (refusal) return refusal;
        instance ??= application[name](ctx, env);
        running += 1;
        const ledger = limits.ledger(placeOf(name, property, args));
        const task = call(ledger, property === "fetch" || property === "alarm", instance, property, ...args);
        try {
          return await watched(ledger.place, () => task);
        } finally {
          limits.settle(ledger, python._module.HEAPU8.byteLength);
          if (meter) countCall(keeps ? ctx : null, property, args);
          task.destroy();
          running -= 1;
          if (!running && !keeps) {
            instance.destroy();
            instance = undefined;
          }
        }
      };
      const handler = (property) => {
        const method = instance[property];
        if (typeof method !== "function") return undefined;
        return RAW.has(property) ? socketHandler(`${name}.${property}`, method) : (...args) => invoke(property, args);
      };
      return new Proxy(this, {
        get(target, property, receiver) {
          if (typeof property !== "string") return Reflect.get(target, property, receiver);
          if (!keeps || !HANDLERS.has(property)) return (...args) => invoke(property, args);
          if (!handlers.has(property)) handlers.set(property, handler(property));
          return handlers.get(property);
        },
      });
    }
  };
}

export const durableObject = (name) => bridged(cloudflareWorkers.DurableObject, name, true);
export const entrypoint = (name) => bridged(cloudflareWorkers.WorkerEntrypoint, name, false);
