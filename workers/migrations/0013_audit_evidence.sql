-- The text of audit events is in R2 alone. Every event of the former table is in its tenant's log and is found there: segments that are not
-- indexed are read, and housekeeping indexes them again, the newest first.
DROP TABLE audit;

CREATE TABLE audit_index (
  tenant   TEXT NOT NULL,
  position INTEGER NOT NULL,                     -- in the tenant's log
  at       REAL NOT NULL,                        -- Unix seconds by the source's clock
  source   TEXT NOT NULL,                        -- of these four at most 128 characters
  kind     TEXT NOT NULL,
  actor    TEXT NOT NULL,
  subject  TEXT NOT NULL,
  vni      INTEGER,
  segment  INTEGER NOT NULL,                     -- the first position of the event's segment
  start    INTEGER NOT NULL,                     -- bytes of the segment before the event
  length   INTEGER NOT NULL,                     -- bytes of the event
  PRIMARY KEY (tenant, position)
) WITHOUT ROWID;
CREATE INDEX audit_index_by_kind ON audit_index (tenant, kind, position);
CREATE INDEX audit_index_by_source ON audit_index (tenant, source, position);
CREATE INDEX audit_index_by_actor ON audit_index (tenant, actor, position) WHERE actor <> '';
CREATE INDEX audit_index_by_subject ON audit_index (tenant, subject, position) WHERE subject <> '';
CREATE INDEX audit_index_by_vni ON audit_index (tenant, vni, position) WHERE vni IS NOT NULL;

ALTER TABLE audit_segments ADD COLUMN in_index INTEGER NOT NULL DEFAULT 0; -- 1: audit_index has its events
ALTER TABLE audit_segments ADD COLUMN oldest REAL;                         -- of its events' `at`; NULL: not looked at
ALTER TABLE audit_segments ADD COLUMN newest REAL;
ALTER TABLE audit_segments ADD COLUMN windows INTEGER;                     -- how many of its events are windows of flows
CREATE INDEX audit_segments_by_time ON audit_segments (tenant, at);
CREATE INDEX audit_segments_in_index ON audit_segments (tenant, first) WHERE in_index = 1;

-- What the fabric itself did, until each tenant's object has copied what concerns it.
CREATE TABLE fabric_events (
  seq    INTEGER PRIMARY KEY AUTOINCREMENT,
  scope  TEXT NOT NULL,                          -- a tenant; '': every tenant; '-': none
  source TEXT NOT NULL,
  id     TEXT NOT NULL,
  at     REAL NOT NULL,
  event  TEXT NOT NULL,                          -- JSON
  count  INTEGER NOT NULL DEFAULT 1,
  UNIQUE (scope, source, id)
);
CREATE INDEX fabric_events_by_scope ON fabric_events (scope, seq);
CREATE INDEX fabric_events_by_time ON fabric_events (at);

-- Up to which time the two ends of a tenant's flows were compared.
CREATE TABLE ledger_checks (
  tenant TEXT PRIMARY KEY,
  until  INTEGER NOT NULL
);

-- Queue messages that could not be handled; a bounded number of them.
CREATE TABLE dead_letters (
  seq    INTEGER PRIMARY KEY AUTOINCREMENT,
  queue  TEXT NOT NULL,
  at     INTEGER NOT NULL,
  reason TEXT NOT NULL,
  body   TEXT NOT NULL
);

-- What a tenant's object has not brought to R2 and the index yet, and what it refused; written when it changes.
CREATE TABLE audit_states (
  tenant  TEXT PRIMARY KEY,
  waiting INTEGER NOT NULL,                      -- events
  refused INTEGER NOT NULL                       -- calls, since the object exists
);
