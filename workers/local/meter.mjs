// Counts what the Workers ask of the platform, in the units that Cloudflare bills: `LocalFabric(..., meter=True)`, for bench/fabric.py.
// The methods of the bindings' own classes are replaced, because Python recognizes a binding by the name of its class.
// Worker and objects share an isolate, so they share these counters.
export const USAGE_PATH = "/local/usage";

const usage = {
  d1_queries: 0, d1_rows_read: 0, d1_rows_written: 0,
  object_calls: 0, object_rows_read: 0, object_rows_written: 0, worker_calls: 0,
  kv_reads: 0, kv_writes: 0, r2_reads: 0, r2_writes: 0, r2_bytes: 0, d1_bytes: 0,
  queue_sent: 0, queue_bytes: 0, queue_taken: 0,
  pushes: 0, push_bytes: 0,
  limit_breaches: 0,
}; // prettier-ignore

const objectBytes = new Map(); // by object: how large its database is

const replaced = new WeakSet();

// around(original, arguments, name, self) runs in place of each named method of the object's class.
function replace(object, names, around) {
  const prototype = Object.getPrototypeOf(object);
  if (replaced.has(prototype)) return;
  replaced.add(prototype);
  for (const name of names) {
    const original = prototype[name];
    if (typeof original !== "function") continue;
    prototype[name] = function (...args) {
      return around((...given) => original.apply(this, given), args, name, this);
    };
  }
}

function countResult(result) {
  usage.d1_queries += 1;
  usage.d1_rows_read += result?.meta?.rows_read ?? 0;
  usage.d1_rows_written += result?.meta?.rows_written ?? 0;
  usage.d1_bytes = Math.max(usage.d1_bytes, result?.meta?.size_after ?? 0);
}

function meterDatabase(database) {
  replace(database, ["batch"], async (original, args) => {
    const results = await original(...args);
    results.forEach(countResult);
    return results;
  });
  replace(database.prepare("SELECT 1"), ["all", "run"], async (original, args) => {
    const result = await original(...args);
    countResult(result);
    return result;
  });
}

const counting = (product) => (original, args, name) => {
  usage[`${product}_${name === "get" ? "reads" : "writes"}`] += 1;
  if (product === "r2" && name === "put") usage.r2_bytes += args[1].byteLength ?? args[1].length ?? 0;
  return original(...args);
};

function meterQueue(queue) {
  replace(queue, ["send", "sendBatch"], (original, args, name) => {
    const bodies = name === "send" ? [args[0]] : [...args[0]].map((message) => message.body);
    usage.queue_sent += bodies.length;
    usage.queue_bytes += bodies.reduce((size, body) => size + new TextEncoder().encode(body).length, 0);
    return original(...args);
  });
}

const METERS = {
  D1Database: meterDatabase,
  KvNamespace: (cache) => replace(cache, ["get", "put", "delete"], counting("kv")),
  R2Bucket: (blobs) => replace(blobs, ["get", "put", "delete"], counting("r2")),
  WorkerQueue: meterQueue,
};

function meterSql(sql) {
  replace(sql, ["exec"], (original, args) => {
    const cursor = original(...args);
    replace(cursor, ["toArray"], (toArray, _, __, self) => {
      const rows = toArray();
      usage.object_rows_read += self.rowsRead;
      usage.object_rows_written += self.rowsWritten;
      return rows;
    });
    return cursor;
  });
}

export function meterEnvironment(env) {
  for (const binding of Object.values(env)) METERS[binding?.constructor?.name]?.(binding);
}

export function meterObject(ctx) {
  meterSql(ctx.storage.sql);
  replace(new WebSocketPair()[0], ["send"], (original, args) => {
    usage.pushes += 1;
    usage.push_bytes += new TextEncoder().encode(args[0]).length;
    return original(...args);
  });
}

// A call that the platform made of one of our classes has ended. ctx: of an object, null for the Worker.
export function countCall(ctx, property, args) {
  if (property === "queue") usage.queue_taken += args[0].messages.length;
  usage[ctx ? "object_calls" : "worker_calls"] += 1;
  if (ctx) objectBytes.set(ctx.id.toString(), ctx.storage.sql.databaseSize);
}

// collect: garbage is collected first, so that the inspector tells what is in use.
export function report(collect) {
  if (collect) globalThis.gc(); // a metered workerd runs with --expose-gc
  const stored = [...objectBytes.values()].reduce((sum, size) => sum + size, 0);
  return Response.json({ ...usage, object_bytes: stored, objects: objectBytes.size });
}
