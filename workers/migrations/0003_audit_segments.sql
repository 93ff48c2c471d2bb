-- Where an event of a tenant's log is stored: the events first to size - 1 are one object in R2.

CREATE TABLE audit_segments (
  tenant TEXT NOT NULL,
  first  INTEGER NOT NULL,
  size   INTEGER NOT NULL,                       -- of the log with this segment
  sha256 TEXT NOT NULL,                          -- of the object, hex
  at     INTEGER NOT NULL,                       -- when it was sealed
  PRIMARY KEY (tenant, first)
);
