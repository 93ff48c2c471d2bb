-- How long a tenant keeps the text of its audit events; a tenant without a row keeps it for ever.
CREATE TABLE audit_retention (
  tenant  TEXT PRIMARY KEY,
  days    INTEGER NOT NULL CHECK (days >= 0),    -- 0: for ever
  retired INTEGER NOT NULL DEFAULT 0,            -- so many events, from the first on, are left as their leaf hashes only
  before  INTEGER NOT NULL DEFAULT 0             -- and all of them were sealed before this Unix time
);
