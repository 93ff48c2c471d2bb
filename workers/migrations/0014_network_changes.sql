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
