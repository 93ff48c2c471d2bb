-- Where the records of each tenant are. Read in the database that is bound as DB; the others have the table and leave it empty.
CREATE TABLE placements (
  tenant    TEXT PRIMARY KEY,
  shard     TEXT NOT NULL,                       -- the binding of the database that has them
  moving_to TEXT NOT NULL DEFAULT '',            -- of the one to which they are copied; empty: they are not
  erasing   TEXT NOT NULL DEFAULT ''             -- of one with a copy that counts no more; empty: there is none
);
-- The audit of a tenant that was deleted stays where it is.
INSERT INTO placements (tenant, shard) SELECT tenant, 'DB' FROM tenants
  UNION SELECT tenant, 'DB' FROM audit_segments UNION SELECT tenant, 'DB' FROM audit_retention;
