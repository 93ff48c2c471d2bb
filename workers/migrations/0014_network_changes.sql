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
