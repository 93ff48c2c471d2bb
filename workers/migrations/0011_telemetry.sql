-- How nodes were doing: what each said once a minute, for a day, and the hours made of it, for a month. Nothing is decided by it.
CREATE TABLE telemetry_minutes (
  tenant         TEXT NOT NULL,
  node           TEXT NOT NULL,
  at             INTEGER NOT NULL,               -- when the fabric got it
  relay          INTEGER NOT NULL,               -- tunnels by path
  direct         INTEGER NOT NULL,
  tx_bytes_per_s REAL NOT NULL,
  rx_bytes_per_s REAL NOT NULL,
  decisions      INTEGER NOT NULL,
  decision_ms    REAL NOT NULL,
  handshakes     INTEGER NOT NULL,
  handshake_ms   REAL NOT NULL,
  cpu            REAL NOT NULL,
  memory_bytes   INTEGER NOT NULL,
  drops          TEXT NOT NULL,                  -- JSON object, counts by name
  PRIMARY KEY (tenant, node, at)
);

CREATE TABLE telemetry_hours (
  tenant           TEXT NOT NULL,
  node             TEXT NOT NULL,
  at               INTEGER NOT NULL,             -- when the hour began
  samples          INTEGER NOT NULL,
  relay            REAL NOT NULL,
  direct           REAL NOT NULL,
  tx_bytes_per_s   REAL NOT NULL,
  rx_bytes_per_s   REAL NOT NULL,
  decisions        INTEGER NOT NULL,
  decision_ms      REAL NOT NULL,
  decision_ms_max  REAL NOT NULL,                -- of the minutes' means
  handshakes       INTEGER NOT NULL,
  handshake_ms     REAL NOT NULL,
  handshake_ms_max REAL NOT NULL,
  cpu              REAL NOT NULL,
  memory_bytes     INTEGER NOT NULL,             -- the highest
  drops            TEXT NOT NULL,
  PRIMARY KEY (tenant, node, at)
);
