-- Durable records of the fabric. Every write of a tenant goes through that tenant's Durable Object, which serializes
-- them; the constraints below hold even so. Binary columns are base64 text: D1 hands BLOBs to Python as number arrays.

CREATE TABLE tenants (
  tenant     TEXT PRIMARY KEY,
  created_at INTEGER NOT NULL,
  revision   INTEGER NOT NULL DEFAULT 0          -- grows with every change nodes must fetch
);

CREATE TABLE vnis (
  vni        INTEGER PRIMARY KEY CHECK (vni BETWEEN 1 AND 16777215),   -- unique in the whole fabric
  tenant     TEXT NOT NULL REFERENCES tenants (tenant),
  name       TEXT NOT NULL,
  prefixes   TEXT NOT NULL,                      -- JSON list
  mtu        INTEGER NOT NULL,
  dns_suffix TEXT NOT NULL,
  routes     TEXT NOT NULL,                      -- JSON list of {prefix, via}
  created_at INTEGER NOT NULL,
  UNIQUE (tenant, name)
);

CREATE TABLE lease_cursors (
  vni    INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  prefix TEXT NOT NULL,
  next   TEXT NOT NULL,                          -- host number; only ever grows. Text: an IPv6 host number exceeds 64 bits
  PRIMARY KEY (vni, prefix)
);

CREATE TABLE tokens (
  token_id    TEXT PRIMARY KEY,
  tenant      TEXT NOT NULL REFERENCES tenants (tenant),
  role        TEXT NOT NULL CHECK (role IN ('endpoint', 'gateway')),
  secret_hash TEXT NOT NULL,                     -- SHA-256, base64
  uses        INTEGER NOT NULL CHECK (uses >= 1),
  used        INTEGER NOT NULL DEFAULT 0 CHECK (used <= uses),   -- a use too many aborts the whole batch
  expires_at  INTEGER NOT NULL,
  vnis        TEXT NOT NULL,                     -- JSON list of names
  tags        TEXT NOT NULL,
  groups      TEXT NOT NULL,
  owner       TEXT NOT NULL,
  label       TEXT NOT NULL,
  created_at  INTEGER NOT NULL
);
CREATE INDEX tokens_by_tenant ON tokens (tenant, token_id);

CREATE TABLE devices (
  tenant          TEXT NOT NULL REFERENCES tenants (tenant),
  node            TEXT NOT NULL,
  role            TEXT NOT NULL CHECK (role IN ('endpoint', 'gateway')),
  name            TEXT NOT NULL,
  status          TEXT NOT NULL CHECK (status IN ('active', 'revoked')),
  public_key      TEXT NOT NULL,                 -- raw ML-DSA, base64
  key_fingerprint TEXT NOT NULL,                 -- SHA-256, hex
  token_id        TEXT NOT NULL,                 -- the join token that was counted for it
  tags            TEXT NOT NULL,
  groups          TEXT NOT NULL,
  owner           TEXT NOT NULL,
  serial          TEXT NOT NULL,
  not_after       INTEGER NOT NULL,
  enrolled_at     INTEGER NOT NULL,
  reason          TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (tenant, node),
  UNIQUE (tenant, key_fingerprint)               -- a revoked key never enrolls again
);

-- Certificates of devices that have not ended, and which of them are refused before their time.
CREATE TABLE certificates (
  serial       TEXT PRIMARY KEY,                 -- hex
  tenant       TEXT NOT NULL,
  node         TEXT NOT NULL,
  not_before   INTEGER NOT NULL,
  not_after    INTEGER NOT NULL,
  refused_from INTEGER,                          -- Unix seconds; NULL: it is not refused before its time
  reason       TEXT NOT NULL DEFAULT ''          -- of the refusal
);
CREATE INDEX certificates_by_node ON certificates (tenant, node);
CREATE INDEX certificates_by_end ON certificates (not_after);
CREATE INDEX certificates_refused ON certificates (tenant, not_after) WHERE refused_from IS NOT NULL;

-- The present certificate of each device, DER. The ones before it are not kept whole.
CREATE TABLE present_certificates (
  tenant TEXT NOT NULL,
  node   TEXT NOT NULL,
  der    TEXT NOT NULL,
  PRIMARY KEY (tenant, node)
);

CREATE TABLE leases (
  vni     INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  tenant  TEXT NOT NULL,
  node    TEXT NOT NULL,
  prefix  TEXT NOT NULL,
  address TEXT NOT NULL,                         -- interface address, 10.7.0.5/24
  PRIMARY KEY (vni, address),
  UNIQUE (vni, node, prefix)
);
CREATE INDEX leases_by_node ON leases (tenant, node);

-- Every address that was ever given, and to whom: it goes to that node again or to none. A lease is what holds now.
CREATE TABLE given_addresses (
  vni     INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  prefix  TEXT NOT NULL,
  address TEXT NOT NULL,                         -- interface address, 10.7.0.5/24
  node    TEXT NOT NULL,
  PRIMARY KEY (vni, address)
);
CREATE INDEX given_addresses_by_node ON given_addresses (vni, node);

-- Which devices are members of a VNI by themselves.
CREATE TABLE vni_selectors (
  vni      INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  selector TEXT NOT NULL,                        -- tag:x or group:x
  PRIMARY KEY (vni, selector)
);

-- One way of an interconnect: in `vni`, the addresses of `prefix` in VNI `other` have the names of `seen`, 1:1.
CREATE TABLE interconnects (
  vni        INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  seen       TEXT NOT NULL,
  other      INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  prefix     TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (vni, seen)
);
CREATE INDEX interconnects_by_other ON interconnects (other);

CREATE TABLE policies (
  tenant     TEXT NOT NULL REFERENCES tenants (tenant),
  version    INTEGER NOT NULL CHECK (version >= 1),
  sha384     TEXT NOT NULL,
  signature  TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (tenant, version)
);

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

-- How long a tenant keeps the text of its audit events; a tenant without a row keeps it for ever.
CREATE TABLE audit_retention (
  tenant  TEXT PRIMARY KEY,
  days    INTEGER NOT NULL CHECK (days >= 0),    -- 0: for ever
  retired INTEGER NOT NULL DEFAULT 0,            -- so many events, from the first on, are left as their leaf hashes only
  before  INTEGER NOT NULL DEFAULT 0             -- and all of them were sealed before this Unix time
);

-- Where an event of a tenant's log is stored: the events first to size - 1 are one object in R2.
CREATE TABLE audit_segments (
  tenant TEXT NOT NULL,
  first  INTEGER NOT NULL,
  size   INTEGER NOT NULL,                       -- of the log with this segment
  sha256 TEXT NOT NULL,                          -- of the object, hex
  at     INTEGER NOT NULL, in_index INTEGER NOT NULL DEFAULT 0, oldest REAL, newest REAL, windows INTEGER,                       -- when it was sealed
  PRIMARY KEY (tenant, first)
);
CREATE INDEX audit_segments_by_time ON audit_segments (tenant, at);
CREATE INDEX audit_segments_in_index ON audit_segments (tenant, first) WHERE in_index = 1;

-- Networks behind endpoints. A route is in force while its endpoint advertises it and the operator has approved it.
CREATE TABLE routes (
  vni        INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  tenant     TEXT NOT NULL,
  node       TEXT NOT NULL,                      -- the subnet router
  prefix     TEXT NOT NULL,
  advertised INTEGER NOT NULL CHECK (advertised IN (0, 1)),
  approved   INTEGER NOT NULL CHECK (approved IN (0, 1)),
  PRIMARY KEY (vni, prefix, node)
);
CREATE INDEX routes_by_node ON routes (tenant, node);

-- Scoped admin credentials. The root credential of `kairos fabric init` is none of them: its hash is a secret of the Worker.
CREATE TABLE admins (
  admin       TEXT PRIMARY KEY,
  tenant      TEXT NOT NULL,                     -- empty: all tenants
  name        TEXT NOT NULL,
  role        TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'tenant-admin')),
  secret_hash TEXT NOT NULL,                     -- SHA-256, base64
  created_at  INTEGER NOT NULL,
  created_by  TEXT NOT NULL,
  expires_at  INTEGER NOT NULL
);
CREATE INDEX admins_by_tenant ON admins (tenant, admin);

-- How a tenant's gateways are preferred; one that is not named here has priority 100 and weight 100.
CREATE TABLE gateway_ranks (
  tenant   TEXT NOT NULL,
  node     TEXT NOT NULL,
  priority INTEGER NOT NULL,                     -- lower is preferred
  weight   INTEGER NOT NULL CHECK (weight >= 1), -- share of VNIs among those of one priority
  PRIMARY KEY (tenant, node)
);

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

-- What each revision of a tenant's network changed: the keys alone, so that a node that was away fetches these and not the whole.
-- The newest revisions are kept; a node that knows none of them fetches the whole.
CREATE TABLE network_changes (
  tenant   TEXT NOT NULL,
  revision INTEGER NOT NULL,
  mark     TEXT NOT NULL,                        -- random: tells this revision from one of another history
  changed  TEXT NOT NULL,                        -- JSON: vnis, leases, members, revoked, gateways
  PRIMARY KEY (tenant, revision)
) WITHOUT ROWID;
-- Gateways, and revoked devices, are few among all devices.
CREATE INDEX devices_by_role ON devices (tenant, role, status);
-- The number that the next VNI of this database gets. It only ever grows, so a number whose VNI went elsewhere is not given twice.
-- Databases count from bases of their own: then a tenant that moves from one to another finds its numbers free.
CREATE TABLE vni_numbers (
  single INTEGER PRIMARY KEY CHECK (single = 1),
  next   INTEGER NOT NULL
);
INSERT INTO vni_numbers (single, next) SELECT 1, coalesce(max(vni), 0) + 1 FROM vnis;

-- Where the records of each tenant are. Read in the database that is bound as DB; the others have the table and leave it empty.
CREATE TABLE placements (
  tenant    TEXT PRIMARY KEY,
  shard     TEXT NOT NULL,                       -- the binding of the database that has them
  moving_to TEXT NOT NULL DEFAULT '',            -- of the one to which they are copied; empty: they are not
  erasing   TEXT NOT NULL DEFAULT ''             -- of one with a copy that counts no more; empty: there is none
);
