// Cloudflare's limits around a Worker's bindings (the numbers come from kairos_cli/fabric/cloudflare_limits.py, through the plan). A breach is
// thrown to the caller, as production does, and reported. What workerd and miniflare refuse by themselves (SQL statements and values, KV keys
// and values) is recognised by its message and reported as well. Methods are replaced on the native objects: the SDK knows those by their class.
//
// A report is one line of the log, `kairos-fault {...}` or `kairos-most {...}`, which serve.mjs takes out again.

const REFUSALS = [
  [/too many SQL variables|Wrong number of parameter/i, "SQL_PARAMETERS"],
  [/statement too long|SQLITE_TOOBIG.*statement/i, "SQL_STATEMENT_BYTES"],
  [/string or blob too big|SQLITE_TOOBIG/i, "SQL_VALUE_BYTES"],
  [/Value length of (\d+) exceeds limit/i, "KV_VALUE_BYTES"],
  [/message (?:length|in batch).* exceeds/i, "QUEUE_MESSAGE_BYTES"],
  [/batch size of (\d+)/i, "QUEUE_BATCH_BYTES"],
];

export function report(fault) {
  console.error(`kairos-fault ${JSON.stringify(fault)}`);
}

export function reportException(place, error) {
  if (error?.isBreach) return; // reported where it happened
  report({ kind: "exception", place, text: String(error?.stack ?? error) });
}

// `current` gives the ledger of the invocation that runs: {place, queries, subrequests, cache}.
export class Limits {
  constructor(limits, current) {
    this.limits = limits;
    this.current = current;
    this.most = new Map();
    this.written = new Map();
    this.known = new WeakSet();
  }

  ledger(place) {
    return { place, queries: 0, subrequests: 0, cache: 0 };
  }

  require(name, place, value) {
    if (value > this.limits[name]) this.refuse(name, place, value, this.limits[name]);
  }

  refuse(name, place, value, limit, text = `limit: ${name}: ${place}: ${value} > ${limit}`) {
    report({ kind: "limit", name, place, value, limit });
    throw Object.assign(new Error(text), { isBreach: true });
  }

  // The end of an invocation: its counts, where they are the highest so far of this kind of place.
  settle(ledger, memory) {
    if (memory > this.limits.MEMORY_BYTES && !this.tooLarge) {
      this.tooLarge = true;
      report({ kind: "limit", name: "MEMORY_BYTES", place: ledger.place, value: memory, limit: this.limits.MEMORY_BYTES });
    }
    for (const name of ["queries", "subrequests"]) {
      if (ledger[name] <= (this.most.get(name) ?? 0)) continue;
      this.most.set(name, ledger[name]);
      console.error(`kairos-most ${JSON.stringify({ name, place: ledger.place, value: ledger[name] })}`);
    }
  }

  count(name, limit, by = 1) {
    const ledger = this.current();
    if (!ledger) return "";
    ledger[name] += by;
    // Once: what follows in the same invocation is refused as well, but is the same breach.
    if (ledger[name] > this.limits[limit] && ledger[name] - by <= this.limits[limit]) this.refuse(limit, ledger.place, ledger[name], this.limits[limit]);
    return ledger.place;
  }

  // A method that is one subrequest, with what else there is to check before it.
  around(object, binding, method, before = () => {}) {
    const original = object[method];
    if (typeof original !== "function") return;
    const limits = this;
    Object.defineProperty(object, method, {
      configurable: true,
      value(...args) {
        const place = `${limits.count("subrequests", "SUBREQUESTS")} ${binding}.${method}`.trim();
        before(place, ...args);
        return limits.watched(place, () => original.apply(object, args));
      },
    });
  }

  // Reports a refusal of the platform by its name, at once or when its promise fails.
  watched(place, call) {
    const known = (error) => {
      const found = REFUSALS.find(([pattern]) => pattern.test(String(error?.message)));
      if (found && !error.isBreach) {
        report({ kind: "limit", name: found[1], place, value: 0, limit: this.limits[found[1]], text: String(error.message) });
        error.isBreach = true;
      }
      throw error;
    };
    try {
      const result = call();
      return typeof result?.catch === "function" && result instanceof Promise ? result.catch(known) : result;
    } catch (error) {
      return known(error);
    }
  }

  env(env) {
    if (this.known.has(env)) return env;
    this.known.add(env);
    for (const [name, binding] of Object.entries(env)) {
      const kind = binding?.constructor?.name;
      if (kind === "D1Database") this.database(binding, name);
      else if (kind === "KvNamespace") this.cache(binding, name);
      else if (kind === "WorkerQueue") this.queue(binding, name);
      else if (kind === "R2Bucket") for (const each of ["put", "get", "head", "delete", "list"]) this.around(binding, name, each);
      else if (kind === "Fetcher") this.around(binding, name, "fetch");
      else if (kind === "DurableObjectNamespace") for (const each of ["get", "getByName"]) this.around(binding, name, each);
    }
    return env;
  }

  database(database, name) {
    const prepare = database.prepare.bind(database);
    const batch = database.batch.bind(database);
    const query = (statements) => {
      const place = this.count("queries", "D1_QUERIES", statements);
      this.count("subrequests", "SUBREQUESTS");
      return `${place} ${name}`.trim();
    };
    const metered = (statement, sql) => {
      const bind = statement.bind.bind(statement);
      const replace = (method, value) => Object.defineProperty(statement, method, { configurable: true, value });
      replace("bind", (...values) => {
        const place = `${this.current()?.place ?? ""} ${name}: ${sql.slice(0, 60)}`.trim();
        this.require("SQL_PARAMETERS", place, values.length);
        for (const value of values) this.require("SQL_VALUE_BYTES", place, sizeOf(value));
        return metered(bind(...values), sql);
      });
      for (const method of ["all", "first", "run", "raw"]) {
        const original = statement[method].bind(statement);
        let inside = false; // one of these may be made of another
        replace(method, (...args) => {
          if (inside) return original(...args);
          const place = query(1);
          inside = true;
          try {
            return this.watched(place, () => original(...args));
          } finally {
            inside = false;
          }
        });
      }
      return statement;
    };
    const replace = (method, value) => Object.defineProperty(database, method, { configurable: true, value });
    replace("prepare", (sql) => {
      this.require("SQL_STATEMENT_BYTES", `${this.current()?.place ?? ""} ${name}`.trim(), sizeOf(sql));
      return metered(prepare(sql), sql);
    });
    replace("batch", (statements) => {
      const place = query(statements.length);
      return this.watched(place, () => batch(statements));
    });
  }

  cache(namespace, name) {
    const counted = () => this.count("cache", "KV_OPERATIONS");
    for (const method of ["get", "getWithMetadata", "delete", "list"]) this.around(namespace, name, method, counted);
    this.around(namespace, name, "put", (place, key) => {
      counted();
      const now = Date.now();
      const last = this.written.get(key) ?? 0;
      this.written.set(key, now);
      if (now - last < this.limits.KV_WRITE_INTERVAL_MS)
        this.refuse("KV_WRITE_INTERVAL_MS", `${place}: ${key}`, 2, 1, "KV PUT failed: 429 Too Many Requests");
    });
  }

  queue(queue, name) {
    const wire = (message, options) => this.limits.QUEUE_METADATA_BYTES + wireSize(message, options?.contentType);
    this.around(queue, name, "send", (place, body, options) =>
      this.require("QUEUE_MESSAGE_BYTES", place, wire(body, options)),
    );
    this.around(queue, name, "sendBatch", (place, messages) => {
      const sizes = [...messages].map((message) => wire(message.body, message));
      this.require("QUEUE_BATCH_MESSAGES", place, sizes.length);
      for (const size of sizes) this.require("QUEUE_MESSAGE_BYTES", place, size);
      this.require("QUEUE_BATCH_BYTES", place, sizes.reduce((sum, size) => sum + size, 0));
    });
  }

  // A Durable Object's SQLite: workerd has production's limits of a statement, so its refusals are named; a value's size it does not look at.
  storage(ctx, name) {
    const { sql } = ctx.storage;
    const exec = sql.exec.bind(sql);
    Object.defineProperty(sql, "exec", {
      configurable: true,
      value: (...args) => {
        const place = `${name} storage: ${String(args[0]).slice(0, 60)}`;
        for (const value of args) this.require("SQL_VALUE_BYTES", place, sizeOf(value));
        return this.watched(place, () => exec(...args));
      },
    });
  }
}

function wireSize(body, contentType = "json") {
  if (contentType === "bytes") return body.byteLength;
  return encoder.encode(contentType === "text" ? body : JSON.stringify(body)).byteLength;
}

const encoder = new TextEncoder();
const SHORT = 10_000; // characters: far below any limit, so their bytes need not be counted

function sizeOf(value) {
  if (typeof value === "string") return value.length < SHORT ? value.length : encoder.encode(value).byteLength;
  return value?.byteLength ?? 8;
}
