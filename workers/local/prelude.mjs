// Evaluated before pyodide.mjs. A Worker's top level has no I/O, timers or entropy, and workerd looks like Node to Pyodide:
// what would mislead it is hidden until the interpreter is up, then `reveal()` puts everything back.
const HIDDEN = ["process", "MessageChannel", "fetch", "location", "addEventListener", "setTimeout"];
const kept = new Map(HIDDEN.map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]));

export const realFetch = globalThis.fetch;
export const realSetTimeout = globalThis.setTimeout;

export function replace(name, value) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: true });
}

// A shared MessageChannel would tie every asyncio wake-up to the request that made it.
replace("process", undefined);
replace("MessageChannel", undefined);

// No background compilation settles at top level; the one small module that Pyodide compiles from bytes is optional.
const realCompile = WebAssembly.compile;
WebAssembly.compile = async () => {
  throw new WebAssembly.CompileError("not at top level");
};

export function reveal() {
  WebAssembly.compile = realCompile;
  for (const [name, descriptor] of kept) {
    if (descriptor) Object.defineProperty(globalThis, name, descriptor);
    else delete globalThis[name];
  }
}
